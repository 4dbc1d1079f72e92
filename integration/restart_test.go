package integration

import (
	"strings"
	"testing"

	"github.com/sluice-snapshotter/sluice/integration/images"
	"github.com/sluice-snapshotter/sluice/integration/stack"
)

// TestDaemonKilled kills the daemon, turns the registry off, starts the daemon again, and reads what had been fetched.
func TestDaemonKilled(t *testing.T) {
	eachMount(t, func(t *testing.T, mount string) {
		restarts(t, mount, (*stack.Node).KillDaemon)
	})
}

// TestDaemonStopped does the same with SIGTERM.
func TestDaemonStopped(t *testing.T) {
	eachMount(t, func(t *testing.T, mount string) {
		restarts(t, mount, func(n *stack.Node) {
			if err := n.StopDaemon(); err != nil {
				t.Error(err)
			}
		})
	})
}

func restarts(t *testing.T, mount string, end func(*stack.Node)) {
	reg := registry(t)
	n := node(t, mount)
	c := lazily(stack.Container{Ref: upload(t, reg, lazyImage(t, odd), "test/odd:esgz")})
	pull(t, n, c)
	before := walk(t, n, c, images.OddDir, "/etc")

	end(n)
	if err := reg.Stop(); err != nil {
		t.Fatal(err)
	}
	if err := n.RestartDaemon(t.Context()); err != nil {
		t.Fatal(err)
	}
	sameTree(t, walk(t, n, c, images.OddDir, "/etc"), before)

	// Once more, with containerd gone as well, as after a reboot.
	end(n)
	n.KillContainerd()
	if err := n.RestartDaemon(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := n.StartContainerd(t.Context()); err != nil {
		t.Fatal(err)
	}
	sameTree(t, walk(t, n, c, images.OddDir, "/etc"), before)
}

// TestRegistryOff reads a file that was never fetched from a registry that is off: an error in the container, in time, and one
// in the log that names image and layer.
func TestRegistryOff(t *testing.T) {
	eachMount(t, func(t *testing.T, mount string) {
		reg := registry(t)
		o := daemon(mount)
		o.TOML = strings.Replace(o.TOML, "[registry]\n", "[registry]\nmax_attempts = 2\n", 1)
		n := nodeWith(t, stack.NodeOptions{Daemon: o})
		ref := upload(t, reg, lazyImage(t, odd), "test/odd:esgz")
		c := lazily(stack.Container{Ref: ref})
		pull(t, n, c)
		run(t, n, c) // fetches /probe
		if err := reg.Stop(); err != nil {
			t.Fatal(err)
		}
		c.Args = []string{"/probe", "read", fetched}
		_, err := n.Run(t.Context(), c)
		if err == nil || !strings.Contains(err.Error(), "input/output error") {
			t.Errorf("got %v, want an I/O error", err)
		}
		c.Args = nil
		if out := run(t, n, c); out != hello {
			t.Errorf("what is there: %q", out)
		}
		if err := reg.Restart(t.Context()); err != nil {
			t.Fatal(err)
		}
		readRight(t, n, ref)
	})
}

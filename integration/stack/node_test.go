package stack

import (
	"context"
	"encoding/json"
	"strings"
	"testing"

	"github.com/sluice-snapshotter/sluice/integration/images"
	"github.com/sluice-snapshotter/sluice/integration/link"
)

// start starts a registry with the pause image and the odd one, and a node without Sluice.
func start(t *testing.T, v Version) (*Registry, *Node, string) {
	t.Helper()
	reg, err := StartRegistry(t.Context(), link.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := reg.Close(); err != nil {
			t.Error(err)
		}
	})
	pause, odd := push(t, reg, images.Pause, "pause:latest"), push(t, reg, images.Odd, "test/odd:latest")
	n, err := StartNode(t.Context(), NodeOptions{Containerd: v, PauseImage: pause})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if t.Failed() {
			t.Log(n.Tail(30))
		}
		if err := n.Close(); err != nil {
			t.Error(err)
		}
	})
	return reg, n, odd
}

func push(t *testing.T, reg *Registry, make func(context.Context) (*images.Image, error), name string) string {
	t.Helper()
	im, err := make(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	ref, err := reg.Push(t.Context(), im, name)
	if err != nil {
		t.Fatal(err)
	}
	return ref
}

const hello = "hello from probe\n"

func TestCtr(t *testing.T) {
	for _, v := range []Version{Containerd2, Containerd17} {
		t.Run("containerd"+string(v), func(t *testing.T) {
			reg, n, odd := start(t, v)
			c := Container{Ref: odd}
			reg.Link.ResetCounts()
			if err := n.Pull(t.Context(), c); err != nil {
				t.Fatal(err)
			}
			if got := reg.Link.Counts().Kinds[link.Blob]; got.Bytes < 9<<20 {
				t.Errorf("pulled through the link: %+v", got)
			}
			if out, err := n.Run(t.Context(), c); err != nil || out != hello {
				t.Errorf("got %q, %v", out, err)
			}
			c.Args = []string{"/probe", "walk", "-data", images.OddDir}
			out, err := n.Run(t.Context(), c)
			if err != nil {
				t.Fatal(err)
			}
			for line := range strings.Lines(out) {
				if !json.Valid([]byte(line)) {
					t.Errorf("line %q", line)
				}
			}
			if paths := strings.Count(out, "\n"); paths < 280 {
				t.Errorf("%d paths under %s", paths, images.OddDir)
			}
			c.Args = []string{"/probe", "nonsense"}
			if out, err := n.Run(t.Context(), c); err == nil || !strings.Contains(err.Error(), "nonsense") {
				t.Errorf("a container that fails: %q, %v", out, err)
			}
		})
	}
}

func TestCRI(t *testing.T) {
	for _, v := range []Version{Containerd2, Containerd17} {
		t.Run("containerd"+string(v), func(t *testing.T) {
			_, n, odd := start(t, v)
			c, err := n.CRI(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			defer c.Close(context.WithoutCancel(t.Context()))
			if err := c.Pull(t.Context(), odd); err != nil {
				t.Fatal(err)
			}
			if out, err := c.RunPod(t.Context(), odd); err != nil || out != hello {
				t.Errorf("got %q, %v", out, err)
			}
			if out, err := c.RunPod(t.Context(), odd, "nonsense"); err == nil || !strings.Contains(err.Error(), "nonsense") {
				t.Errorf("a container that fails: %q, %v", out, err)
			}
		})
	}
}

func TestRegistryStopsAndStartsAgain(t *testing.T) {
	reg, n, odd := start(t, Containerd2)
	if err := reg.Stop(); err != nil {
		t.Fatal(err)
	}
	if err := n.Pull(t.Context(), Container{Ref: odd}); err == nil {
		t.Error("pulled from a registry that is off")
	}
	if err := reg.Restart(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := n.Pull(t.Context(), Container{Ref: odd}); err != nil {
		t.Error(err)
	}
}

func TestContainerdIsKilledAndStartsAgain(t *testing.T) {
	_, n, odd := start(t, Containerd2)
	c := Container{Ref: odd}
	if err := n.Pull(t.Context(), c); err != nil {
		t.Fatal(err)
	}
	n.KillContainerd()
	if _, err := n.Run(t.Context(), c); err == nil {
		t.Error("ran without containerd")
	}
	if err := n.StartContainerd(t.Context()); err != nil {
		t.Fatal(err)
	}
	if out, err := n.Run(t.Context(), c); err != nil || out != hello {
		t.Errorf("got %q, %v", out, err)
	}
}

func TestAPartThatDoesNotStart(t *testing.T) {
	reg, err := StartRegistry(t.Context(), link.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer reg.Close()
	_, err = StartNode(t.Context(), NodeOptions{CRI: "\n"})
	if err == nil || !strings.Contains(err.Error(), "containerd ended") {
		t.Errorf("got %v; want what containerd said", err)
	}
}

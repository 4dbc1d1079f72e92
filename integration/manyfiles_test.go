package integration

import (
	"os"
	"testing"
	"time"

	"github.com/sluice-snapshotter/sluice/integration/images"
	"github.com/sluice-snapshotter/sluice/integration/stack"
)

const (
	manyFiles = 126_000
	manyRSS   = 64 << 20 // bytes of the daemon, with as many as 20 such layers mounted

	// Of the daemon's time on the cores, which does not depend on what else the machine does. The goals of 3 s and 20 ms are for a clock, and are
	// logged.
	firstMountLimit, secondMountLimit = 4 * time.Second, 500 * time.Millisecond

	restLimit = 20 * time.Second // after work; memory is given back when there has been none for two seconds
)

// TestManyFiles mounts layers of 126,000 files, by a pull and after a restart of the daemon, and looks at what the daemon keeps in memory.
// There are twenty of them with SLUICE_TEST_ALL, which "make test-all" sets.
func TestManyFiles(t *testing.T) {
	if os.Getenv("SLUICE_RACE") != "" {
		t.Skip("the race detector's memory is ten times the daemon's: make test-all runs this test once more without it")
	}
	layers := 3
	if os.Getenv("SLUICE_TEST_ALL") != "" {
		layers = 20
	}
	im := must(t, func() (*images.Image, error) { return images.ManyFiles(t.Context(), layers, manyFiles) })
	eachMount(t, func(t *testing.T, mount string) {
		reg := registry(t)
		n := node(t, mount)
		c := lazily(stack.Container{Ref: upload(t, reg, im, "test/many:esgz")})
		began := time.Now()
		pull(t, n, c)
		took(t, n, "first", began, layers, firstMountLimit)
		small(t, n, layers)
		samplesRight(t, n, c)
		small(t, n, layers)

		n.KillDaemon()
		began = time.Now()
		if err := n.RestartDaemon(t.Context()); err != nil {
			t.Fatal(err)
		}
		took(t, n, "second", began, layers, secondMountLimit)
		small(t, n, layers)
		samplesRight(t, n, c)
	})
}

// took logs how long the mounts of all layers took, with all that comes with them: a pull, or a start of the daemon, which has done nothing else since
// it began.
func took(t *testing.T, n *stack.Node, which string, began time.Time, layers int, limit time.Duration) {
	t.Helper()
	each := time.Since(began) / time.Duration(layers)
	u, err := n.SnapshotterUsage()
	if err != nil {
		t.Fatal(err)
	}
	work := u.CPU / time.Duration(layers)
	t.Logf("%s mount: %s, %s of them on a core, for each of %d layers", which, each.Round(time.Millisecond), work.Round(time.Millisecond), layers)
	if work > limit {
		t.Errorf("%s mount: %s on a core for each layer, want at most %s", which, work, limit)
	}
}

// small checks that all layers are mounted, and what the daemon has in memory when it has come to rest.
func small(t *testing.T, n *stack.Node, layers int) {
	t.Helper()
	mounted(t, n, layers)
	deadline := time.After(restLimit)
	for tick := time.Tick(100 * time.Millisecond); ; {
		u, err := n.SnapshotterUsage()
		if err != nil {
			t.Fatal(err)
		}
		if u.RSS <= manyRSS {
			t.Logf("%d MB resident, at most %d MB so far", u.RSS>>20, u.Peak>>20)
			return
		}
		select {
		case <-tick:
		case <-deadline:
			t.Fatalf("%d bytes resident, want at most %d", u.RSS, manyRSS)
		}
	}
}

func mounted(t *testing.T, n *stack.Node, layers int) {
	t.Helper()
	s, err := n.Status(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	lazy := 0
	for _, l := range s.Layers {
		if l.Format != "estargz" { // those of the programs, which came whole
			continue
		}
		lazy++
		if l.Size < manyFiles*20 {
			t.Errorf("layer %s is of %d bytes", l.Digest, l.Size)
		}
	}
	if lazy != layers {
		t.Fatalf("%d lazy layers are mounted, want %d", lazy, layers)
	}
}

func samplesRight(t *testing.T, n *stack.Node, c stack.Container) {
	t.Helper()
	if out := run(t, n, c); out != images.SampleLine+"\n" {
		t.Errorf("the container printed %q", out)
	}
}

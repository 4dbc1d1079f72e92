package integration

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/sluice-snapshotter/sluice/integration/images"
)

// readyIn is how long a daemon may take until all of its mounts are ready.
const readyIn = time.Second

// TestManyRestarts starts the daemon again and again, after SIGTERM and after SIGKILL, with many images on the node: it asks the registry for
// nothing, has all layers mounted when it serves, which is within a second, and what was read before is read right. With SLUICE_TEST_ALL
// there are 20 images and 50 restarts.
func TestManyRestarts(t *testing.T) {
	many, restarts := 5, 10
	if os.Getenv("SLUICE_TEST_ALL") != "" {
		many, restarts = 20, 50
	}
	c := newCrashes(t, `mount = "auto"
[registry]
config_path = "$NODE/certs.d"
[fetch]
background = false
`)
	var all []*crashImage
	sn, closed := c.snapshotter(t)
	for i := range many {
		plain, err := images.Distinct(t.Context(), i)
		if err != nil {
			t.Fatal(err)
		}
		im := plain
		if i%5 > 0 { // four of five are lazy
			if im, err = convert(plain, fmt.Sprint("restarts-", i), "/probe"); err != nil {
				t.Fatal(err)
			}
		}
		all = append(all, c.subject(fmt.Sprint("image", i), im, plain))
		if err := c.pull(c.ctx, sn, all[i]); err != nil {
			t.Fatal(err)
		}
		if i%2 == 0 { // the others stay incomplete
			if _, wrong := c.read(t, all[i]); wrong > 0 {
				t.Fatal("before any restart")
			}
		}
	}
	closed()
	before, _ := c.read(t, all[0])
	s, err := c.n.Status(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	layers := len(s.Layers)
	c.reg.Link.ResetCounts()
	var took []time.Duration
	for i := range restarts {
		if i%2 == 0 {
			c.n.KillDaemon()
		} else if err := c.n.StopDaemon(); err != nil {
			t.Fatal(err)
		}
		began := time.Now()
		c.restart(t)
		took = append(took, time.Since(began))
		if s, err = c.n.Status(t.Context()); err != nil || len(s.Layers) != layers {
			t.Errorf("%d of %d layers are mounted, %v", len(s.Layers), layers, err)
		}
		for _, l := range s.Layers {
			if l.Mounts == 0 || l.Mount == "" || l.State == "failed" {
				t.Errorf("layer %s is %s, mounted %d times (%s)", l.Digest, l.State, l.Mounts, l.Mount)
			}
		}
	}
	if n := c.reg.Link.Counts().Total().Requests; n > 0 {
		t.Errorf("%d requests to the registry: %+v", n, c.reg.Link.Counts().Kinds)
	}
	slices.Sort(took)
	t.Logf("%d images of %d layers, %d restarts: ready after %s at the median, %s at most", many, layers, restarts,
		took[len(took)/2].Round(time.Millisecond), took[len(took)-1].Round(time.Millisecond))
	if slowest := took[len(took)-1]; slowest > readyIn {
		t.Errorf("ready after %s, want %s", slowest, readyIn)
	}
	if err := c.reg.Stop(); err != nil {
		t.Fatal(err)
	}
	if after, wrong := c.read(t, all[0]); after != before || wrong > 0 {
		t.Errorf("%d of %d bytes can be read without the registry", after, before)
	}
	if left, err := filepath.Glob(filepath.Join(c.n.DaemonRoot(), "layers", "tmp", "*")); err != nil || len(left) > 0 {
		t.Errorf("left behind: %v, %v", left, err)
	}
}

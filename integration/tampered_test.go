package integration

import (
	"errors"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// TestTamperedNode damages what a node has while its daemon is stopped or killed: the next one starts, and all files are right, fetched again where
// they have to be. cache.TestTampered and its neighbours do it to each file in each way.
func TestTamperedNode(t *testing.T) {
	c := newCrashes(t, `mount = "auto"
[registry]
config_path = "$NODE/certs.d"
`)
	lazy, plain := c.subject("lazy", lazyImage(t, few), plainImage(t, few)), c.subject("plain", plainImage(t, others), plainImage(t, others))
	rnd := rand.New(rand.NewPCG(9, 10))
	all := int64(0)
	for _, im := range []*crashImage{lazy, plain} {
		for _, content := range im.files {
			all += int64(len(content))
		}
	}
	sn, closed := c.snapshotter(t)
	for _, im := range []*crashImage{lazy, plain} {
		if err := c.pull(c.ctx, sn, im); err != nil {
			t.Fatal(err)
		}
	}
	closed()
	layers := filepath.Join(c.n.DaemonRoot(), "layers")
	for i, tamper := range []func(file string) error{
		func(string) error { return nil },
		func(file string) error { return flipBytes(file, rnd) },
		func(file string) error { return flipBytes(file, rnd) },
		func(file string) error { return os.Truncate(file, 100) },
		os.Remove,
	} {
		for k, name := range []string{"data", "present", "meta.erofs", "layer.json", "format older"} {
			if os.Getenv("SLUICE_TEST_ALL") == "" && (i+k)%2 == 0 {
				continue
			}
			if rnd.IntN(2) == 0 {
				c.n.KillDaemon()
			} else if err := c.n.StopDaemon(); err != nil {
				t.Fatal(err)
			}
			if name == "format older" {
				if err := os.WriteFile(filepath.Join(layers, "format"), []byte("0\n"), 0o600); err != nil {
					t.Fatal(err)
				}
			}
			for _, dir := range c.layers(t) {
				file := filepath.Join(dir, name)
				if _, err := os.Stat(file); errors.Is(err, os.ErrNotExist) {
					continue
				}
				if err := tamper(file); err != nil {
					t.Fatal(err)
				}
			}
			c.restart(t)
			// What is lost of a plain layer comes again as a whole, and is an error until then.
			eventually(t, "all is right again", func() bool {
				got, wrong := c.read(t, lazy, plain)
				if wrong > 0 {
					t.Fatalf("tampering %d with %s", i, name)
				}
				return got == all
			})
		}
	}

	eventually(t, "all lazy layers are proven, for which headers may have to be fetched", func() bool { return c.proven(t) == len(lazy.image.Manifest.Layers) })

	// A newer format is refused, each time, with the reason, and nothing is touched.
	c.n.KillDaemon()
	format := filepath.Join(layers, "format")
	if err := os.WriteFile(format, []byte("2\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		err := c.n.RestartDaemon(t.Context())
		if err == nil || !strings.Contains(err.Error(), "format version is 2") || !strings.Contains(err.Error(), layers) {
			t.Fatalf("a newer format: %v", err)
		}
	}
	if err := os.WriteFile(format, []byte("1\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	c.reg.Link.ResetCounts()
	c.restart(t)
	if got, wrong := c.read(t, lazy, plain); got != all || wrong > 0 || c.reg.Link.Counts().Total().Requests > 0 {
		t.Errorf("afterwards %d of %d bytes are right, with %d requests", got, all, c.reg.Link.Counts().Total().Requests)
	}
}

// flipBytes flips a byte in each block of 64 KiB.
func flipBytes(file string, rnd *rand.Rand) error {
	f, err := os.OpenFile(file, os.O_RDWR, 0)
	if err != nil {
		return err
	}
	defer f.Close()
	st, err := f.Stat()
	if err != nil {
		return err
	}
	b := make([]byte, 1)
	for off := int64(0); off < st.Size(); off += 64 << 10 {
		at := off + rnd.Int64N(min(64<<10, st.Size()-off))
		_, err := f.ReadAt(b, at)
		b[0] ^= 1 << rnd.IntN(8)
		_, err2 := f.WriteAt(b, at)
		if err := errors.Join(err, err2); err != nil {
			return err
		}
	}
	return nil
}

package snapshotter_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/containerd/containerd/v2/core/mount"

	"github.com/sluice-snapshotter/sluice/fs"
)

// TestBareTrees: an overlay gets those trees without xattrs that need none above what lies below them.
func TestBareTrees(t *testing.T) {
	needRoot(t)
	r := newRegistry(t)
	img := r.image(t, "app",
		r.lazyLayer(t, map[string]string{"old/file": "hidden"}),
		r.lazyLayer(t, map[string]string{"new/.wh..wh..opq": "", "new/file": "seen"}),
		r.lazyLayer(t, map[string]string{"old/.wh..wh..opq": "", "old/other": "seen"}))
	s := newStand(t, fs.FUSE, t.TempDir())
	ctx, sn := namespace(t, "test"), s.containerd()
	if _, err := img.pull(ctx, sn, "pull"); err != nil {
		t.Fatal(err)
	}
	mounts, err := sn.Prepare(ctx, "container", img.top())
	if err != nil {
		t.Fatal(err)
	}
	if strings.Count(strings.Join(mounts[0].Options, ","), "/bare/") != 2 {
		t.Errorf("mounted by %q, want the two lower layers without xattrs", mounts[0].Options)
	}
	err = mount.WithTempMount(ctx, mounts, func(root string) error {
		for name, there := range map[string]bool{"old/file": false, "old/other": true, "new/file": true} {
			if _, err := os.Lstat(filepath.Join(root, name)); (err == nil) != there {
				t.Errorf("%s: %v, want it there: %v", name, err, there)
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}

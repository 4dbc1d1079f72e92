package fs

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// link makes a symlink to dir, and returns its path.
func link(t *testing.T, dir string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "link")
	if err := os.Symlink(dir, path); err != nil {
		t.Fatal(err)
	}
	return path
}

// TestSymlink has its folders behind a symlink, as /var/run is, which the kernel's list of mounts does not have: what a dead process
// has left is found there, and nothing is left by Close.
func TestSymlink(t *testing.T) {
	l := buildBlob(t, []file{regular("file", noise(1, 1000))})
	inModes(t, func(t *testing.T, mode Mode) {
		dir := t.TempDir()
		root := link(t, dir)
		t.Cleanup(func() {
			if err := unmountBelow(dir); err != nil {
				t.Error(err)
			}
		})
		openNode(t, root, Options{Mode: mode}).close(t) // skips where the kernel cannot
		r := newRegistry(t, l)
		kill(startDaemon(t, root, mode, r, l))

		n := openNode(t, root, Options{Mode: mode})
		compare(t, n.mountLayer(t, r.source(l)), l.files)
		n.close(t)
		if left := mountsBelow(t, dir); len(left) > 0 {
			t.Errorf("mounts left: %q", left)
		}
		if left := walk1(t, filepath.Join(dir, "state", "mounts")); len(left) > 0 {
			t.Errorf("folders left: %q", left)
		}
	})
}

// TestSymlinkToColon: where a symlink leads has to do for mount options too.
func TestSymlinkToColon(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "a:b")
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	state := link(t, dir)
	o := Options{StateDir: state}
	err := o.makeFolders()
	if err == nil || !strings.Contains(err.Error(), state) || !strings.Contains(err.Error(), dir) {
		t.Errorf("error is %v, want one that names %s and %s", err, state, dir)
	}
}

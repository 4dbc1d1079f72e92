package images

import (
	"os"
	"path/filepath"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// TestUnpack makes a layer of a tree, unpacks it from an image that reuses the blob, and makes the same layer again.
func TestUnpack(t *testing.T) {
	tree := t.TempDir()
	oddTree(t, tree)
	first := alone(t, fromTree(tree))
	second := alone(t, reused{first})
	if got, want := second.Manifest.Layers[0], first.Manifest.Layers[0]; got.Digest != want.Digest || got.Size != want.Size {
		t.Errorf("the layer is %v, in the image that reuses it %v", want, got)
	}
	check(t, second)
	again := filepath.Join(t.TempDir(), "again")
	if err := unpack(t.Context(), second, again); err != nil {
		t.Fatal(err)
	}
	third := alone(t, fromTree(again))
	if got, want := third.Manifest.Layers[0].Digest, first.Manifest.Layers[0].Digest; got != want {
		t.Errorf("the layer is %s, of what was unpacked from it %s", want, got)
	}
}

// alone makes an image of one layer.
func alone(t *testing.T, l layer) *Image {
	t.Helper()
	dir := t.TempDir()
	if err := (recipe{name: "one", layers: []layer{l}}).write(t.Context(), dir); err != nil {
		t.Fatal(err)
	}
	im, err := Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	return im
}

// oddTree has what packages have that is lost easily.
func oddTree(t *testing.T, dir string) {
	t.Helper()
	at := func(name string) string { return filepath.Join(dir, name) }
	capability := string([]byte{1, 0, 0, 2, 0, 32, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0}) // cap_net_raw+ep
	for _, err := range []error{
		os.Mkdir(at("tmp"), 0o755),
		os.WriteFile(at("program"), []byte("program"), 0o755),
		os.Chown(at("program"), 12, 70_000),
		os.Link(at("program"), at("tmp/link")),
		os.Symlink("nowhere", at("symlink")),
		os.Lchown(at("symlink"), 3, 4),
		os.WriteFile(at("ping"), []byte("ping"), 0o755),
		unix.Setxattr(at("ping"), "security.capability", []byte(capability), 0),
		unix.Mknod(at("null"), unix.S_IFCHR|0o666, int(unix.Mkdev(1, 3))),
		unix.Mkfifo(at("fifo"), 0o600),
		os.WriteFile(at("su"), []byte("su"), 0o755),
		os.Chmod(at("su"), 0o755|os.ModeSetuid),
		os.Chmod(at("tmp"), 0o777|os.ModeSticky),
		os.Chtimes(at("su"), time.Unix(1_000_000_000, 0), time.Unix(1_000_000_000, 0)),
	} {
		if err != nil {
			t.Fatal(err)
		}
	}
}

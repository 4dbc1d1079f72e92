package fs

import (
	"testing"

	"golang.org/x/sys/unix"
)

// TestLost: whoever has an FS learns that it was cut off, and is not told so by Close.
func TestLost(t *testing.T) {
	n := newNode(t, Options{Mode: FUSE})
	select {
	case <-n.Lost():
		t.Fatal("lost from the beginning")
	default:
	}
	if err := unix.Unmount(n.server.dir, unix.MNT_FORCE|unix.MNT_DETACH); err != nil {
		t.Fatal(err)
	}
	await(t, "loss", n.Lost())

	n = newNode(t, Options{Mode: FUSE})
	f := n.FS
	n.close(t)
	select {
	case <-f.Lost():
		t.Error("closed, but said to be lost")
	default:
	}
}

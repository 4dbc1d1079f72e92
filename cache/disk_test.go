package cache

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"
)

// thinDisk is an ext4 that promises 256 MiB and has room for 24, and the tmpfs that has no more.
func thinDisk(t *testing.T) (root, thin string) {
	t.Helper()
	thin = t.TempDir()
	mountDisk(t, thin, "-t", "tmpfs", "-o", "size=24m", "none")
	// With a journal the file system would notice, and end.
	return loopDisk(t, filepath.Join(thin, "image"), "256M", "-O", "^has_journal"), thin
}

// loopDisk makes an ext4 in a file.
func loopDisk(t *testing.T, image, size string, options ...string) (root string) {
	t.Helper()
	root = t.TempDir()
	runTool(t, "truncate", "-s", size, image)
	runTool(t, "mkfs.ext4", append(options, "-q", "-b", "4096", "-m", "0", "-E", "lazy_itable_init=0", "-N", "128", image)...)
	mountDisk(t, root, "-o", "loop", image)
	return root
}

func mountDisk(t *testing.T, dir string, args ...string) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("mounting needs root")
	}
	runTool(t, "mount", append(args, dir)...)
	t.Cleanup(func() {
		if err := unix.Unmount(dir, unix.MNT_DETACH); err != nil {
			t.Error(err)
		}
	})
}

func runTool(t *testing.T, name string, args ...string) {
	t.Helper()
	if out, err := exec.Command(name, args...).CombinedOutput(); err != nil {
		t.Skipf("%s %v: %v %s", name, args, err, out)
	}
}

// fillDisk leaves no block free: the file that has them all is removed to have room again.
func fillDisk(t *testing.T, dir string) (filler string) {
	t.Helper()
	filler = filepath.Join(dir, "filler")
	for n, left := 1<<20, 3; left > 0; {
		wrote := appendAll(t, filler, n)
		switch { // what a file system has set aside for a file is room again when it is closed
		case n > 4096:
			n = 4096
		case !wrote:
			left--
		}
	}
	for i := 0; appendAll(t, fmt.Sprintf("%s-%d", filler, i), 1); i++ { // and what it keeps for small files
	}
	return filler
}

// appendAll appends n bytes again and again until there is no room for them, and reports whether there was for any.
func appendAll(t *testing.T, name string, n int) (wrote bool) {
	t.Helper()
	f, err := os.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	for {
		if _, err = f.Write(make([]byte, n)); err != nil {
			break
		}
		wrote = true
	}
	if !errors.Is(err, unix.ENOSPC) {
		t.Fatal(err)
	}
	_ = f.Sync()
	return wrote
}

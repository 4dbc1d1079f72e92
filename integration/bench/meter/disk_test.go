package meter

import (
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"
)

// disk is Disk after everything was written: only then files have their blocks.
func disk(t *testing.T, dir string) int64 {
	t.Helper()
	unix.Sync()
	n, err := Disk(dir)
	if err != nil {
		t.Fatal(err)
	}
	return n
}

func TestDisk(t *testing.T) {
	const (
		size  = 1 << 20
		slack = 64 << 10 // for folders
	)
	write := func(t *testing.T, path string) {
		t.Helper()
		if err := os.WriteFile(path, make([]byte, size), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	for _, c := range []struct {
		name string
		make func(t *testing.T, dir string) error
		want int64
	}{
		{"empty", func(*testing.T, string) error { return nil }, 0},
		{"two files", func(t *testing.T, dir string) error {
			write(t, filepath.Join(dir, "a"))
			err := os.Mkdir(filepath.Join(dir, "d"), 0o755)
			write(t, filepath.Join(dir, "d", "b"))
			return err
		}, 2 * size},
		{"sparse", func(t *testing.T, dir string) error {
			write(t, filepath.Join(dir, "a"))
			return os.Truncate(filepath.Join(dir, "a"), 1<<30)
		}, size},
		{"hard links", func(t *testing.T, dir string) error {
			write(t, filepath.Join(dir, "a"))
			if err := os.Mkdir(filepath.Join(dir, "d"), 0o755); err != nil {
				return err
			}
			return os.Link(filepath.Join(dir, "a"), filepath.Join(dir, "d", "b"))
		}, size},
		{"symbolic link", func(t *testing.T, dir string) error {
			outside := filepath.Join(t.TempDir(), "a")
			write(t, outside)
			return os.Symlink(outside, filepath.Join(dir, "b"))
		}, 0},
		{"another mount", func(t *testing.T, dir string) error {
			write(t, filepath.Join(dir, "a"))
			mounted := filepath.Join(dir, "m")
			if err := os.Mkdir(mounted, 0o755); err != nil {
				return err
			}
			if err := unix.Mount("tmpfs", mounted, "tmpfs", 0, ""); err != nil {
				return err
			}
			t.Cleanup(func() {
				if err := unix.Unmount(mounted, 0); err != nil {
					t.Error(err)
				}
			})
			write(t, filepath.Join(mounted, "b"))
			return nil
		}, size},
	} {
		t.Run(c.name, func(t *testing.T) {
			dir := t.TempDir()
			if err := c.make(t, dir); err != nil {
				t.Fatal(err)
			}
			if got := disk(t, dir); got < c.want || got > c.want+slack {
				t.Errorf("%d bytes, want %d", got, c.want)
			}
		})
	}
	if _, err := Disk(filepath.Join(t.TempDir(), "none")); err == nil {
		t.Error("a folder that is not there has a size")
	}
}

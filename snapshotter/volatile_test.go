package snapshotter

import (
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"
)

// TestVolatileIsOnDisk has a disk that takes the record of the boot and loses it: what was mounted volatile would pass for whole after
// a crash.
func TestVolatileIsOnDisk(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("mounting needs root")
	}
	thin, root := t.TempDir(), t.TempDir()
	image := filepath.Join(thin, "image")
	for _, c := range [][]string{
		{"mount", "-t", "tmpfs", "-o", "size=24m", "none", thin},
		{"truncate", "-s", "256M", image},
		{"mkfs.ext4", "-q", "-b", "4096", "-E", "lazy_itable_init=0", "-N", "128", "-O", "^has_journal", image},
		{"mount", "-o", "loop", image, root},
	} {
		if out, err := exec.Command(c[0], c[1:]...).CombinedOutput(); err != nil {
			t.Skipf("%v: %v %s", c, err, out)
		}
		if c[0] == "mount" {
			t.Cleanup(func() {
				if err := unix.Unmount(c[len(c)-1], unix.MNT_DETACH); err != nil {
					t.Error(err)
				}
			})
		}
	}
	s := &Snapshotter{root: root}
	if err := os.MkdirAll(s.directory("1"), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := s.beginVolatile("1"); err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(s.directory("2"), 0o700); err != nil {
		t.Fatal(err)
	}
	unix.Sync()
	if err := os.WriteFile(filepath.Join(thin, "filler"), make([]byte, 24<<20), 0o600); err == nil {
		t.Fatal("the disk is not full")
	}
	if err := s.beginVolatile("2"); err == nil {
		t.Error("the record counts as written, and the disk does not have it")
	}
}

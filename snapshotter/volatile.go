package snapshotter

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/containerd/errdefs"
)

// bootID is another after each start of the kernel.
const bootID = "/proc/sys/kernel/random/boot_id"

// A volatile overlay leaves a mark in its work directory, by which the kernel
// refuses to mount it again: after a crash nobody can say what of the upper
// directory is on the disk. Within one boot nothing is lost, so there the mark
// goes, and a stopped container can be started again.

// beginVolatile records the boot in which a snapshot is mounted so. The disk has
// the record before there is a mount: without it, after a crash, the snapshot
// would pass for one that was never mounted so.
func (s *Snapshotter) beginVolatile(id string) error {
	boot, err := os.ReadFile(bootID)
	if err != nil {
		return err
	}
	f, err := os.Create(s.boot(id))
	if err != nil {
		return err
	}
	_, err = f.Write(boot)
	return errors.Join(err, f.Sync(), f.Close(), syncDirectory(s.directory(id)))
}

// syncDirectory waits until the disk has the names in a directory.
func syncDirectory(dir string) error {
	f, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(f.Sync(), f.Close())
}

// endVolatile removes the mark of an earlier mount. Errors:
// ErrFailedPrecondition if it is of another boot.
func (s *Snapshotter) endVolatile(id string) error {
	then, err := os.ReadFile(s.boot(id))
	if errors.Is(err, os.ErrNotExist) {
		return nil // never mounted so
	}
	if err != nil {
		return err
	}
	now, err := os.ReadFile(bootID)
	if err != nil {
		return err
	}
	if string(then) != string(now) {
		return fmt.Errorf("it was mounted volatile in an earlier boot, and its upper directory may be incomplete: remove it: %w", errdefs.ErrFailedPrecondition)
	}
	// The work directory has one of the same name, which is the kernel's (ovl_workdir_create). The mark is a directory that
	// holds one file.
	return os.RemoveAll(filepath.Join(s.work(id), "work", "incompat", "volatile"))
}

func (s *Snapshotter) boot(id string) string { return filepath.Join(s.directory(id), "boot") }

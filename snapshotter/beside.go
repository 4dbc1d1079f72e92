package snapshotter

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"

	"github.com/containerd/containerd/v2/core/mount"
	"golang.org/x/sys/unix"
)

// beside shows the directories of local snapshots a second time, in the folder
// in which fs.FS mounts layers. By their paths there, all layers of a chain
// have a folder in common, and containerd needs one for two things: it leaves
// it out of the options of a mount that would be too long, and for a container
// in a user namespace it maps the ids of that folder with all that is mounted
// in it (core/mount/mount_linux.go).
type beside struct {
	dir   string // of the local snapshots
	point string

	mu sync.Mutex // one mount at a time
}

func newBeside(dir, mounts string) *beside {
	return &beside{dir: dir, point: filepath.Join(mounts, "s")} // short, and no layer's number
}

// mount does nothing if it is mounted. It is mounted when it is needed first,
// and read-only: whoever removes the folder of mounts must not remove these.
func (b *beside) mount() error {
	b.mu.Lock()
	defer b.mu.Unlock()
	want, err := os.Stat(b.dir)
	if err != nil {
		return err
	}
	if got, err := os.Stat(b.point); err == nil && os.SameFile(got, want) {
		return nil
	}
	if err := os.Mkdir(b.point, 0o700); err != nil && !errors.Is(err, os.ErrExist) {
		return err
	}
	m := mount.Mount{Type: "bind", Source: b.dir, Options: []string{"bind", "ro"}}
	if err := m.Mount(b.point); err != nil {
		return errors.Join(fmt.Errorf("mount %s at %s: %w", b.dir, b.point, err), b.unmount())
	}
	return nil
}

// path is where the files of a local snapshot are seen.
func (b *beside) path(id string) string { return filepath.Join(b.point, id, "fs") }

// close unmounts. Overlays on it keep what they have.
func (b *beside) close() error {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.unmount()
}

func (b *beside) unmount() error {
	err := unix.Unmount(b.point, unix.MNT_DETACH|unix.UMOUNT_NOFOLLOW)
	if err != nil && !errors.Is(err, unix.EINVAL) && !errors.Is(err, unix.ENOENT) { // neither is a mount
		return &os.PathError{Op: "unmount", Path: b.point, Err: err}
	}
	if err := os.Remove(b.point); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	return nil
}

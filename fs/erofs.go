package fs

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"

	"github.com/containerd/log"
	"golang.org/x/sys/unix"

	"github.com/sluice-snapshotter/sluice/fs/metadata"
)

// Kinds of mounts, as status names them.
const (
	erofsOnFUSE = "erofs-fuse"
	fuseTree    = "fuse"
)

// chooseMount decides how layers are mounted: as o.Mode says, after a try where that needs EROFS.
func chooseMount(ctx context.Context, o Options) (string, error) {
	if o.Mode == FUSE {
		return fuseTree, nil
	}
	refusal, err := probeEROFS(o.ProbeDir, o.MountDir)
	switch {
	case err != nil:
		return "", fmt.Errorf("probe EROFS: %w", err)
	case refusal == nil:
		log.G(ctx).Info("layers are mounted as EROFS")
		return erofsOnFUSE, nil
	case o.Mode == EROFS:
		return "", fmt.Errorf("mode erofs: %w: it needs Linux 6.12 with CONFIG_EROFS_FS_BACKED_BY_FILE, and a store on a disk's file system; mode auto does without", refusal)
	default:
		log.G(ctx).WithError(refusal).Info("layers are mounted as FUSE trees, as EROFS cannot be mounted")
		return fuseTree, nil
	}
}

// probeName is that of the image and the mount point of a probe. One that was killed leaves them to the next.
const probeName = ".erofs-probe"

// probeEROFS mounts a tiny image from a file in dir. refusal is why the kernel would not.
func probeEROFS(dir, mountDir string) (refusal, err error) {
	name, point := filepath.Join(dir, probeName+".image"), filepath.Join(mountDir, probeName)
	image, err := os.Create(name)
	if err != nil {
		return nil, err
	}
	defer os.Remove(name)
	// The image itself does as the device, which nothing reads.
	root := &metadata.Node{Mode: unix.S_IFDIR | 0o755}
	err = errors.Join(metadata.Write(image, root, metadata.Options{DataSize: 4096}), image.Close())
	if err != nil {
		return nil, err
	}
	if err := os.Mkdir(point, 0o700); err != nil && !errors.Is(err, os.ErrExist) {
		return nil, err
	}
	defer os.Remove(point)
	if refusal := mountImage(name, name, point); refusal != nil {
		return refusal, nil
	}
	if err := unix.Unmount(point, unix.MNT_DETACH); err != nil {
		return nil, &os.PathError{Op: "unmount", Path: point, Err: err}
	}
	return nil, nil
}

// mountImage mounts a metadata image. device is the file that holds the contents of its files.
func mountImage(image, device, point string) error {
	err := unix.Mount(image, point, "erofs", unix.MS_RDONLY|unix.MS_NOATIME, "device="+device)
	if err != nil {
		return fmt.Errorf("mount EROFS %s at %s: %w", image, point, err)
	}
	return nil
}

// erofsMounter mounts layers at <dir>/<ID>.
type erofsMounter struct {
	dir          string
	readAheadKiB int
	mu           sync.Mutex // one mount at a time, so that the new bdi is that of the new mount
}

func (m *erofsMounter) path(id uint32) string { return filepath.Join(m.dir, treeName(id)) }

// mount mounts image, whose device is the file blob, and returns where.
func (m *erofsMounter) mount(ctx context.Context, id uint32, image, blob string) (string, error) {
	point := m.path(id)
	if err := os.Mkdir(point, 0o700); err != nil && !errors.Is(err, os.ErrExist) {
		return "", err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	before := listBDIs()
	if err := mountImage(image, blob, point); err != nil {
		return "", errors.Join(err, os.Remove(point))
	}
	for name := range listBDIs() {
		if before[name] {
			continue
		}
		if err := setReadAhead(name, m.readAheadKiB); err != nil {
			log.G(ctx).WithError(err).Debug("raise readahead of an EROFS mount")
		}
	}
	return point, nil
}

// unmount takes the mount away, also while it is in use: who has it open keeps it until then.
func (m *erofsMounter) unmount(id uint32) error {
	point := m.path(id)
	err := unix.Unmount(point, unix.MNT_DETACH|unix.UMOUNT_NOFOLLOW)
	if err != nil && !errors.Is(err, unix.EINVAL) { // EINVAL: somebody else has unmounted it
		return &os.PathError{Op: "unmount", Path: point, Err: err}
	}
	return os.Remove(point)
}

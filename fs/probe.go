package fs

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/containerd/containerd/v2/core/mount"
	"github.com/containerd/log"
	"golang.org/x/sys/unix"

	"github.com/sluice-snapshotter/sluice/fs/metadata"
)

// chooseMount finds out how EROFS is to be mounted, by trying; nil means that layers are shown as FUSE trees.
func chooseMount(ctx context.Context, o Options) (*erofsMounter, error) {
	m, err := tryMounts(ctx, o)
	if full := errors.Is(err, unix.ENOSPC) || errors.Is(err, unix.EDQUOT); !full || o.ProbeDir == o.MountDir {
		return m, err
	}
	// What can be mounted from where the mount points are, mostly a tmpfs, can be from everywhere; by files there is more to be had
	// on a disk, and the next start finds out.
	log.G(ctx).WithError(err).Warn("the disk is full: whether EROFS can be mounted from it is not to be found out, so it is tried elsewhere")
	o.ProbeDir = o.MountDir
	return tryMounts(ctx, o)
}

func tryMounts(ctx context.Context, o Options) (*erofsMounter, error) {
	m := &erofsMounter{dir: o.MountDir, readAheadKiB: o.ReadAheadKiB}
	var refusals []error
	for _, loop := range map[Mode][]bool{Auto: {false, true}, EROFS: {false, true}, Loop: {true}}[o.Mode] {
		refusal, err := probeEROFS(o, erofsImage{loop: loop})
		if err != nil {
			return nil, fmt.Errorf("probe EROFS: %w", err)
		}
		if refusal != nil {
			refusals = append(refusals, refusal)
			continue
		}
		if refusal, err = probeEROFS(o, erofsImage{loop: loop, directIO: true}); err != nil {
			return nil, fmt.Errorf("probe EROFS: %w", err)
		}
		m.loop, m.directIO = loop, refusal == nil
		log.G(ctx).WithField("loop", loop).WithField("directio", m.directIO).Info("layers are mounted as EROFS")
		if !m.directIO {
			warnCachedTwice(ctx, o.ProbeDir, refusal)
		}
		return m, nil
	}
	return withoutEROFS(ctx, o.Mode, errors.Join(refusals...))
}

// withoutEROFS is what becomes of a mode where EROFS is not wanted or not to be had.
func withoutEROFS(ctx context.Context, mode Mode, refused error) (*erofsMounter, error) {
	switch mode {
	case EROFS, Loop:
		return nil, fmt.Errorf("mode %s: %w: EROFS is mounted on files from Linux 6.12 on with CONFIG_EROFS_FS_BACKED_BY_FILE, and with loop devices from 5.16 on; mode auto does without",
			mode, refused)
	case Auto:
		log.G(ctx).WithError(refused).Info("layers are mounted as FUSE trees, as EROFS cannot be mounted")
	}
	return nil, nil
}

// warnCachedTwice says what it costs that EROFS, or loop devices, read files in dir by their page cache, and what would help.
func warnCachedTwice(ctx context.Context, dir string, refusal error) {
	logger := log.G(ctx).WithError(refusal).WithField("folder", dir)
	if info, err := mount.Lookup(dir); err == nil {
		logger = logger.WithField("filesystem", info.FSType)
	}
	logger.Warn("what is read of complete layers is in memory twice; avoid it by a root folder on a file system with direct I/O, such as ext4 " +
		"or XFS, on a disk with sectors of 512 bytes, and by a kernel whose EROFS has the option directio")
}

// probeName is that of the image and the mount point of a probe. One that was killed leaves them to the next.
const probeName = ".erofs-probe"

// probeEROFS mounts a tiny image as im says, from a file in the store's file system. refusal is why the kernel would not.
func probeEROFS(o Options, im erofsImage) (refusal, err error) {
	point := filepath.Join(o.MountDir, probeName)
	// The image itself does as the device, which nothing reads.
	im.image = filepath.Join(o.ProbeDir, probeName+".image")
	im.device = im.image
	file, err := os.Create(im.image)
	if err != nil {
		return nil, err
	}
	defer os.Remove(im.image)
	root := &metadata.Node{Mode: unix.S_IFDIR | 0o755}
	err = errors.Join(metadata.Write(file, root, metadata.Options{DataSize: 4096}), file.Close())
	if err != nil {
		return nil, err
	}
	if err := os.Mkdir(point, 0o700); err != nil && !errors.Is(err, os.ErrExist) {
		return nil, err
	}
	defer os.Remove(point)
	if _, refusal := im.mount(point); refusal != nil {
		return refusal, nil
	}
	if err := unix.Unmount(point, unix.MNT_DETACH); err != nil {
		return nil, &os.PathError{Op: "unmount", Path: point, Err: err}
	}
	return nil, nil
}

package fs

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"

	"github.com/containerd/containerd/v2/core/mount"
	"github.com/containerd/log"
	"golang.org/x/sys/unix"
)

// nativeSuffix is behind the layer's ID in the name of the folder with its native mount.
const nativeSuffix = "n"

// erofsMounter mounts layers as EROFS: at <dir>/<ID> on the blob server, at <dir>/<ID>n on the data file.
type erofsMounter struct {
	dir          string
	readAheadKiB int
	loop         bool // by loop devices: the kernel does not mount files
	directIO     bool // EROFS, or the loop devices, can be told to read files past their page cache, so that contents are in memory once

	mu   sync.Mutex          // one mount at a time, so that the new backing device is that of the new mount
	bdis map[string][]string // backing devices of lazy mounts, by mount point: see erofsImage.mount
}

// lazyReadAheadKiB is how far mounts read ahead of which contents may have to be fetched: as far as Linux does by itself. More of a
// program's pages would come with each one that it faults in, and every one of these has to be waited for. Whoever reads on is read ahead of by
// the layer.
const lazyReadAheadKiB = 128

// lazy mounts image with a blob of the server as its device, and returns where.
func (m *erofsMounter) lazy(ctx context.Context, id uint32, image, blob string) (string, error) {
	point := filepath.Join(m.dir, treeName(id))
	// What the server has no cached pages of needs no option to be read past them.
	bdis, err := m.mount(ctx, point, min(m.readAheadKiB, lazyReadAheadKiB), erofsImage{image: image, device: blob})
	if err != nil {
		return "", err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.bdis == nil {
		m.bdis = make(map[string][]string)
	}
	m.bdis[point] = bdis
	return point, nil
}

// readFarAhead has a lazy mount read as far ahead as one on the data file. It is called once all of the layer is in that file: nothing
// has to be fetched any more for a read that nobody asked for.
func (m *erofsMounter) readFarAhead(ctx context.Context, id uint32, data string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	readAhead(ctx, m.bdis[filepath.Join(m.dir, treeName(id))], m.diskReadAhead(data))
}

// native mounts image with a data file as its device, and returns where.
func (m *erofsMounter) native(ctx context.Context, id uint32, image, data string) (string, error) {
	point := filepath.Join(m.dir, treeName(id)+nativeSuffix)
	_, err := m.mount(ctx, point, m.diskReadAhead(data), erofsImage{image: image, device: data, directIO: m.directIO})
	if err != nil {
		return "", err
	}
	return point, nil
}

// diskReadAhead is how far a mount reads ahead in a data file, in KiB: as far as overlayfs would on the same disk, if that is more than
// what is set.
func (m *erofsMounter) diskReadAhead(data string) int {
	return max(m.readAheadKiB, diskReadAhead(data))
}

// mount returns what erofsImage.mount does.
func (m *erofsMounter) mount(ctx context.Context, point string, readAheadKiB int, im erofsImage) (bdis []string, err error) {
	if err := os.Mkdir(point, 0o700); err != nil && !errors.Is(err, os.ErrExist) {
		return nil, err
	}
	im.loop = m.loop
	m.mu.Lock()
	defer m.mu.Unlock()
	bdis, err = im.mount(point)
	if err != nil {
		return nil, errors.Join(err, os.Remove(point))
	}
	readAhead(ctx, bdis, readAheadKiB)
	return bdis, nil
}

// readAhead sets how far mounts read ahead; without that they work too.
func readAhead(ctx context.Context, bdis []string, kib int) {
	for _, name := range bdis {
		if err := setReadAhead(name, kib); err != nil {
			log.G(ctx).WithError(err).Debug("raise readahead of an EROFS mount")
		}
	}
}

// unmount takes a mount away, also while it is in use: who has it open keeps it until then.
func (m *erofsMounter) unmount(point string) error {
	m.mu.Lock()
	delete(m.bdis, point)
	m.mu.Unlock()
	err := unix.Unmount(point, unix.MNT_DETACH|unix.UMOUNT_NOFOLLOW)
	switch {
	case errors.Is(err, unix.ENOENT): // the whole folder was withdrawn, and goes with all that is in it
		return nil
	case err != nil && !errors.Is(err, unix.EINVAL): // EINVAL: somebody else has unmounted it
		return &os.PathError{Op: "unmount", Path: point, Err: err}
	}
	if err := os.Remove(point); !errors.Is(err, os.ErrNotExist) {
		return err
	}
	return nil // withdrawn just now
}

// erofsImage is what mount(2) is told of an EROFS file system.
type erofsImage struct {
	image    string // path of the metadata image
	device   string // path of the file that holds the contents of its files
	loop     bool   // both by loop devices
	directIO bool   // past the page caches of both, or not at all; loop devices are asked for it anyway
}

// mount mounts it at point, and returns by which backing devices its readahead is set: their names in bdiDir. For a loop device that is
// one. For files the kernel makes one with each mount and does not tell which, so these are all that were not there before. Other
// programs' mounts of this very moment may be among them, and get our readahead too, which does no harm. None: it is as the kernel has it.
func (im erofsImage) mount(point string) (bdis []string, err error) {
	if im.loop {
		return im.mountByLoop(point)
	}
	before := listBDIs()
	if err := im.mountFiles(point); err != nil {
		return nil, err
	}
	for name := range listBDIs() {
		if !before[name] {
			bdis = append(bdis, name)
		}
	}
	return bdis, nil
}

func (im erofsImage) mountFiles(point string) error {
	options := "device=" + im.device
	if im.directIO {
		options += ",directio"
	}
	if err := unix.Mount(im.image, point, "erofs", unix.MS_RDONLY|unix.MS_NOATIME, options); err != nil {
		return fmt.Errorf("mount EROFS %s at %s: %w", im.image, point, err)
	}
	return nil
}

// mountByLoop makes two loop devices, which go with the mount.
func (im erofsImage) mountByLoop(point string) (bdis []string, err error) {
	attached := im
	attached.directIO = false // an option of mounts of files
	for _, path := range []*string{&attached.image, &attached.device} {
		dev, err := mount.SetupLoop(*path, mount.LoopParams{Readonly: true, Autoclear: true, Direct: true})
		if err != nil {
			return nil, fmt.Errorf("loop device for %s: %w", *path, err)
		}
		defer dev.Close()
		if im.directIO {
			if err := checkDirect(dev); err != nil {
				return nil, fmt.Errorf("loop device for %s: %w", *path, err)
			}
		}
		*path = dev.Name()
	}
	if err := attached.mountFiles(point); err != nil {
		return nil, err
	}
	name, err := blockBDI(attached.image)
	if err != nil {
		return nil, nil //nolint:nilerr // mounted all the same: readahead is as the kernel has it
	}
	return []string{name}, nil
}

// checkDirect reports that a loop device reads its file by the page cache: to the kernel, direct I/O is only a wish.
func checkDirect(dev *os.File) error {
	info, err := unix.IoctlLoopGetStatus64(int(dev.Fd()))
	if err != nil {
		return &os.PathError{Op: "get status", Path: dev.Name(), Err: err}
	}
	if info.Flags&unix.LO_FLAGS_DIRECT_IO == 0 {
		return errors.New("the kernel does not read the file by direct I/O")
	}
	return nil
}

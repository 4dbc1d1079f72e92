package fs

import (
	"errors"
	iofs "io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// A client mounts what it was told a while ago, and overlayfs takes an empty folder as gladly as a mounted one. So a path that was
// told must never be an empty folder, not for a moment: each process mounts in a folder of its own, whose name never comes again,
// and that folder is renamed before anything in it is unmounted. An old path leads nowhere then. (One of the FUSE tree does so anyway:
// below it there are no folders that it does not serve, and a layer's ID is never another's.)

const (
	ownPrefix  = "p"     // of the names of processes' folders; those of layers are numbers
	goneSuffix = ".gone" // of those that are being cleared
)

// makeOwn makes a folder for the mounts of this process in mountDir. Its name is the time since the boot, which answers do not
// survive; it is short, as it is in the options of overlays.
func makeOwn(mountDir string) (string, error) {
	for {
		var now unix.Timespec
		if err := unix.ClockGettime(unix.CLOCK_BOOTTIME, &now); err != nil {
			return "", os.NewSyscallError("clock_gettime", err)
		}
		dir := filepath.Join(mountDir, ownPrefix+strconv.FormatInt(now.Nano()/1e6, 36))
		if err := os.Mkdir(dir, 0o700); !errors.Is(err, os.ErrExist) { // else the next millisecond
			return dir, err
		}
	}
}

// isOwn reports whether name is one that makeOwn gives, or clearOwn.
func isOwn(name string) bool {
	digits, ok := strings.CutPrefix(strings.TrimSuffix(name, goneSuffix), ownPrefix)
	_, err := strconv.ParseUint(digits, 36, 63)
	return ok && err == nil
}

// clearLeftovers unmounts what dead processes have left: all mounts below mountDir, and those at and below each of tops. It
// removes their folders and mount points in mountDir, and touches nothing else.
func clearLeftovers(mountDir string, tops ...string) error {
	entries, err := os.ReadDir(mountDir)
	if err != nil {
		return err
	}
	for _, e := range entries {
		if !e.IsDir() || !isOwn(e.Name()) {
			continue
		}
		if err := withdraw(filepath.Join(mountDir, e.Name())); err != nil {
			return err
		}
	}
	if err := unmountBelow(mountDir, tops...); err != nil {
		return err
	}
	return removeMountPoints(mountDir)
}

// clearOwn does the same with the folder that makeOwn has made.
func clearOwn(dir string) error {
	if err := withdraw(dir); err != nil {
		return err
	}
	if err := unmountBelow(dir + goneSuffix); err != nil {
		return err
	}
	return removeOwn(dir + goneSuffix)
}

// withdraw renames a process's folder, with all that is mounted in it.
func withdraw(dir string) error {
	if strings.HasSuffix(dir, goneSuffix) {
		return nil
	}
	err := os.Rename(dir, dir+goneSuffix)
	if errors.Is(err, iofs.ErrNotExist) || errors.Is(err, unix.EBUSY) { // EBUSY: somebody has mounted on it, which hides what was told
		return nil
	}
	return err
}

// unmountBelow unmounts all that is mounted below dir, and at and below each of tops: paths without symlinks.
func unmountBelow(dir string, tops ...string) error {
	points, err := mountPoints()
	if err != nil {
		return err
	}
	// Later mounts may lie on earlier ones, so back to front.
	for _, p := range slices.Backward(points) {
		if !below(p, dir) && !slices.ContainsFunc(tops, func(top string) bool { return p == top || below(p, top) }) {
			continue
		}
		// A dead FUSE connection answers nothing; whoever still uses it keeps it, detached.
		if err := unix.Unmount(p, unix.MNT_DETACH|unix.UMOUNT_NOFOLLOW); err != nil && !errors.Is(err, unix.EINVAL) {
			return &os.PathError{Op: "unmount", Path: p, Err: err}
		}
	}
	return nil
}

// removeMountPoints removes the folders of processes in dir, and empty folders that are named like layers, as earlier versions
// made them. Others are not ours.
func removeMountPoints(dir string) error {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return err
	}
	for _, e := range entries {
		path := filepath.Join(dir, e.Name())
		_, err := strconv.ParseUint(strings.TrimSuffix(e.Name(), nativeSuffix), 10, 32)
		switch {
		case !e.IsDir():
		case isOwn(e.Name()):
			if err := removeOwn(path); err != nil {
				return err
			}
		case err == nil:
			if err := removeEmpty(path); err != nil {
				return err
			}
		}
	}
	return nil
}

// removeOwn removes a process's folder with the mount points in it.
func removeOwn(dir string) error {
	entries, err := os.ReadDir(dir)
	if errors.Is(err, iofs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	for _, e := range entries {
		if err := removeEmpty(filepath.Join(dir, e.Name())); err != nil {
			return err
		}
	}
	return removeEmpty(dir)
}

// removeEmpty removes a folder, unless it has something in it: then it was not left by us alone, and does no harm.
func removeEmpty(dir string) error {
	err := unix.Rmdir(dir)
	if err == nil || errors.Is(err, unix.ENOTEMPTY) || errors.Is(err, unix.ENOTDIR) || errors.Is(err, unix.ENOENT) {
		return nil
	}
	return &os.PathError{Op: "rmdir", Path: dir, Err: err}
}

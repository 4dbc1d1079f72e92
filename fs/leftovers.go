package fs

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	iofs "io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// clearLeftovers unmounts what a dead process has left: all mounts below mountDir, and those at and below served. It
// removes the mount points in mountDir, and touches nothing else.
func clearLeftovers(mountDir, served string) error {
	points, err := mountPoints()
	if err != nil {
		return err
	}
	// Later mounts may lie on earlier ones, so back to front.
	for i := len(points) - 1; i >= 0; i-- {
		p := points[i]
		if p != served && !below(p, served) && !below(p, mountDir) {
			continue
		}
		// A dead FUSE connection answers nothing; whoever still uses it keeps it, detached.
		if err := unix.Unmount(p, unix.MNT_DETACH|unix.UMOUNT_NOFOLLOW); err != nil && !errors.Is(err, unix.EINVAL) {
			return &os.PathError{Op: "unmount", Path: p, Err: err}
		}
	}
	return removeMountPoints(mountDir)
}

// removeMountPoints removes the empty folders in dir that are named like layers. Others are not ours.
func removeMountPoints(dir string) error {
	entries, err := os.ReadDir(dir)
	if errors.Is(err, iofs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	for _, e := range entries {
		id := strings.TrimSuffix(e.Name(), nativeSuffix)
		if _, err := strconv.ParseUint(id, 10, 32); err != nil || !e.IsDir() {
			continue
		}
		// One with something in it was not left by us alone, and can be mounted on all the same.
		if err := os.Remove(filepath.Join(dir, e.Name())); err != nil && !errors.Is(err, unix.ENOTEMPTY) {
			return err
		}
	}
	return nil
}

func below(path, dir string) bool {
	return strings.HasPrefix(path, strings.TrimSuffix(dir, "/")+"/")
}

// mountPoints lists the mount points of this process's mount namespace in the order in which they were mounted.
func mountPoints() ([]string, error) {
	f, err := os.Open("/proc/self/mountinfo")
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return parseMountinfo(f)
}

// parseMountinfo returns the fifth field of each line, as proc_pid_mountinfo(5) has it.
func parseMountinfo(r io.Reader) ([]string, error) {
	var out []string
	lines := bufio.NewScanner(r)
	lines.Buffer(nil, 1<<20) // overlays with many lower directories make long lines
	for lines.Scan() {
		fields := strings.Split(lines.Text(), " ")
		if len(fields) < 5 {
			return nil, fmt.Errorf("mountinfo: line %q", lines.Text())
		}
		out = append(out, unescape(fields[4]))
	}
	if err := lines.Err(); err != nil {
		return nil, fmt.Errorf("mountinfo: %w", err)
	}
	return out, nil
}

// unescape undoes the kernel's octal escapes of space, tab, newline and backslash.
func unescape(s string) string {
	var b strings.Builder
	for i := 0; i < len(s); i++ {
		if s[i] == '\\' && i+4 <= len(s) {
			if c, err := strconv.ParseUint(s[i+1:i+4], 8, 8); err == nil {
				b.WriteByte(byte(c))
				i += 3
				continue
			}
		}
		b.WriteByte(s[i])
	}
	return b.String()
}

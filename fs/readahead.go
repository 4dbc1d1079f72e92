package fs

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// bdiDir has a folder for each backing device of the kernel; those of block devices and of FUSE mounts are named by
// device number, EROFS's on files is erofs-N with a counter N that nothing ties to its mount.
const (
	bdiDir        = "/sys/class/bdi"
	readAheadName = "read_ahead_kb"
)

// listBDIs returns the backing devices of EROFS mounts on files. None is an answer too: without them readahead stays as
// it is.
func listBDIs() map[string]bool {
	entries, err := os.ReadDir(bdiDir)
	if err != nil {
		return nil
	}
	names := make(map[string]bool)
	for _, e := range entries {
		if strings.HasPrefix(e.Name(), "erofs-") {
			names[e.Name()] = true
		}
	}
	return names
}

// blockBDI is the backing device of a block device.
func blockBDI(device string) (string, error) {
	var st unix.Stat_t
	if err := unix.Stat(device, &st); err != nil {
		return "", &os.PathError{Op: "stat", Path: device, Err: err}
	}
	return numberedBDI(st.Rdev), nil
}

func numberedBDI(dev uint64) string {
	return fmt.Sprintf("%d:%d", unix.Major(dev), unix.Minor(dev))
}

// diskReadAhead is how far the kernel reads ahead on the disk that holds a file, in KiB; 0 where that is not to be seen.
func diskReadAhead(file string) int {
	var st unix.Stat_t
	if err := unix.Stat(file, &st); err != nil {
		return 0
	}
	b, err := os.ReadFile(filepath.Join(bdiDir, numberedBDI(st.Dev), readAheadName))
	if err != nil {
		return 0
	}
	kib, err := strconv.Atoi(strings.TrimSpace(string(b)))
	if err != nil {
		return 0
	}
	return kib
}

// setReadAhead sets what the kernel reads ahead on a backing device.
func setReadAhead(bdi string, kib int) error {
	return os.WriteFile(filepath.Join(bdiDir, bdi, readAheadName), []byte(strconv.Itoa(kib)), 0)
}

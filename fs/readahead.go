package fs

import (
	"os"
	"path/filepath"
	"strconv"
	"strings"
)

// bdiDir has a folder for each backing device of the kernel; a FUSE mount's is named by its device number, EROFS's is
// erofs-N with a counter N that nothing ties to its mount.
const bdiDir = "/sys/class/bdi"

// listBDIs returns the backing devices of EROFS mounts. None is an answer too: without them readahead stays as it is.
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

// setReadAhead sets what the kernel reads ahead on a backing device.
func setReadAhead(bdi string, kib int) error {
	return os.WriteFile(filepath.Join(bdiDir, bdi, "read_ahead_kb"), []byte(strconv.Itoa(kib)), 0)
}

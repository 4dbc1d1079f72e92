package meter

import (
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// blockSize is the unit of st_blocks (stat(2)).
const blockSize = 512

// Disk is the bytes that everything below dir occupies, without what is mounted there. A file counts once, however many names it has.
func Disk(dir string) (int64, error) {
	var top unix.Stat_t
	if err := unix.Lstat(dir, &top); err != nil {
		return 0, fmt.Errorf("disk used by %s: %w", dir, err)
	}
	sum, counted := int64(0), make(map[uint64]bool) // inodes
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		var st unix.Stat_t
		if err == nil {
			err = unix.Lstat(path, &st)
		}
		switch {
		case errors.Is(err, fs.ErrNotExist):
			return nil // the snapshotter goes on working
		case err != nil:
			return err
		case st.Dev == top.Dev:
			if !counted[st.Ino] {
				sum += st.Blocks * blockSize
			}
			counted[st.Ino] = true
		case d.IsDir():
			return filepath.SkipDir
		}
		return nil
	})
	if err != nil {
		return 0, fmt.Errorf("disk used: %w", err)
	}
	return sum, nil
}

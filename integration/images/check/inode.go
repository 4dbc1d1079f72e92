package main

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// holes walks through data and holes of a file. Where they are is the file system's own business, but what lies in a hole is zeros, and
// the end of the file is one.
func holes(dir string) (string, error) {
	f, err := os.Open(filepath.Join(dir, "holes"))
	if err != nil {
		return "", err
	}
	defer f.Close()
	content, err := os.ReadFile(f.Name())
	if err != nil {
		return "", err
	}
	fd, size := int(f.Fd()), int64(len(content))
	for _, whence := range []int{unix.SEEK_DATA, unix.SEEK_HOLE} {
		if _, err := unix.Seek(fd, size, whence); !errors.Is(err, unix.ENXIO) {
			return "", errors.Join(fmt.Errorf("a seek from the end on, whence %d, has another answer than ENXIO", whence), err)
		}
	}
	for at := int64(0); at < size; {
		data, err := unix.Seek(fd, at, unix.SEEK_DATA)
		if errors.Is(err, unix.ENXIO) {
			data, err = size, nil // a hole up to the end
		}
		if err != nil {
			return "", fmt.Errorf("seek data from %d: %w", at, err)
		}
		if data < at || data > size || len(bytes.Trim(content[at:data], "\x00")) > 0 {
			return "", fmt.Errorf("from %d on the next data is at %d, of %d bytes", at, data, size)
		}
		hole := size
		if data < size {
			if hole, err = unix.Seek(fd, data, unix.SEEK_HOLE); err != nil {
				return "", fmt.Errorf("seek hole from %d: %w", data, err)
			}
			if hole <= data || hole > size {
				return "", fmt.Errorf("from %d on the next hole is at %d, of %d bytes", data, hole, size)
			}
		}
		at = hole
	}
	return fmt.Sprintf("%d bytes, %x", size, sha256.Sum256(content)), nil
}

// statfs asks for the numbers that df shows, of a path and of an open file: they are those of the overlay on top.
func statfs(dir string) (string, error) {
	var path, file unix.Statfs_t
	if err := unix.Statfs(dir, &path); err != nil {
		return "", err
	}
	f, err := os.Open(filepath.Join(dir, "map"))
	if err != nil {
		return "", err
	}
	defer f.Close()
	if err := unix.Fstatfs(int(f.Fd()), &file); err != nil {
		return "", err
	}
	for _, st := range []unix.Statfs_t{path, file} {
		if st.Type != unix.OVERLAYFS_SUPER_MAGIC || st.Namelen != 255 || st.Bsize <= 0 || st.Blocks == 0 || st.Files == 0 {
			return "", fmt.Errorf("got %+v", st)
		}
		if st.Bfree > st.Blocks || st.Bavail > st.Bfree || st.Ffree > st.Files {
			return "", fmt.Errorf("more is free than there is: %+v", st)
		}
	}
	return fmt.Sprintf("type %#x, names of %d bytes, blocks of %d", path.Type, path.Namelen, path.Bsize), nil
}

// links looks at three names of one file, in three folders.
func links(dir string) (string, error) {
	var first unix.Stat_t
	var content []byte
	for i, name := range []string{"links/one", "links/elsewhere/two", "three"} {
		path := filepath.Join(dir, name)
		var st unix.Stat_t
		if err := unix.Stat(path, &st); err != nil {
			return "", fmt.Errorf("%s: %w", path, err)
		}
		p, err := os.ReadFile(path)
		if err != nil {
			return "", err
		}
		if i == 0 {
			first, content = st, p
		}
		if st.Nlink != 3 || st.Ino != first.Ino || st.Dev != first.Dev || !bytes.Equal(p, content) {
			return "", fmt.Errorf("%s is not the same file: %+v, %+v", path, st, first)
		}
	}
	return fmt.Sprintf("%x", sha256.Sum256(content)), nil
}

// times are those of a file, a folder and a symbolic link.
func times(dir string) (string, error) {
	text := ""
	for _, name := range []string{"times/file", "times/folder", "times/symlink"} {
		var st unix.Stat_t
		if err := unix.Lstat(filepath.Join(dir, name), &st); err != nil {
			return "", fmt.Errorf("%s: %w", name, err)
		}
		if st.Mtim.Nsec == 0 {
			return "", fmt.Errorf("%s has the time of a whole second", name)
		}
		text += fmt.Sprintf("%d.%09d ", st.Mtim.Sec, st.Mtim.Nsec)
	}
	return text, nil
}

// xattr prints size and checksum of one, which may be larger than what comes out of a container safely.
func xattr(name string, files []string) error {
	for _, file := range files {
		p := make([]byte, 64<<10) // XATTR_SIZE_MAX
		n, err := unix.Lgetxattr(file, name, p)
		if err != nil {
			return fmt.Errorf("getxattr %s %s: %w", name, file, err)
		}
		if size, err := unix.Lgetxattr(file, name, nil); err != nil || size != n {
			return errors.Join(fmt.Errorf("getxattr %s %s: size %d, value of %d", name, file, size, n), err)
		}
		fmt.Printf("%s %d %x\n", file, n, sha256.Sum256(p[:n]))
	}
	return nil
}

package metadata

import (
	"errors"
	"fmt"
	"math"
	"strings"

	"golang.org/x/sys/unix"
)

// checkData says what is wrong with the size of an address space.
func checkData(size int64) error {
	switch {
	case size < 0 || size%blockSize != 0:
		return fmt.Errorf("address space of %d bytes is not a multiple of %d", size, blockSize)
	case size/blockSize > maxBlocks:
		return fmt.Errorf("address space of %d bytes, at most %d fit", size, int64(maxBlocks)*blockSize)
	}
	return nil
}

// checkName says what is wrong with the name of an entry.
func checkName(name string) error {
	switch {
	case name == "":
		return errors.New("empty name")
	case name == "." || name == "..":
		return errors.New("name is reserved")
	case len(name) > maxName:
		return fmt.Errorf("name of %d bytes, at most %d fit", len(name), maxName)
	case strings.ContainsAny(name, "/\x00"):
		return errors.New("name holds a slash or a NUL")
	}
	return nil
}

// check says what the format cannot hold of n itself; names, links and xattrs are looked at elsewhere.
func (n *Node) check(dataSize int64) error {
	if n.Mode&^(unix.S_IFMT|modeBits) != 0 || fileType(n.Mode) == 0 {
		return fmt.Errorf("mode %#o is none of an inode", n.Mode)
	}
	if n.Mode&unix.S_IFMT != unix.S_IFDIR && len(n.Children) > 0 {
		return errors.New("has children and is no directory")
	}
	switch n.Mode & unix.S_IFMT {
	case unix.S_IFREG:
		return n.checkExtent(dataSize)
	case unix.S_IFLNK:
		return checkTarget(n.Target)
	case unix.S_IFCHR, unix.S_IFBLK:
		if n.Rdev > maxRdev {
			return fmt.Errorf("device %d:%d, at most 4095:1048575 fits", unix.Major(n.Rdev), unix.Minor(n.Rdev))
		}
	}
	return nil
}

func (n *Node) checkExtent(dataSize int64) error {
	switch {
	case n.Size < 0:
		return fmt.Errorf("negative size %d", n.Size)
	case n.Size == 0:
		return nil
	case n.Offset < 0 || n.Offset%blockSize != 0:
		return fmt.Errorf("offset %d is not a multiple of %d", n.Offset, blockSize)
	case n.Size > math.MaxInt64-n.Offset || n.Offset+n.Size > dataSize:
		return fmt.Errorf("%d bytes at %d reach over the address space of %d bytes", n.Size, n.Offset, dataSize)
	}
	return nil
}

func checkTarget(target string) error {
	switch {
	case target == "":
		return errors.New("empty symlink target")
	case len(target) > maxTarget:
		return fmt.Errorf("symlink target of %d bytes, at most %d fit", len(target), maxTarget)
	case strings.Contains(target, "\x00"):
		return errors.New("symlink target holds a NUL")
	}
	return nil
}

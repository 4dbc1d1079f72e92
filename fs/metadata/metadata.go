// Package metadata writes and reads metadata images: small EROFS file systems that hold a layer's whole tree
// (names, modes, owners, times, xattrs, links, devices) and, for each regular file, where its bytes lie in the
// layer's address space. The kernel mounts an image with device=<data file>; the FUSE tree reads it through Image.
//
// Words:
//
//   - address space: the flat bytes of a layer's data file, in which every regular file is one contiguous run that
//     begins on a block. To EROFS it is extra device 1.
//   - block: 4096 bytes, of the image and of the address space.
//   - nid: the number of an inode in an image, its byte offset divided by 32. Nids fit in 32 bits and are never 0.
//   - entry: a name in a directory. Several entries with one nid are hard links.
//
// Write may run concurrently on trees that share nothing. An Image may be used by any number
// of goroutines at once; Close must come after the last of them.
//
// Images are made deterministically: the same tree gives the same bytes. README.md shows the layout and says why it
// is as it is.
package metadata

import "time"

// Node is one inode of a tree that is to be written. The same pointer under several names is a hard link.
type Node struct {
	Mode     uint32 // S_IFMT type, permission, setuid, setgid, sticky: what stat(2) reports
	UID, GID uint32
	number   uint32            // in the plan that was made last; see plan.find
	Mtime    time.Time         // kept to the nanosecond; the kernel shows it as atime and ctime too
	Rdev     uint64            // character and block devices: as unix.Mkdev makes it, major < 4096, minor < 2^20
	Size     int64             // regular files: bytes
	Offset   int64             // regular files: bytes into the address space, a multiple of 4096; unused if Size is 0
	Target   string            // symlinks: 1 to 4095 bytes
	Xattrs   map[string][]byte // by full name, such as "security.capability"; see HoldsXattr
	Children map[string]*Node  // directories; without "." and ".."
}

// Options say what Write cannot know from the tree.
type Options struct {
	DataSize int64 // bytes of the address space, a multiple of 4096
}

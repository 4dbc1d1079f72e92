package metadata

import (
	"cmp"
	"strings"

	"golang.org/x/sys/unix"
)

// PathAt returns the first path whose regular file holds byte off of the address space, the rest of its last block
// included. It walks the whole tree.
func (im *Image) PathAt(off int64) (path string, found bool) {
	defer im.trim()
	s := im.search(func(_ *search, in located, err error) bool {
		return err == nil && in.layout == layoutChunked && in.Offset <= off && off-in.Offset < roundUp(in.Size, blockSize)
	})
	if !s.run() {
		return "", false
	}
	return s.path(len(im.data))
}

// PathsWith lists the paths that have the xattr name. There are none and only is false if anything has another one, or cannot be read, or
// if the paths take more than limit bytes. It walks up to the whole tree.
func (im *Image) PathsWith(name string, limit int) (paths []string, only bool) {
	defer im.trim()
	odd := func(s *search, in located, err error) bool {
		if err != nil || in.xattrLen == 0 {
			return err != nil
		}
		names, err := im.Listxattr(uint64(in.pos) / nidUnit)
		if err != nil || len(names) != 1 || names[0] != name {
			return true
		}
		path, ok := s.path(limit)
		paths = append(paths, path)
		limit -= len(path)
		return !ok
	}
	s := im.search(odd)
	root, err := im.inode(rootNID)
	if odd(s, root, err) || s.run() || s.err != nil || s.left <= 0 {
		return nil, false
	}
	return paths, true
}

// HasWhiteouts reports whether something in the image is what overlayfs takes for a whiteout, or that cannot be told. It walks up to the
// whole tree.
func (im *Image) HasWhiteouts() bool {
	defer im.trim()
	s := im.search(func(_ *search, in located, err error) bool {
		return err != nil || in.Mode&unix.S_IFMT == unix.S_IFCHR && in.Rdev == 0
	})
	return s.run() || s.err != nil || s.left <= 0
}

// Files calls f for the inode of each file that has contents, by each of its names. It walks the whole tree.
func (im *Image) Files(f func(nid uint64)) {
	defer im.trim()
	im.search(func(_ *search, in located, err error) bool {
		if err == nil && in.Mode&unix.S_IFMT == unix.S_IFREG && in.Size > 0 {
			f(uint64(in.pos) / nidUnit)
		}
		return false
	}).run()
}

// search is a walk, depth first. A damaged image may have cycles and directories that share their entries, so it enters a
// directory once and looks at no more entries than the image can hold.
type search struct {
	im     *Image
	wanted func(s *search, in located, err error) bool // with what inode has returned; it may ask for the path
	seen   []uint64                                    // a bit per nid: has been entered
	dirs   []cursor                                    // from the root down
	left   int                                         // entries that may still be looked at
	err    error                                       // of the last directory that could not be read to its end
}

// cursor is a directory and how far the search is in it.
type cursor struct {
	dir      uint32
	at, next uint64 // of the entry being looked at, and behind it
}

func (im *Image) search(wanted func(*search, located, error) bool) *search {
	return &search{
		im:     im,
		wanted: wanted,
		seen:   make([]uint64, len(im.data)/nidUnit/64+1),
		left:   len(im.data) / direntLen,
	}
}

// run goes on until it finds what is wanted. It does not ask for the root.
func (s *search) run() (found bool) {
	s.enter(rootNID)
	for len(s.dirs) > 0 && s.left > 0 {
		if s.step() {
			return true
		}
	}
	return false
}

// enter goes down into a directory, once.
func (s *search) enter(nid uint64) {
	if nid >= uint64(len(s.seen))*64 || s.seen[nid/64]>>(nid%64)&1 != 0 {
		return
	}
	s.seen[nid/64] |= 1 << (nid % 64)
	s.dirs = append(s.dirs, cursor{dir: uint32(nid)})
}

// step looks at the next entries of the innermost directory, up to the first directory among them.
func (s *search) step() (found bool) {
	c := &s.dirs[len(s.dirs)-1]
	var down uint64
	err := s.im.ReadDir(uint64(c.dir), c.next, func(d Dirent) bool {
		c.at, c.next = c.next, d.Next
		s.left--
		if d.Name == "." || d.Name == ".." {
			return s.left > 0
		}
		if d.Type == unix.S_IFDIR {
			down = d.NID
		}
		in, err := s.im.inode(d.NID)
		found = s.wanted(s, in, err)
		return !found && down == 0 && s.left > 0
	})
	switch {
	case found:
	case down != 0:
		s.enter(down)
	case err != nil || s.left > 0:
		s.err = cmp.Or(err, s.err)
		s.dirs = s.dirs[:len(s.dirs)-1]
	}
	return found
}

// path is the names of the entries that the search stands at, if they take no more than limit bytes.
func (s *search) path(limit int) (string, bool) {
	var path strings.Builder
	for _, c := range s.dirs {
		err := s.im.ReadDir(uint64(c.dir), c.at, func(d Dirent) bool {
			path.WriteString("/" + d.Name)
			return false
		})
		if err != nil || path.Len() > limit {
			return "", false
		}
	}
	return path.String(), true
}

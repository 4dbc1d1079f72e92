package metadata

import (
	"strings"

	"golang.org/x/sys/unix"
)

// PathAt returns the first path whose regular file holds byte off of the address space, the rest of its last block
// included. It walks the whole tree; it is there for the texts of errors.
func (im *Image) PathAt(off int64) (path string, found bool) {
	s := &search{
		im:   im,
		off:  off,
		seen: make([]uint64, len(im.data)/nidUnit/64+1),
		left: len(im.data) / direntLen,
	}
	s.enter(rootNID)
	for len(s.dirs) > 0 && s.left > 0 {
		if s.step() {
			return s.path()
		}
	}
	return "", false
}

// search is a walk, depth first. A damaged image may have cycles and directories that share their entries, so it enters a
// directory once and looks at no more entries than the image can hold.
type search struct {
	im   *Image
	off  int64
	seen []uint64 // a bit per nid: has been entered
	dirs []cursor // from the root down
	left int      // entries that may still be looked at
}

// cursor is a directory and how far the search is in it.
type cursor struct {
	dir      uint32
	at, next uint64 // of the entry being looked at, and behind it
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
		switch {
		case d.Name == "." || d.Name == "..":
		case d.Type == unix.S_IFDIR:
			down = d.NID
		case d.Type == unix.S_IFREG:
			found = s.holds(d.NID)
		}
		return !found && down == 0 && s.left > 0
	})
	switch {
	case found:
	case down != 0:
		s.enter(down)
	case err != nil || s.left > 0:
		s.dirs = s.dirs[:len(s.dirs)-1]
	}
	return found
}

func (s *search) holds(nid uint64) bool {
	in, err := s.im.inode(nid)
	if err != nil || in.layout != layoutChunked {
		return false
	}
	return in.Offset <= s.off && s.off-in.Offset < roundUp(in.Size, blockSize)
}

// path is the names of the entries that the search stands at.
func (s *search) path() (string, bool) {
	var path strings.Builder
	for _, c := range s.dirs {
		err := s.im.ReadDir(uint64(c.dir), c.at, func(d Dirent) bool {
			path.WriteString("/" + d.Name)
			return false
		})
		if err != nil || path.Len() > len(s.im.data) {
			return "", false
		}
	}
	return path.String(), true
}

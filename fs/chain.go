package fs

import (
	"errors"
	iofs "io/fs"
	"path"
	"strings"
	"sync/atomic"

	"github.com/opencontainers/go-digest"
	"golang.org/x/sys/unix"

	"github.com/sluice-snapshotter/sluice/fs/metadata"
)

const (
	maxLinks = 40  // symlinks that a path may lead over, as in the kernel
	maxSteps = 512 // names that a path may have, those of its symlinks counted: the kernel has no such limit, but time for it

	// maxLooks is how many names in layers are looked up for one program, or for the start of one container.
	maxLooks = 1 << 20
)

// looks counts them down.
type looks struct{ left atomic.Int64 }

func newLooks() *looks {
	l := new(looks)
	l.left.Store(maxLooks)
	return l
}

// take reports whether n more may be looked up.
func (l *looks) take(n int) bool { return l.left.Add(-int64(n)) >= 0 }

// chain is the layers of an image, the topmost first, seen as overlayfs shows them. Who looks at it keeps its layers from being closed.
type chain []*shown

// withChain calls fn with the layers ds, as far as they are mounted.
func (f *FS) withChain(ds []digest.Digest, fn func(chain)) {
	var c chain
	defer func() {
		for _, l := range c {
			l.users.Done()
		}
	}()
	for _, d := range ds {
		if l, ok := f.enter(d); ok {
			c = append(c, l)
		}
	}
	fn(c)
}

// place is an inode of a layer.
type place struct {
	*shown
	nid uint64
}

// file finds a regular file that is not empty, as long as there are looks left.
func (c chain) file(name string, l *looks) (extent, bool) {
	dirs := [][]place{c.root()} // from the root down
	var names []string          // of dirs but the root
	links, rest := 0, name
	for steps := 0; rest != "" && steps < maxSteps; steps++ {
		first, after, _ := strings.Cut(strings.TrimPrefix(rest, "/"), "/")
		rest = after
		if first == "" || first == "." {
			continue
		}
		if first == ".." {
			if len(names) > 0 {
				dirs, names = dirs[:len(dirs)-1], names[:len(names)-1]
			}
			continue
		}
		if !l.take(len(c)) {
			return extent{}, false
		}
		in, found := child(dirs[len(dirs)-1], first)
		if len(found) == 0 {
			return extent{}, false
		}
		switch in.Mode & unix.S_IFMT {
		case unix.S_IFDIR:
			dirs, names = append(dirs, found), append(names, first)
		case unix.S_IFLNK:
			target, err := found[0].image.Readlink(found[0].nid)
			if links++; err != nil || links > maxLinks {
				return extent{}, false
			}
			if strings.HasPrefix(target, "/") {
				dirs, names = dirs[:1], nil
			}
			rest = strings.Trim(target, "/") + "/" + rest
		case unix.S_IFREG:
			file := extent{found[0].shown, in.Offset, in.Size, "/" + path.Join(names...), first}
			return file, strings.Trim(rest, "/") == "" && in.Size > 0
		default:
			return extent{}, false
		}
	}
	return extent{}, false
}

func (c chain) root() (root []place) {
	for _, l := range c {
		root = append(root, place{l, l.image.Root()})
	}
	return root
}

// child finds what is called name in dirs, one directory in several layers: a directory may be in several too, anything else is in one.
func child(dirs []place, name string) (first metadata.Inode, found []place) {
	for _, d := range dirs {
		nid, err := d.image.Lookup(d.nid, name)
		if errors.Is(err, iofs.ErrNotExist) {
			continue
		}
		in, inodeErr := d.image.Inode(nid)
		if err != nil || inodeErr != nil || in.Mode&unix.S_IFMT == unix.S_IFCHR && in.Rdev == 0 { // a whiteout
			break
		}
		dir := in.Mode&unix.S_IFMT == unix.S_IFDIR
		if len(found) > 0 && !dir {
			break
		}
		if len(found) == 0 {
			first = in
		}
		found = append(found, place{d.shown, nid})
		if opaque, err := d.image.Getxattr(nid, opaqueXattr); !dir || err == nil && string(opaque) == "y" {
			break
		}
	}
	return first, found
}

// first finds the first of some paths that is a file.
func (c chain) first(paths []string, l *looks) (extent, bool) {
	for _, p := range paths {
		if found, ok := c.file(p, l); ok {
			return found, true
		}
	}
	return extent{}, false
}

package fs

import (
	"errors"
	iofs "io/fs"
	"path/filepath"
	"slices"
	"strings"

	"github.com/hanwen/go-fuse/v2/fuse"
	"github.com/opencontainers/go-digest"
)

// Overlayfs asks for xattrs of everything that it looks up, and the kernel of each program that it runs. There is hardly ever one, but
// nothing remembers that: cold, it is every other request of a walk. A FUSE connection can only have no xattrs at all. So there is one that
// has none, and trees that lack nothing without them are mounted by it.

// opaqueXattr hides what the layers below have in a directory.
const opaqueXattr = "trusted.overlay.opaque"

// Beyond these bounds a layer has its xattrs without a look at whether they are needed: no builder makes so many opaque directories, and
// who waits for an answer is a container that is to start.
const (
	// maxOpaque is bytes of the paths of a layer's opaque directories, which stay in memory. A layer of the benchmark's torch has 600: that
	// is 400 bytes for each.
	maxOpaque = 256 << 10

	// maxLookups is names, of those directories in all layers below together. For 600 with seven names it is 31 layers.
	maxLookups = 128 << 10
)

// bare is a server for a connection without xattrs.
type bare struct{ *server }

// GetXAttr is asked once: the kernel takes ENOSYS for good, and answers EOPNOTSUPP itself.
func (bare) GetXAttr(<-chan struct{}, *fuse.InHeader, string, []byte) (uint32, fuse.Status) {
	return 0, fuse.ENOSYS
}

// ListXAttr lists no names, which is how most programs find out that there is nothing to ask for.
func (bare) ListXAttr(<-chan struct{}, *fuse.InHeader, []byte) (uint32, fuse.Status) {
	return 0, fuse.OK
}

// Bare reports whether an overlay of a mounted layer on others looks the same without the layer's xattrs: then BarePath is for it. below are
// those, "" for what is no mounted layer. Overlayfs itself marks all new directories opaque, and nothing is hidden by most of them. The
// first time it takes as long as a walk through the layer.
func (f *FS) Bare(d digest.Digest, below []digest.Digest) bool {
	if f.server.bare == nil {
		return false
	}
	l, ok := f.enter(d)
	if !ok {
		return false
	}
	defer l.users.Done()
	dirs, only := l.opaque()
	if !only || len(dirs) == 0 {
		return only
	}
	return lookups(dirs)*len(below) <= maxLookups &&
		!slices.ContainsFunc(below, func(d digest.Digest) bool { return f.mayHave(d, dirs) })
}

// BarePath is Path for an overlay that Bare has said yes to.
func (f *FS) BarePath(d digest.Digest, holder string) (string, error) {
	path, err := f.Path(d, holder)
	if err != nil {
		return "", err
	}
	return filepath.Join(f.server.bare.dir, filepath.Base(path)), nil
}

// lookups is how many names have to be looked up for paths.
func lookups(paths []string) (n int) {
	for _, path := range paths {
		n += strings.Count(path, "/")
	}
	return n
}

// mayHave reports whether a layer has something at one of the paths, or that cannot be told, as of one that is not mounted.
func (f *FS) mayHave(d digest.Digest, paths []string) bool {
	l, ok := f.enter(d)
	if !ok {
		return true
	}
	defer l.users.Done()
	return slices.ContainsFunc(paths, l.mayHave)
}

// enter finds a mounted layer, and keeps it from being closed until users.Done.
func (f *FS) enter(d digest.Digest) (*shown, bool) {
	m, err := f.lookup(d)
	if err != nil {
		return nil, false
	}
	return f.server.enter(m.shown.id)
}

// mayHave reports whether there is something at path, or that cannot be told.
func (l *shown) mayHave(path string) bool {
	nid := l.image.Root()
	for name := range strings.SplitSeq(strings.Trim(path, "/"), "/") {
		var err error
		if nid, err = l.image.Lookup(nid, name); err != nil {
			return !errors.Is(err, iofs.ErrNotExist)
		}
	}
	return true
}

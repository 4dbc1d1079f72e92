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

// barePath is the same tree as at path without xattrs, where there is one and an overlay of the layer on those below looks the same by it:
// overlayfs itself marks all new directories opaque, and nothing is hidden by most of them.
func (f *FS) barePath(path string, d digest.Digest, below []digest.Digest) string {
	if f.server.bare == nil || !f.needless(d, below) {
		return path
	}
	return filepath.Join(f.server.bare.dir, filepath.Base(path))
}

// needless reports whether the xattrs of a layer change nothing above those below.
func (f *FS) needless(d digest.Digest, below []digest.Digest) bool {
	var dirs []string
	only := false
	f.look(d, func(l *shown) { dirs, only = l.opaque() })
	return only && (len(dirs) == 0 || !slices.ContainsFunc(below, func(d digest.Digest) bool {
		hidden := true // in what is no mounted layer
		f.look(d, func(l *shown) { hidden = slices.ContainsFunc(dirs, l.mayHave) })
		return hidden
	}))
}

// look calls fn with a mounted layer, which is not closed before it returns.
func (f *FS) look(d digest.Digest, fn func(l *shown)) {
	m, err := f.lookup(d)
	if err != nil {
		return
	}
	if l, ok := f.server.enter(m.shown.id); ok {
		defer l.users.Done()
		fn(l)
	}
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

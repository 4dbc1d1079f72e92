package fs

import (
	"errors"
	"fmt"
	iofs "io/fs"
	"os"
	"slices"
	"strings"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"

	"github.com/sluice-snapshotter/sluice/fs/metadata"
)

// The kernel's requests about names and attributes. All but those about the root directory are answered from the mapped
// metadata image, without waiting for anything.

// Lookup finds name in a directory. That there is none may be remembered too.
func (s *server) Lookup(_ <-chan struct{}, h *fuse.InHeader, name string, out *fuse.EntryOut) fuse.Status {
	if h.NodeId == rootNode {
		return s.lookupRoot(name, out)
	}
	return s.with(h.NodeId, func(l *shown, nid uint64, tree bool) error {
		if !tree {
			return unix.ENOTDIR
		}
		child, err := l.image.Lookup(nid, name)
		if errors.Is(err, iofs.ErrNotExist) {
			out.NodeId, out.EntryValid = 0, forever
			return nil
		}
		if err != nil {
			return fmt.Errorf("look up %q: %w", name, err)
		}
		return l.entry(child, out)
	})
}

// GetAttr is stat(2).
func (s *server) GetAttr(_ <-chan struct{}, in *fuse.GetAttrIn, out *fuse.AttrOut) fuse.Status {
	if in.NodeId == rootNode {
		rootAttr(&out.Attr)
		return fuse.OK
	}
	return s.with(in.NodeId, func(l *shown, nid uint64, tree bool) error {
		out.AttrValid = forever
		return l.attr(nid, tree, &out.Attr)
	})
}

// Readlink returns a symlink's target.
func (s *server) Readlink(_ <-chan struct{}, h *fuse.InHeader) (target []byte, code fuse.Status) {
	code = s.with(h.NodeId, func(l *shown, nid uint64, tree bool) error {
		if !tree {
			return unix.EINVAL
		}
		text, err := l.image.Readlink(nid)
		if err != nil {
			return fmt.Errorf("read link %d: %w", nid, err)
		}
		target = []byte(text)
		return nil
	})
	return target, code
}

// GetXAttr copies an xattr to dest. An empty dest asks for the size.
func (s *server) GetXAttr(_ <-chan struct{}, h *fuse.InHeader, name string, dest []byte) (n uint32, code fuse.Status) {
	if h.NodeId == rootNode {
		return 0, fuse.ENODATA
	}
	if s.userxattr && name == "user.overlay.opaque" { // layers themselves have no such xattr
		name = opaqueXattr
	}
	code = s.with(h.NodeId, func(l *shown, nid uint64, tree bool) (err error) {
		if !tree {
			return metadata.ErrNoXattr
		}
		value, err := l.image.Getxattr(nid, name)
		if err != nil {
			return fmt.Errorf("xattr %s of %d: %w", name, nid, err)
		}
		n, err = fill(dest, value)
		return err
	})
	return n, code
}

// needsUserXattr reports whether overlayfs asks for user.overlay.* in place of trusted.overlay.*: in a user namespace, which
// is one in which not every id is itself. Then overlayfs has to be mounted with userxattr.
func needsUserXattr() bool {
	ids, err := os.ReadFile("/proc/self/uid_map")
	return err == nil && !slices.Equal(strings.Fields(string(ids)), []string{"0", "0", "4294967295"})
}

// ListXAttr copies the names of a node's xattrs to dest, each ended by a NUL. An empty dest asks for the size.
func (s *server) ListXAttr(_ <-chan struct{}, h *fuse.InHeader, dest []byte) (n uint32, code fuse.Status) {
	if h.NodeId == rootNode {
		return 0, fuse.OK
	}
	code = s.with(h.NodeId, func(l *shown, nid uint64, tree bool) (err error) {
		if !tree {
			return nil
		}
		names, err := l.image.Listxattr(nid)
		if err != nil {
			return fmt.Errorf("xattrs of %d: %w", nid, err)
		}
		var list []byte
		for _, name := range names {
			list = append(append(list, name...), 0)
		}
		n, err = fill(dest, list)
		return err
	})
	return n, code
}

// fill copies value to dest, and returns its size, which is all that an empty dest asks for.
func fill(dest, value []byte) (uint32, error) {
	if len(dest) > 0 && len(dest) < len(value) {
		return uint32(len(value)), unix.ERANGE
	}
	copy(dest, value)
	return uint32(len(value)), nil
}

// StatFs is statfs(2).
func (s *server) StatFs(_ <-chan struct{}, h *fuse.InHeader, out *fuse.StatfsOut) fuse.Status {
	statRoot(out)
	if h.NodeId == rootNode {
		return fuse.OK
	}
	return s.with(h.NodeId, func(l *shown, _ uint64, _ bool) error {
		out.Blocks = uint64(l.dataSize) / 4096
		out.Files = l.image.NumInodes()
		return nil
	})
}

// Forget has nothing to forget: node numbers have no state.
func (s *server) Forget(_, _ uint64) {}

// with runs fn on the layer that node belongs to. The layer is not closed before fn returns.
func (s *server) with(node uint64, fn func(l *shown, nid uint64, tree bool) error) fuse.Status {
	id, nid, tree := splitNode(node)
	l, ok := s.enter(id)
	if !ok {
		return fuse.Status(unix.ESTALE)
	}
	defer l.users.Done()
	return l.status(fn(l, nid, tree))
}

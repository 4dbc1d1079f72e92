package toc

import (
	"errors"
	"fmt"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/sluice-snapshotter/sluice/fs/metadata"
)

const (
	opaqueXattr = "trusted.overlay.opaque"

	maxXattrName  = 255       // XATTR_NAME_MAX
	maxXattrValue = 1<<16 - 1 // as EROFS counts it, one less than XATTR_SIZE_MAX
	// maxXattrs is the most bytes that the xattrs of an inode may take, less than the 256 KiB that EROFS has for them
	// by a margin for its own use, and far more than other file systems have.
	maxXattrs     = 1 << 17
	xattrOverhead = 8 // header and padding of each
)

// addXattrs gives n those of an entry's xattrs that unpacking would set.
func addXattrs(n *metadata.Node, xattrs map[string][]byte) error {
	for name, value := range xattrs {
		switch {
		case name == "" || len(name) > maxXattrName || strings.IndexByte(name, 0) >= 0:
			return fmt.Errorf("impossible name of xattr %s", quote(name))
		case len(value) > maxXattrValue:
			return fmt.Errorf("xattr %s of %d bytes, at most %d are possible", quote(name), len(value), maxXattrValue)
		case !keepsXattr(n.Mode, name):
			continue
		}
		if n.Xattrs == nil {
			n.Xattrs = make(map[string][]byte, len(xattrs))
		}
		n.Xattrs[name] = value
	}
	return nil
}

// checkXattrs refuses more of them than fit in an inode.
func checkXattrs(n *metadata.Node) error {
	size := 0
	for name, value := range n.Xattrs {
		size += len(name) + len(value) + xattrOverhead
	}
	if size > maxXattrs {
		return errors.New("too many or too long xattrs")
	}
	return nil
}

// keepsXattr reports whether unpacking would set an xattr of this name on an inode of this mode. All of trusted.* is
// left out, as containerd does: redirect, metacopy and opaque among it would let a layer reach into others.
// user.overlay.* means the same to overlayfs mounted with userxattr. The kernel has user.* on files and directories
// only, and no ACLs on symlinks.
func keepsXattr(mode uint32, name string) bool {
	file := mode & unix.S_IFMT
	switch {
	case strings.HasPrefix(name, "trusted."), strings.HasPrefix(name, "user.overlay."):
		return false
	case strings.HasPrefix(name, "user."):
		if file != unix.S_IFREG && file != unix.S_IFDIR {
			return false
		}
	case name == "system.posix_acl_access":
		if file == unix.S_IFLNK {
			return false
		}
	case name == "system.posix_acl_default":
		if file != unix.S_IFDIR {
			return false
		}
	}
	return metadata.HoldsXattr(name)
}

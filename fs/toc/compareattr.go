package toc

import (
	"bytes"
	"errors"
	"fmt"
	"time"

	"golang.org/x/sys/unix"

	"github.com/sluice-snapshotter/sluice/fs/metadata"
)

// attributes compares what an inode of the image has with what the tar says, but for xattrs and contents.
func (f *follower) attributes(path string, n *metadata.Node, in metadata.Inode) error {
	switch {
	case n.Mode != in.Mode:
		return differ(path, "mode %#o, in the tar %#o", in.Mode, n.Mode)
	case n.UID != in.UID || n.GID != in.GID:
		return differ(path, "owner %d:%d, in the tar %d:%d", in.UID, in.GID, n.UID, n.GID)
	case !sameTime(n.Mtime, in.Mtime):
		return differ(path, "modification time %s, in the tar %s", in.Mtime.Format(time.RFC3339Nano), n.Mtime.Format(time.RFC3339Nano))
	}
	switch n.Mode & unix.S_IFMT {
	case unix.S_IFREG:
		if n.Size != in.Size {
			return differ(path, "%d bytes, in the tar %d", in.Size, n.Size)
		}
	case unix.S_IFCHR, unix.S_IFBLK:
		if n.Rdev != in.Rdev {
			return differ(path, "device %d:%d, in the tar %d:%d",
				unix.Major(in.Rdev), unix.Minor(in.Rdev), unix.Major(n.Rdev), unix.Minor(n.Rdev))
		}
	}
	return nil
}

// sameTime says whether a TOC may have a time of a tar so: podman's have the fraction, estargz rounds it, and leaves out the first second after
// the epoch. Cutting it off is no lie either.
func sameTime(tar, shown time.Time) bool {
	if tar.Equal(shown) || shown.Equal(tar.Truncate(time.Second)) {
		return true
	}
	rounded, err := parseTime(timeOf(tar.Round(time.Second)))
	return err == nil && shown.Equal(rounded)
}

// xattrs compares those that an inode of the image has, and a symlink's target, with what the tar says. That a directory is opaque is passed
// over if that is to be looked at elsewhere.
func (f *follower) xattrs(path string, nid uint64, n *metadata.Node, passOpaque bool) error {
	if n.Mode&unix.S_IFMT == unix.S_IFLNK {
		target, err := f.Image.Readlink(nid)
		if err != nil {
			return err
		}
		if target != n.Target {
			return differ(path, "leads to %s, in the tar to %s", quote(target), quote(n.Target))
		}
	}
	names, err := f.Image.Listxattr(nid)
	if err != nil {
		return err
	}
	count := 0
	for _, name := range names {
		if passOpaque && name == opaqueXattr {
			continue
		}
		count++
		if _, ok := n.Xattrs[name]; !ok {
			return differ(path, "xattr %s, which the tar does not have", quote(name))
		}
	}
	for name, want := range n.Xattrs {
		if err := f.xattr(path, nid, name, want); err != nil {
			return err
		}
	}
	if count != len(n.Xattrs) { // a name twice: Write has not made this
		return fmt.Errorf("%w: xattrs of %s", metadata.ErrCorrupt, quote(path))
	}
	return nil
}

// xattr compares one xattr.
func (f *follower) xattr(path string, nid uint64, name string, want []byte) error {
	got, err := f.Image.Getxattr(nid, name)
	switch {
	case errors.Is(err, metadata.ErrNoXattr):
		return differ(path, "no xattr %s, which the tar has", quote(name))
	case err != nil:
		return err
	case !bytes.Equal(got, want):
		return differ(path, "xattr %s", quote(name))
	}
	return nil
}

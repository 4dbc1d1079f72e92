package images

import (
	"archive/tar"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// fromTree makes a layer of everything below root as it is, owners, devices, hard links and xattrs included. Root may be the upper folder
// of an overlay mount: what that says in overlayfs's own way is said in the OCI image specification's.
func fromTree(root string) entries {
	return func(ctx context.Context, w *tar.Writer) error {
		t := &treeWriter{w: w, root: root, names: make(map[inode]string)}
		return filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
			if err != nil || path == root {
				return err
			}
			if ctx.Err() != nil {
				return ctx.Err()
			}
			return t.add(path, d)
		})
	}
}

type inode struct{ dev, ino uint64 }

type treeWriter struct {
	w     *tar.Writer
	root  string
	names map[inode]string // of files with several links
}

func (t *treeWriter) add(path string, d fs.DirEntry) error {
	info, err := d.Info()
	if err != nil {
		return err
	}
	st, ok := info.Sys().(*syscall.Stat_t)
	if !ok {
		return fmt.Errorf("%s: no owner", path)
	}
	name, err := filepath.Rel(t.root, path)
	if err != nil {
		return err
	}
	if st.Mode&unix.S_IFMT == unix.S_IFCHR && st.Rdev == 0 {
		return addTexts(t.w, 0o644, whiteout(name), "")
	}
	if st.Mode&unix.S_IFMT == unix.S_IFSOCK {
		return nil // tar has none
	}
	h, err := t.header(path, name, info)
	if err != nil {
		return err
	}
	if first, ok := t.linked(st, name); ok {
		h.Typeflag, h.Linkname, h.Size = tar.TypeLink, first, 0
	}
	if err := t.w.WriteHeader(h); err != nil {
		return err
	}
	if info.IsDir() && opaque(path) {
		return addTexts(t.w, 0o644, filepath.Join(name, ".wh..wh..opq"), "")
	}
	if h.Typeflag != tar.TypeReg {
		return nil
	}
	return t.content(path)
}

// linked returns the name under which a file was added already.
func (t *treeWriter) linked(st *syscall.Stat_t, name string) (string, bool) {
	if st.Nlink < 2 || st.Mode&unix.S_IFMT == unix.S_IFDIR {
		return "", false
	}
	id := inode{st.Dev, st.Ino}
	first, ok := t.names[id]
	if !ok {
		t.names[id] = name
	}
	return first, ok
}

func (t *treeWriter) header(path, name string, info fs.FileInfo) (*tar.Header, error) {
	target := ""
	if info.Mode()&fs.ModeSymlink != 0 {
		var err error
		if target, err = os.Readlink(path); err != nil {
			return nil, err
		}
	}
	h, err := tar.FileInfoHeader(info, target)
	if err != nil {
		return nil, err
	}
	h.Name, h.Uname, h.Gname = name, "", ""
	if info.IsDir() {
		h.Name += "/"
	}
	// The only xattr that packages carry.
	value := make([]byte, 64)
	if n, err := unix.Lgetxattr(path, "security.capability", value); err == nil {
		xattr("security.capability", string(value[:n]))(h)
	}
	return h, nil
}

func (t *treeWriter) content(path string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	_, err = io.Copy(t.w, f)
	return errors.Join(err, f.Close())
}

func whiteout(name string) string {
	dir, base := filepath.Split(name)
	return dir + ".wh." + base
}

// opaque says whether an overlay's upper folder hides what lies below it.
func opaque(path string) bool {
	value := make([]byte, 8)
	n, err := unix.Lgetxattr(path, "trusted.overlay.opaque", value)
	return err == nil && strings.HasPrefix(string(value[:n]), "y")
}

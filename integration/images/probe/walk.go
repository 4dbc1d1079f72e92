package main

import (
	"bufio"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

// entry is one path as lstat, readlink, listxattr and read show it. integration reads it back.
type entry struct {
	Path   string            `json:"path"`
	Type   string            `json:"type"` // dir, file, symlink, char, block, fifo, socket
	Mode   uint32            `json:"mode"` // permission, setuid, setgid, sticky
	UID    uint32            `json:"uid"`
	GID    uint32            `json:"gid"`
	Mtime  int64             `json:"mtime"` // ns since 1970
	Dev    uint64            `json:"dev"`
	Nlink  uint64            `json:"nlink,omitempty"` // not of directories, where file systems differ
	Link   string            `json:"link,omitempty"`  // the first path seen with this inode, if there was one
	Rdev   uint64            `json:"rdev,omitempty"`
	Target string            `json:"target,omitempty"`
	Size   int64             `json:"size,omitempty"` // regular files
	SHA256 string            `json:"sha256,omitempty"`
	Xattrs map[string]string `json:"xattrs,omitempty"` // values in hex
}

type walker struct {
	out   *json.Encoder
	data  bool
	first map[[2]uint64]string // device and inode to the first path
}

func walk(args []string) (err error) {
	flags := flag.NewFlagSet("walk", flag.ContinueOnError)
	data := flags.Bool("data", false, "hash the contents of files")
	to := flags.String("out", "/dev/stdout", "write to this `FILE`")
	if err := flags.Parse(args); err != nil {
		return err
	}
	if flags.NArg() == 0 {
		return errors.New("walk: which folder?")
	}
	f, err := os.OpenFile(*to, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o644)
	if err != nil {
		return err
	}
	w := bufio.NewWriter(f)
	defer func() { err = errors.Join(err, w.Flush(), f.Close()) }()
	k := &walker{out: json.NewEncoder(w), data: *data, first: make(map[[2]uint64]string)}
	for _, dir := range flags.Args() {
		// WalkDir goes through each folder in lexical order, which makes "first path" well defined.
		if err := filepath.WalkDir(dir, k.visit); err != nil {
			return err
		}
	}
	return nil
}

func (k *walker) visit(path string, _ fs.DirEntry, err error) error {
	if err != nil {
		return err
	}
	e, err := k.entry(path)
	if err != nil {
		return err
	}
	return k.out.Encode(e)
}

func (k *walker) entry(path string) (entry, error) {
	var st unix.Stat_t
	if err := unix.Lstat(path, &st); err != nil {
		return entry{}, fmt.Errorf("lstat %s: %w", path, err)
	}
	e := entry{
		Path: path, Type: kind(st.Mode), Mode: st.Mode & 0o7777, UID: st.Uid, GID: st.Gid,
		Mtime: st.Mtim.Nano(), Dev: st.Dev,
	}
	var err error
	switch st.Mode & unix.S_IFMT {
	case unix.S_IFLNK:
		e.Target, err = os.Readlink(path)
	case unix.S_IFREG:
		e.Size = st.Size
		if k.data {
			e.SHA256, err = sum(path)
		}
	case unix.S_IFCHR, unix.S_IFBLK:
		e.Rdev = st.Rdev
	}
	if err != nil {
		return entry{}, err
	}
	if e.Type != "dir" {
		e.Nlink = st.Nlink
		id := [2]uint64{st.Dev, st.Ino}
		if first, ok := k.first[id]; ok {
			e.Link = first
		} else {
			k.first[id] = path
		}
	}
	e.Xattrs, err = xattrs(path)
	return e, err
}

func kind(mode uint32) string {
	switch mode & unix.S_IFMT {
	case unix.S_IFDIR:
		return "dir"
	case unix.S_IFREG:
		return "file"
	case unix.S_IFLNK:
		return "symlink"
	case unix.S_IFCHR:
		return "char"
	case unix.S_IFBLK:
		return "block"
	case unix.S_IFIFO:
		return "fifo"
	}
	return "socket"
}

func sum(path string) (string, error) {
	f, err := os.Open(path)
	if err != nil {
		return "", err
	}
	defer f.Close()
	h := sha256.New()
	if _, err := io.Copy(h, f); err != nil {
		return "", err
	}
	return hex.EncodeToString(h.Sum(nil)), nil
}

func xattrs(path string) (map[string]string, error) {
	n, err := unix.Llistxattr(path, nil)
	if errors.Is(err, unix.ENOTSUP) || (err == nil && n == 0) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("listxattr %s: %w", path, err)
	}
	names := make([]byte, n)
	if n, err = unix.Llistxattr(path, names); err != nil {
		return nil, fmt.Errorf("listxattr %s: %w", path, err)
	}
	if n == 0 { // overlayfs counts its own xattrs in the first answer and leaves them out of the second
		return nil, nil
	}
	m := make(map[string]string)
	for name := range strings.SplitSeq(strings.TrimRight(string(names[:n]), "\x00"), "\x00") {
		value := make([]byte, 64<<10) // XATTR_SIZE_MAX
		n, err := unix.Lgetxattr(path, name, value)
		if err != nil {
			return nil, fmt.Errorf("getxattr %s %s: %w", path, name, err)
		}
		m[name] = hex.EncodeToString(value[:n])
	}
	return m, nil
}

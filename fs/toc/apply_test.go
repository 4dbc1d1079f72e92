package toc

import (
	"archive/tar"
	"bytes"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/containerd/containerd/v2/pkg/archive"
	"github.com/containerd/stargz-snapshotter/estargz"
	"golang.org/x/sys/unix"

	"github.com/sluice-snapshotter/sluice/fs/metadata"
)

// TestTreeIsWhatContainerdUnpacks unpacks layers as containerd's overlayfs snapshotter does, and compares.
func TestTreeIsWhatContainerdUnpacks(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("unpacking whiteouts and owners takes root")
	}
	for name, members := range unpackable(t) {
		t.Run(name, func(t *testing.T) {
			layer := makeTar(t, members...)
			want := unpack(t, layer)
			l := packAsIs(t, layer).layout(t)
			compareTrees(t, flatten(l.Root), want)
			compareTrees(t, flatten(index(t, layer).Root), want)
		})
	}
}

// unpackable are layers with all that a TOC can describe.
func unpackable(t *testing.T) map[string][]member {
	t.Helper()
	capability := "\x01\x00\x00\x02\x00\x20\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00"
	owned := func(m member, uid, gid int) member {
		return m.with(func(h *tar.Header) { h.Uid, h.Gid, h.Uname, h.Gname = uid, gid, "daemon", "mail" })
	}
	aged := func(m member, at time.Time) member {
		return m.with(func(h *tar.Header) { h.ModTime, h.Format = at, tar.FormatPAX })
	}
	mode := func(m member, mode int64) member { return m.with(func(h *tar.Header) { h.Mode = mode }) }
	opaque := reg("d/.wh..wh..opq", "")
	return map[string][]member{
		"types": {
			dir("d/", 0o1777), owned(reg("d/f", "data"), 7, 1<<31), link(tar.TypeSymlink, "d/l", "../nowhere"),
			device(tar.TypeChar, "d/null", 1, 3), device(tar.TypeBlock, "d/sda", 8, 1<<19), link(tar.TypeFifo, "d/p", ""),
			mode(reg("setuid", "x"), 0o6755), mode(reg("docker", "x"), 0o100644), mode(dir("dockerdir/", 0), 0o40711),
			owned(link(tar.TypeSymlink, "l", "d"), 5, 6), device(tar.TypeChar, "zero", 0, 0),
		},
		"names": {
			dir("./", 0o700), dir("./a/", 0o755), reg("./a/b", "1"), dir("c", 0o755), reg("c/./d", "2"),
			reg("spa ce \n\\ ü \x01", "3"), reg(strings.Repeat("n", 255), "4"), reg("wh.x", "5"), reg("a.wh.", "6"),
		},
		"times": {
			aged(reg("old", ""), time.Unix(0, 0)), aged(reg("before", ""), time.Date(1950, 1, 1, 0, 0, 0, 0, time.UTC)),
			aged(reg("late", ""), time.Date(2200, 1, 1, 0, 0, 0, 0, time.UTC)), aged(reg("end", ""), time.Date(2300, 1, 1, 0, 0, 0, 0, time.UTC)),
			aged(dir("d", 0o755), when.Add(-time.Hour)), reg("d/f", ""),
		},
		"hard links": {
			reg("a", "body"), link(tar.TypeLink, "b", "a"), link(tar.TypeLink, "d/c", "./b"),
			link(tar.TypeSymlink, "s", "a"), link(tar.TypeLink, "t", "s"), link(tar.TypeLink, "abs", "/a"), link(tar.TypeFifo, "p", ""), link(tar.TypeLink, "q", "p"),
		},
		"hard links change attributes": {
			owned(mode(reg("a", "body"), 0o600), 1, 2), aged(owned(mode(link(tar.TypeLink, "b", "a"), 0o4711), 3, 4), when.Add(time.Hour)),
			reg("caps", "x").xattr("security.capability", capability), link(tar.TypeLink, "caps2", "caps"),
			reg("kept", "x").xattr("security.capability", capability), link(tar.TypeLink, "kept2", "kept").xattr("security.capability", capability),
			reg("u", "x").xattr("user.one", "1"), link(tar.TypeLink, "u2", "u").xattr("user.two", "2"),
		},
		"repeated directory": {
			dir("d/", 0o700).xattr("user.one", "1"), reg("d/f", "x"), owned(dir("d", 0o751).xattr("user.two", "2"), 9, 9), reg("d/g", "y"),
		},
		"whiteouts": {
			dir("d/", 0o755), owned(mode(reg("d/.wh.gone", ""), 0o644), 3, 4), opaque, reg("d/.wh.dir", ""), reg(".wh.top", ""),
			reg(".wh.back", ""), reg("back", "it is"), reg(".wh.backdir", ""), dir("backdir", 0o700), reg("backdir/f", "x"),
			dir(".wh.isdir", 0o755),
		},
		"opaque before and after": {dir("d/", 0o755), opaque, reg("d/f", "x"), dir("e", 0o755), reg("e/f", "x"), reg("e/.wh..wh..opq", ""), dir("e", 0o711)},
		"opaque root":             {reg(".wh..wh..opq", ""), reg("f", "x")},
		"xattrs": {
			reg("f", "x").xattr("user.a", "\x00\xff"), reg("cap", "x").xattr("security.capability", capability),
			reg("t", "x").xattr("trusted.overlay.redirect", "/etc"), dir("m", 0o755).xattr("trusted.overlay.opaque", "y"),
			reg("meta", "x").xattr("trusted.overlay.metacopy", ""), reg("t2", "x").xattr("trusted.other", "y"),
			link(tar.TypeSymlink, "l", "f").xattr("user.a", "1"), reg("mac", "x").xattr("com.apple.quarantine", "1"),
			reg("empty", "x").xattr("user.empty", ""),
		},
		"real files": append([]member{dir("./", 0o755)}, goSources(t, "src/strings")...),
	}
}

// packAsIs leaves out what estargz.Build does to a tar: it drops what is there twice, and adds landmarks.
func packAsIs(t *testing.T, layer []byte) blob {
	t.Helper()
	var buf bytes.Buffer
	w := estargz.NewWriter(&buf)
	w.ChunkSize = 4096
	if err := w.AppendTar(bytes.NewReader(layer)); err != nil {
		t.Fatal(err)
	}
	toc, err := w.Close()
	if err != nil {
		t.Fatal(err)
	}
	return blob{bytes: buf.Bytes(), toc: toc, format: EStargz}
}

// stat is what is compared of a file. Times that unpacking takes from the clock, and the contents, are left out.
type stat struct {
	mode, uid, gid uint32
	rdev           uint64
	size           int64
	mtime          time.Time
	target, links  string // links are the names of the inode
	xattrs         string
}

func unpack(t *testing.T, layer []byte) map[string]stat {
	t.Helper()
	root := t.TempDir()
	_, err := archive.Apply(t.Context(), root, bytes.NewReader(layer), archive.WithConvertWhiteout(archive.OverlayConvertWhiteout))
	if err != nil {
		t.Fatal(err)
	}
	files, inodes := map[string]stat{}, map[uint64][]string{}
	err = filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		var st unix.Stat_t
		if err := unix.Lstat(path, &st); err != nil {
			return fmt.Errorf("%s: %w", path, err)
		}
		s := stat{mode: st.Mode, uid: st.Uid, gid: st.Gid, mtime: time.Unix(st.Mtim.Unix()).UTC()}
		switch st.Mode & unix.S_IFMT {
		case unix.S_IFREG:
			s.size = st.Size
		case unix.S_IFCHR, unix.S_IFBLK:
			s.rdev = st.Rdev
		case unix.S_IFLNK:
			if s.target, err = os.Readlink(path); err != nil {
				return err
			}
		}
		s.xattrs = xattrsOf(t, path)
		name := strings.TrimPrefix(strings.TrimPrefix(path, root), "/")
		files[name] = s
		inodes[st.Ino] = append(inodes[st.Ino], name)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	for _, names := range inodes {
		for _, name := range names {
			s := files[name]
			s.links = fmt.Sprint(names)
			files[name] = s
		}
	}
	return files
}

func xattrsOf(t *testing.T, path string) string {
	t.Helper()
	names := make([]byte, 1<<16)
	n, err := unix.Llistxattr(path, names)
	if err != nil {
		t.Fatal(err)
	}
	xattrs := map[string][]byte{}
	for name := range strings.SplitSeq(strings.TrimSuffix(string(names[:n]), "\x00"), "\x00") {
		if name == "" || name == "security.selinux" {
			continue
		}
		value := make([]byte, 1<<16)
		n, err := unix.Lgetxattr(path, name, value)
		if err != nil {
			t.Fatal(err)
		}
		xattrs[name] = value[:n]
	}
	return showXattrs(xattrs)
}

func showXattrs(xattrs map[string][]byte) string {
	var b strings.Builder
	for _, name := range slices.Sorted(maps.Keys(xattrs)) {
		fmt.Fprintf(&b, "%s=%q ", name, xattrs[name])
	}
	return b.String()
}

func flatten(root *metadata.Node) map[string]stat {
	files, inodes := map[string]stat{}, map[*metadata.Node][]string{}
	var walk func(name string, n *metadata.Node)
	walk = func(name string, n *metadata.Node) {
		files[name] = stat{mode: n.Mode, uid: n.UID, gid: n.GID, rdev: n.Rdev, size: n.Size, mtime: n.Mtime,
			target: n.Target, xattrs: showXattrs(n.Xattrs)}
		inodes[n] = append(inodes[n], name)
		for _, base := range slices.Sorted(maps.Keys(n.Children)) {
			walk(strings.TrimPrefix(name+"/"+base, "/"), n.Children[base])
		}
	}
	walk("", root)
	for _, names := range inodes {
		for _, name := range names {
			s := files[name]
			s.links = fmt.Sprint(names)
			files[name] = s
		}
	}
	return files
}

func compareTrees(t *testing.T, got, want map[string]stat) {
	t.Helper()
	for name, w := range want {
		g, ok := got[name]
		if !ok {
			t.Errorf("%q is missing", name)
			continue
		}
		if isWhiteout(w) || time.Since(w.mtime) < time.Hour {
			w.mtime = g.mtime // of the moment of unpacking
		}
		if name == "" {
			w.mode = w.mode&^modeBits | 0o755 // the snapshotter makes the root
		}
		if g != w {
			t.Errorf("%q:\n got %+v\nwant %+v", name, g, w)
		}
	}
	for name := range got {
		if _, ok := want[name]; !ok {
			t.Errorf("%q is too much", name)
		}
	}
}

func isWhiteout(s stat) bool { return s.mode == unix.S_IFCHR && s.rdev == 0 }

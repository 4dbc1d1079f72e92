package fs

import (
	"archive/tar"
	"bytes"
	"errors"
	iofs "io/fs"
	"os"
	"path/filepath"
	"slices"
	"sort"
	"strings"
	"sync"
	"syscall"
	"testing"

	"github.com/opencontainers/go-digest"
	"golang.org/x/sys/unix"
)

// everything is a layer with one of each.
func everything() []file {
	long := strings.Repeat("n", 255)
	files := []file{
		dir("etc"), dir("bin"), dir("many"), dir("empty"),
		regular("etc/hosts", []byte("127.0.0.1 localhost\n")),
		regular("etc/nothing", nil),
		regular("etc/"+long, []byte("long")),
		regular("bin/big", noise(1, 5<<20+123)),
		regular("bin/page", noise(2, 4096)),
		{Header: tar.Header{Typeflag: tar.TypeLink, Name: "etc/hosts2", Linkname: "etc/hosts", Mode: 0o644, ModTime: epoch}},
		{Header: tar.Header{Typeflag: tar.TypeLink, Name: "bin/hosts3", Linkname: "etc/hosts", Mode: 0o644, ModTime: epoch}},
		{Header: tar.Header{Typeflag: tar.TypeSymlink, Name: "etc/link", Linkname: "../bin/big", Mode: 0o777, ModTime: epoch}},
		{Header: tar.Header{Typeflag: tar.TypeSymlink, Name: "etc/dangling", Linkname: strings.Repeat("x/", 500), Mode: 0o777, ModTime: epoch}},
		{Header: tar.Header{Typeflag: tar.TypeChar, Name: "bin/char", Devmajor: 5, Devminor: 300, Mode: 0o600, ModTime: epoch}},
		{Header: tar.Header{Typeflag: tar.TypeBlock, Name: "bin/block", Devmajor: 259, Devminor: 7, Mode: 0o660, ModTime: epoch}},
		{Header: tar.Header{Typeflag: tar.TypeFifo, Name: "bin/fifo", Mode: 0o640, ModTime: epoch}},
	}
	setuid := regular("bin/setuid", []byte("#!/bin/sh\n"))
	setuid.Mode, setuid.Uid, setuid.Gid = 0o6755, 1000, 70000
	setuid.PAXRecords = map[string]string{
		"SCHILY.xattr.user.greeting":       "hello",
		"SCHILY.xattr.user.large":          strings.Repeat("v", 3000),
		"SCHILY.xattr.security.capability": "\x01\x00\x00\x02\x00\x20\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00",
	}
	files = append(files, setuid)
	for i := range 1000 {
		files = append(files, regular("many/"+strings.Repeat("0", i%40)+digest.FromString(string(rune(i))).Encoded(), []byte{byte(i)}))
	}
	return files
}

func TestTree(t *testing.T) {
	l := buildBlob(t, everything())
	inModes(t, func(t *testing.T, mode Mode) {
		for _, background := range []bool{false, true} {
			t.Run(map[bool]string{false: "demand", true: "background"}[background], func(t *testing.T) {
				r := newRegistry(t, l)
				n := newNode(t, Options{Mode: mode, Background: background})
				compare(t, n.mountLayer(t, r.source(l)), l.files)
			})
		}
	})
}

// compare checks that root shows the files of a tar, which has all parents, and no others.
func compare(t *testing.T, root string, files []file) {
	t.Helper()
	inodes := make(map[string]uint64)
	links := make(map[string]int) // by target
	for _, f := range files {
		if f.Typeflag == tar.TypeLink {
			links[f.Linkname]++
		}
	}
	var want []string
	for _, f := range files {
		name := strings.TrimSuffix(f.Name, "/")
		want = append(want, name)
		var st unix.Stat_t
		if err := unix.Lstat(filepath.Join(root, name), &st); err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		inodes[name] = st.Ino
		if f.Typeflag != tar.TypeLink {
			compareFile(t, filepath.Join(root, name), f, st, 1+links[name])
		} else if st.Ino != inodes[f.Linkname] {
			t.Errorf("%s: inode is %d, that of %s is %d", name, st.Ino, f.Linkname, inodes[f.Linkname])
		}
	}
	if got := walk(t, root); !slices.Equal(got, sorted(want)) {
		t.Errorf("names are\n%q, want\n%q", got, sorted(want))
	}
}

func sorted(s []string) []string { sort.Strings(s); return s }

func walk(t *testing.T, root string) []string {
	t.Helper()
	var names []string
	err := filepath.WalkDir(root, func(path string, _ iofs.DirEntry, err error) error {
		if path != root {
			names = append(names, strings.TrimPrefix(path, root+"/"))
		}
		return err
	})
	if err != nil {
		t.Error(err)
	}
	return sorted(names)
}

var typeBits = map[byte]uint32{
	tar.TypeDir: unix.S_IFDIR, tar.TypeReg: unix.S_IFREG, tar.TypeSymlink: unix.S_IFLNK,
	tar.TypeChar: unix.S_IFCHR, tar.TypeBlock: unix.S_IFBLK, tar.TypeFifo: unix.S_IFIFO,
}

func compareFile(t *testing.T, path string, f file, st unix.Stat_t, nlink int) {
	t.Helper()
	if want := typeBits[f.Typeflag] | uint32(f.Mode); st.Mode != want {
		t.Errorf("%s: mode is %o, want %o", f.Name, st.Mode, want)
	}
	if int(st.Uid) != f.Uid || int(st.Gid) != f.Gid {
		t.Errorf("%s: owner is %d:%d, want %d:%d", f.Name, st.Uid, st.Gid, f.Uid, f.Gid)
	}
	if f.Typeflag != tar.TypeDir && int(st.Nlink) != nlink {
		t.Errorf("%s: nlink is %d, want %d", f.Name, st.Nlink, nlink)
	}
	// estargz keeps whole seconds.
	if st.Mtim.Sec != f.ModTime.Unix() {
		t.Errorf("%s: mtime is %d, want %d", f.Name, st.Mtim.Sec, f.ModTime.Unix())
	}
	switch f.Typeflag {
	case tar.TypeReg:
		if st.Size != int64(len(f.data)) {
			t.Errorf("%s: size is %d, want %d", f.Name, st.Size, len(f.data))
		}
		if got, err := os.ReadFile(path); err != nil || !bytes.Equal(got, f.data) {
			t.Errorf("%s: contents differ (%v)", f.Name, err)
		}
	case tar.TypeSymlink:
		if got, err := os.Readlink(path); err != nil || got != f.Linkname {
			t.Errorf("%s: target is %q (%v), want %q", f.Name, got, err, f.Linkname)
		}
	case tar.TypeChar, tar.TypeBlock:
		if want := unix.Mkdev(uint32(f.Devmajor), uint32(f.Devminor)); st.Rdev != want {
			t.Errorf("%s: rdev is %#x, want %#x", f.Name, st.Rdev, want)
		}
	}
	compareXattrs(t, path, f)
}

func compareXattrs(t *testing.T, path string, f file) {
	t.Helper()
	var want []string
	for key, value := range f.PAXRecords {
		name, ok := strings.CutPrefix(key, "SCHILY.xattr.")
		if !ok {
			continue
		}
		want = append(want, name)
		p := make([]byte, 64<<10)
		n, err := unix.Lgetxattr(path, name, p)
		if err != nil || string(p[:n]) != value {
			t.Errorf("%s: xattr %s is %q (%v), want %q", f.Name, name, p[:max(n, 0)], err, value)
		}
		if _, err := unix.Lgetxattr(path, name, p[:1]); err != unix.ERANGE {
			t.Errorf("%s: xattr %s into one byte: %v, want ERANGE", f.Name, name, err)
		}
	}
	p := make([]byte, 64<<10)
	n, err := unix.Llistxattr(path, p)
	if err != nil {
		t.Errorf("%s: list xattrs: %v", f.Name, err)
		return
	}
	got := strings.FieldsFunc(string(p[:n]), func(r rune) bool { return r == 0 })
	if !slices.Equal(sorted(got), sorted(want)) {
		t.Errorf("%s: xattrs are %q, want %q", f.Name, got, want)
	}
	_, err = unix.Lgetxattr(path, "user.none", p)
	if bare := err == unix.EOPNOTSUPP && len(want) == 0 && onFUSE(t, path); err != unix.ENODATA && !bare { // see TestBare
		t.Errorf("%s: xattr that is not there: %v, want ENODATA", f.Name, err)
	}
}

func TestSeekAndStatfs(t *testing.T) {
	l := buildBlob(t, []file{regular("f", noise(1, 10000))})
	inModes(t, func(t *testing.T, mode Mode) {
		n := newNode(t, Options{Mode: mode})
		root := n.mountLayer(t, newRegistry(t, l).source(l))
		fd, err := unix.Open(filepath.Join(root, "f"), unix.O_RDONLY|unix.O_CLOEXEC, 0)
		if err != nil {
			t.Fatal(err)
		}
		defer unix.Close(fd)
		for _, c := range []struct {
			off    int64
			whence int
			want   int64
			err    error
		}{
			{0, unix.SEEK_DATA, 0, nil},
			{5000, unix.SEEK_DATA, 5000, nil},
			{0, unix.SEEK_HOLE, 10000, nil},
			{9999, unix.SEEK_HOLE, 10000, nil},
			{10000, unix.SEEK_DATA, 0, unix.ENXIO},
			{10000, unix.SEEK_HOLE, 0, unix.ENXIO},
		} {
			if got, err := unix.Seek(fd, c.off, c.whence); !errors.Is(err, c.err) || err == nil && got != c.want {
				t.Errorf("seek %d from %d: %d, %v; want %d, %v", c.whence, c.off, got, err, c.want, c.err)
			}
		}
		var st unix.Statfs_t
		if err := unix.Statfs(root, &st); err != nil || st.Namelen != 255 {
			t.Errorf("statfs: %+v, %v", st, err)
		}
		if err := os.WriteFile(filepath.Join(root, "new"), nil, 0o600); !errors.Is(err, syscall.EROFS) {
			t.Errorf("write: %v, want EROFS", err)
		}
	})
}

// TestOverlay stacks two layers as a container sees them.
func TestOverlay(t *testing.T) {
	bottom := buildBlob(t, []file{dir("d"), dir("o"), regular("d/kept", []byte("1")), regular("d/gone", []byte("2")), regular("o/hidden", []byte("3"))})
	top := buildBlob(t, []file{dir("d"), dir("o"), regular("d/.wh.gone", nil), regular("o/.wh..wh..opq", nil), regular("o/seen", []byte("4")), regular("d/new", noise(1, 100000))})
	inModes(t, func(t *testing.T, mode Mode) {
		r := newRegistry(t, bottom, top)
		n := newNode(t, Options{Mode: mode})
		lower := n.mountLayer(t, r.source(top)) + ":" + n.mountLayer(t, r.source(bottom))
		merged := t.TempDir()
		if err := unix.Mount("overlay", merged, "overlay", unix.MS_RDONLY, "lowerdir="+lower); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() {
			if err := unix.Unmount(merged, 0); err != nil {
				t.Error(err)
			}
		})
		want := []string{"d", "d/kept", "d/new", "o", "o/seen"}
		if got := walk(t, merged); !slices.Equal(got, want) {
			t.Errorf("names are %q, want %q", got, want)
		}
		if got, err := os.ReadFile(filepath.Join(merged, "d/new")); err != nil || !bytes.Equal(got, noise(1, 100000)) {
			t.Errorf("contents differ: %v", err)
		}
	})
}

// TestConcurrentMounts mounts one layer many times at once, with its sibling.
func TestConcurrentMounts(t *testing.T) {
	a := buildBlob(t, []file{regular("a", noise(1, 1000))})
	b := buildBlob(t, []file{regular("b", noise(2, 1000))})
	inModes(t, func(t *testing.T, mode Mode) {
		r := newRegistry(t, a, b)
		n := newNode(t, Options{Mode: mode})
		var wg sync.WaitGroup
		for range 20 {
			for _, l := range []blob{a, b} {
				wg.Go(func() {
					if err := n.Mount(t.Context(), r.source(l)); err != nil {
						t.Error(err)
					}
				})
			}
		}
		wg.Wait()
		if got := r.manifests.Load(); got != 1 {
			t.Errorf("manifest was fetched %d times", got)
		}
		if got := len(n.Status()); got != 2 {
			t.Errorf("%d layers are mounted, want 2", got)
		}
		wantMounts := map[Mode]int{EROFS: 3, Loop: 3, FUSE: 2}[mode]
		if got := mountsBelow(t, n.root); len(got) != wantMounts {
			t.Errorf("mounts are %q", got)
		}
	})
}

func TestRootDirectory(t *testing.T) {
	a := buildBlob(t, []file{regular("a", noise(1, 1000))})
	b := buildBlob(t, []file{regular("b", noise(2, 1000))})
	r := newRegistry(t, a, b)
	n := newNode(t, Options{Mode: FUSE})
	served := filepath.Join(n.root, "state", "fuse")
	list := func() []string { return walk1(t, served) }
	if got := list(); len(got) != 0 {
		t.Errorf("before: %q", got)
	}
	if _, err := os.Lstat(filepath.Join(served, "1")); !errors.Is(err, iofs.ErrNotExist) {
		t.Errorf("before: %v", err)
	}
	pa, pb := n.mountLayer(t, r.source(a)), n.mountLayer(t, r.source(b))
	ia, ib := filepath.Base(pa), filepath.Base(pb)
	if got, want := list(), sorted([]string{ia, ia + ".blob", ib, ib + ".blob"}); !slices.Equal(got, want) {
		t.Errorf("with two: %q, want %q", got, want)
	}
	if err := n.Unmount(t.Context(), a.digest); err != nil {
		t.Fatal(err)
	}
	if got, want := list(), []string{ib, ib + ".blob"}; !slices.Equal(got, want) {
		t.Errorf("with one: %q, want %q", got, want)
	}
	if _, err := os.Lstat(pa); !errors.Is(err, iofs.ErrNotExist) {
		t.Errorf("after: %v", err)
	}
	for _, name := range []string{"0", "01", "+1", "1.blob.blob", "x", "4294967296"} {
		if _, err := os.Lstat(filepath.Join(served, name)); !errors.Is(err, iofs.ErrNotExist) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func walk1(t *testing.T, dir string) []string {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, e := range entries {
		names = append(names, e.Name())
	}
	return names
}

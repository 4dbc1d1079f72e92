package fs

import (
	"archive/tar"
	"bytes"
	"errors"
	"fmt"
	"os"
	"strings"
	"testing"

	"github.com/opencontainers/go-digest"
	"golang.org/x/sys/unix"
)

func symlink(name, target string) file {
	return file{Header: tar.Header{Typeflag: tar.TypeSymlink, Name: name, Linkname: target, Mode: 0o777, ModTime: epoch}}
}

func text(name, content string) file { return regular(name, []byte(content)) }

// stacked are three layers with all that one can do to those below, the topmost first.
func stacked(t *testing.T) []blob {
	t.Helper()
	bottom := []file{
		dir("usr"), dir("usr/lib"), dir("etc"), dir("opt"), dir("opt/a"), dir("w"), dir("d2f"), dir("d2l"), dir("deep"), dir("deep/er"),
		text("usr/lib/libc-1.so", "libc of the bottom"), symlink("usr/lib/libc.so.6", "libc-1.so"), symlink("lib", "usr/lib"), symlink("lib64", "/usr/lib"),
		symlink("slash", "usr/lib/"), symlink("slashes", "//usr///lib//libc.so.6"), text("x", "x of the root"), text("usr/x", "x of usr"),
		text("etc/kept", "kept"), text("etc/gone", "gone"), text("etc/replaced", "bottom's"), text("etc/empty", ""), text("etc/emptied", "not yet"),
		text("opt/a/hidden", "hidden"), text("w/old", "old"), text("f2d", "a file"), text("d2f/inner", "inner"), text("d2l/inner", "inner"),
		text("deep/er/file", "deep"), symlink("deep/er/up", "../../../../../etc/kept"), symlink("up", "../etc/kept"), symlink("deep/er/dotted", "./../../etc/kept"), symlink("root", "/"), symlink("above", ".."),
		symlink("dot", "./etc/./kept"), symlink("dots", "usr/lib/../../etc/kept"), symlink("over", "lib/../x"), symlink("here", "."),
		symlink("loop", "loop"), symlink("loop1", "loop2"), symlink("loop2", "/loop1"), symlink("inside", "inside/x"), symlink("dangling", "nowhere"),
		symlink("throughfile", "etc/kept/x"), symlink("link0", "etc/kept"),
		{Header: tar.Header{Typeflag: tar.TypeFifo, Name: "etc/fifo", Mode: 0o640, ModTime: epoch}},
		{Header: tar.Header{Typeflag: tar.TypeChar, Name: "etc/null", Devmajor: 1, Devminor: 3, Mode: 0o600, ModTime: epoch}},
	}
	for i := range 45 {
		bottom = append(bottom, symlink(fmt.Sprintf("link%d", i+1), fmt.Sprintf("link%d", i)))
	}
	middle := []file{
		dir("usr"), dir("usr/lib"), dir("etc"), dir("opt"), dir("opt/a"), dir("f2d"), text("etc/.wh.gone", ""), text(".wh.w", ""),
		text("opt/a/.wh..wh..opq", ""), text("opt/a/seen", "seen"), text("f2d/inner", "in what was a file"), text("d2f", "what was a folder"),
		symlink("d2l", "etc"), text("etc/replaced", "middle's"), text("etc/emptied", ""), symlink("usr/lib/libm.so", "libm-1.so"),
	}
	top := []file{
		dir("usr"), dir("usr/lib"), dir("w"), dir("opt"), dir("opt/a"), dir("etc"), text("usr/lib/libm-1.so", "libm of the top"), text("w/new", "new"),
		text("opt/a/top", "top"), text("etc/.wh.replaced", ""),
	}
	return []blob{buildBlob(t, top), buildBlob(t, middle), buildBlob(t, bottom)}
}

// TestChain compares what is found in layers with what the kernel finds in them, stacked by overlayfs, for who has them as root.
func TestChain(t *testing.T) {
	layers := stacked(t)
	r := newRegistry(t, layers...)
	n := newNode(t, Options{Mode: FUSE})
	var ds []digest.Digest
	var lower []string
	for _, l := range layers {
		lower = append(lower, n.mountLayer(t, r.source(l)))
		ds = append(ds, l.digest)
	}
	merged := t.TempDir()
	if err := unix.Mount("overlay", merged, "overlay", unix.MS_RDONLY, "lowerdir="+strings.Join(lower, ":")); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(merged, 0); err != nil {
			t.Error(err)
		}
	})
	names := walk(t, merged)
	names = append(names, "etc/gone", "etc/replaced", "opt/a/hidden", "w/old", "d2f/inner", "f2d", "", "/", "nowhere/x", "etc/kept/x")
	for _, in := range []string{"lib/", "lib64/", "slash/", "root/lib64/", "above/above/lib/", "here/here/usr/lib/", "/../../lib/", "lib/../lib/", "d2l/../usr/./lib//"} {
		for _, name := range []string{"libc.so.6", "libm.so", "nothing", "../x", "../../x", "../../../../etc/kept"} {
			names = append(names, in+name)
		}
	}
	found := 0
	n.withChain(ds, func(c chain) {
		for _, name := range names {
			want, regular := resolve(t, merged, name)
			e, ok := c.file(name, newLooks())
			if ok != regular {
				t.Errorf("%q: found %t, want %t", name, ok, regular)
			}
			if !ok || !regular {
				continue
			}
			found++
			got := make([]byte, e.size)
			if _, err := e.layer.ReadAt(t.Context(), got, e.off); err != nil || !bytes.Equal(got, want) {
				t.Errorf("%q is %q, %v, want %q", name, got, err, want)
			}
		}
	})
	if found < 60 {
		t.Errorf("%d of %d names are files", found, len(names))
	}
}

// resolve reads a file as one would whose root is a folder. regular is whether there is one that is not empty.
func resolve(t *testing.T, root, name string) (content []byte, regular bool) {
	t.Helper()
	at, err := unix.Open(root, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(at)
	how := unix.OpenHow{Flags: unix.O_RDONLY | unix.O_NONBLOCK | unix.O_CLOEXEC, Resolve: unix.RESOLVE_IN_ROOT}
	fd, err := unix.Openat2(at, "./"+name, &how)
	for errors.Is(err, unix.EAGAIN) || errors.Is(err, unix.EINTR) { // something was renamed or mounted meanwhile, anywhere: .. may lead out
		fd, err = unix.Openat2(at, "./"+name, &how)
	}
	if err != nil {
		return nil, false
	}
	f := os.NewFile(uintptr(fd), name)
	defer f.Close()
	info, err := f.Stat()
	if err != nil || !info.Mode().IsRegular() || info.Size() == 0 {
		return nil, false
	}
	content = make([]byte, info.Size())
	if _, err := f.ReadAt(content, 0); err != nil {
		t.Error(err)
	}
	return content, true
}

// TestChainFolder: a file's folder is that in which it lies, for $ORIGIN.
func TestChainFolder(t *testing.T) {
	layers := stacked(t)
	r := newRegistry(t, layers...)
	n := newNode(t, Options{Mode: FUSE})
	ds := []digest.Digest{digest.FromString("not mounted")}
	for _, l := range layers {
		n.mountLayer(t, r.source(l))
		ds = append(ds, l.digest)
	}
	n.withChain(ds, func(c chain) {
		if len(c) != len(layers) {
			t.Errorf("%d layers are mounted", len(c))
		}
		for name, want := range map[string]string{
			"lib/libc.so.6": "/usr/lib", "lib64/libm.so": "/usr/lib", "x": "/", "link3": "/etc", "usr/lib/../../here/here/deep/er/file": "/deep/er", "deep/er/up": "/etc",
		} {
			if e, ok := c.file(name, newLooks()); !ok || e.dir != want {
				t.Errorf("%s is in %q, want %q", name, e.dir, want)
			}
		}
		if e, ok := c.first([]string{"nowhere", "etc", "etc/empty", "lib/libm.so", "x"}, newLooks()); !ok || e.shown != c[0] || e.dir != "/usr/lib" {
			t.Errorf("the first is %t in %q", ok, e.dir)
		}
		if _, ok := c.file(strings.Repeat("usr/../", maxSteps/2)+"x", newLooks()); ok {
			t.Error("a path may be as long as it likes")
		}
		if _, ok := c.first(nil, newLooks()); ok {
			t.Error("there is a first of none")
		}
	})
	n.withChain(nil, func(c chain) {
		if _, ok := c.file("x", newLooks()); ok {
			t.Error("there is a file in no layer")
		}
	})
}

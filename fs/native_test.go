package fs

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/containerd/log"
	"golang.org/x/sys/unix"

	"github.com/sluice-snapshotter/sluice/fs/layer"
)

// inNativeModes runs a test with each kind of mount that a complete layer's can be replaced by a native one.
func inNativeModes(t *testing.T, test func(t *testing.T, mode Mode)) {
	for _, mode := range []Mode{EROFS, Loop} {
		t.Run(string(mode), func(t *testing.T) { test(t, mode) })
	}
}

// settled waits until nothing more is fetched and the layer has its native mount, if it gets one.
func (n *node) settled(t testing.TB, l blob) *mounted {
	t.Helper()
	m, err := n.lookup(l.digest)
	if err != nil {
		t.Fatal(err)
	}
	select {
	case <-m.ended:
	case <-time.After(time.Minute):
		t.Fatal("fetching does not end")
	}
	return m
}

func (n *node) path(t testing.TB, l blob, holder string) string {
	t.Helper()
	path, err := n.Path(l.digest, holder)
	if err != nil {
		t.Fatal(err)
	}
	return path
}

func dropCaches(t *testing.T) {
	t.Helper()
	unix.Sync()
	if err := os.WriteFile("/proc/sys/vm/drop_caches", []byte("3"), 0); err != nil {
		t.Skip(err)
	}
}

// TestNative: a complete layer is read without this process, by whoever asks for it from then on; who asked before keeps
// what it has, for as long as it may use it.
func TestNative(t *testing.T) {
	l := buildBlob(t, everything())
	inNativeModes(t, func(t *testing.T, mode Mode) {
		r := newRegistry(t, l)
		var reads atomic.Int64
		n := newNode(t, Options{Mode: mode, Observer: layer.Observer{Read: func(layer.Result) { reads.Add(1) }}})
		lazy := n.mountLayer(t, r.source(l))
		compare(t, lazy, l.files) // all of it is read, so all of it comes
		n.settled(t, l)
		if st := n.Status()[0]; !slices.Equal(st.Mounts, []string{erofsOnFUSE, erofsNative}) || st.Mount() != erofsNative || st.State != Complete {
			t.Errorf("status is %+v", st)
		}
		native := n.path(t, l, "new")
		if native != lazy+nativeSuffix {
			t.Errorf("the native mount is at %s", native)
		}
		r.fail.Store(500)
		dropCaches(t)
		before := reads.Load()
		compare(t, native, l.files)
		if got := reads.Load() - before; got != 0 {
			t.Errorf("%d reads of the native mount came to this process", got)
		}
		compare(t, lazy, l.files)
		if reads.Load() == before {
			t.Error("the lazy mount does not come to this process, so the test does not see reads")
		}

		// A bind mount, as overlayfs, keeps what is below it.
		kept := t.TempDir()
		if err := unix.Mount(lazy, kept, "", unix.MS_BIND, ""); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = unix.Unmount(kept, unix.MNT_DETACH) })
		n.Drop(t.Name())
		if _, err := os.Lstat(native); err != nil {
			t.Errorf("the native mount is held, and gone: %v", err)
		}
		if _, err := os.Lstat(lazy); !os.IsNotExist(err) {
			t.Errorf("the lazy mount is there without a holder: %v", err)
		}
		dropCaches(t)
		compare(t, kept, l.files)
		if err := unix.Unmount(kept, 0); err != nil {
			t.Error(err)
		}
		if st := n.Status()[0]; !slices.Equal(st.Mounts, []string{erofsNative}) {
			t.Errorf("status is %+v", st)
		}
	})
}

// complete has a node with its files at root fetch all of a layer, and close its store. It returns the layer's source, for who is without the
// registry too.
func (r *registry) complete(t *testing.T, l blob, root string, mode Mode) Source {
	t.Helper()
	n := openNode(t, root, Options{Mode: mode, Background: true})
	src := r.source(l)
	n.mountLayer(t, src)
	n.settled(t, l)
	n.close(t)
	src.TOCDigest = l.tocDigest
	src.Held = true // as a snapshot has it after a restart
	return src
}

// TestNativeAfterRestart: what is complete is mounted natively at once, without the registry.
func TestNativeAfterRestart(t *testing.T) {
	l := buildBlob(t, []file{dir("d"), regular("d/file", noise(1, 5<<20))})
	inNativeModes(t, func(t *testing.T, mode Mode) {
		r, root := newRegistry(t, l), t.TempDir()
		src := r.complete(t, l, root, mode)

		r.fail.Store(500)
		n := openNode(t, root, Options{Mode: mode})
		path := n.mountLayer(t, src)
		if st := n.Status()[0]; !slices.Equal(st.Mounts, []string{erofsNative}) {
			t.Errorf("status is %+v", st)
		}
		dropCaches(t)
		compare(t, path, l.files)
		n.close(t)
	})
}

// TestNativeAfterCrash: what was complete is mounted natively again, without the registry, also where nothing is fetched in the
// background.
func TestNativeAfterCrash(t *testing.T) {
	const size = 3 << 20
	l := buildBlob(t, []file{regular("file", noise(1, size)), regular("zeros", make([]byte, 4096))})
	inNativeModes(t, func(t *testing.T, mode Mode) {
		r, root := newRegistry(t, l), t.TempDir()
		src := r.complete(t, l, root, mode)
		crash(t, filepath.Join(root, "root", "layers"), l.digest, size) // which takes zeros only, so that nothing is lost

		r.fail.Store(500)
		n := openNode(t, root, Options{Mode: mode})
		n.mountLayer(t, src)
		eventually(t, "the native mount", func() bool { return n.Status()[0].Mount() == erofsNative })
		dropCaches(t)
		compare(t, n.path(t, l, "new"), l.files)
		n.close(t)
	})
}

// TestLossAfterCrash: what a crash has taken data of is not mounted natively before they have come again, so nobody reads zeros.
func TestLossAfterCrash(t *testing.T) {
	l := buildBlob(t, []file{regular("file", noise(1, 3<<20)), regular("other", noise(2, 3<<20))})
	inNativeModes(t, func(t *testing.T, mode Mode) {
		r, root := newRegistry(t, l), t.TempDir()
		src := r.complete(t, l, root, mode)
		crash(t, filepath.Join(root, "root", "layers"), l.digest, 1<<20)

		r.fail.Store(500)
		n := openNode(t, root, Options{Mode: mode})
		path := n.mountLayer(t, src)
		dropCaches(t)
		if got, err := readDirect(filepath.Join(path, "file")); !errors.Is(err, unix.EIO) {
			t.Errorf("read %d bytes of what is lost, %v", len(got), err)
		}
		if got, err := readDirect(filepath.Join(path, "other")); err != nil || !bytes.Equal(got, l.files[1].data) {
			t.Errorf("read %d bytes of what is not lost, %v", len(got), err)
		}
		if st := n.Status()[0]; st.State == Complete || !slices.Equal(st.Mounts, []string{erofsOnFUSE}) {
			t.Errorf("status is %+v", st)
		}
		r.fail.Store(0)
		if got, err := readDirect(filepath.Join(path, "file")); err != nil || !bytes.Equal(got, l.files[0].data) {
			t.Errorf("read %d bytes, %v", len(got), err)
		}
		n.settled(t, l)
		dropCaches(t)
		compare(t, n.path(t, l, "new"), l.files)
		n.close(t)
	})
}

// TestNativeRefused: where the kernel does not take the data file, the layer stays as it is.
func TestNativeRefused(t *testing.T) {
	l := buildBlob(t, []file{regular("file", noise(1, 100_000))})
	inNativeModes(t, func(t *testing.T, mode Mode) {
		n := newNode(t, Options{Mode: mode})
		n.retry = 50 * time.Millisecond
		ctx, lines := logged(t)
		if err := n.Mount(ctx, newRegistry(t, l).source(l)); err != nil {
			t.Fatal(err)
		}
		path := n.path(t, l, "holder")
		m, err := n.lookup(l.digest)
		if err != nil {
			t.Fatal(err)
		}
		data := m.shown.layer.Store().DataPath()
		if err := os.Rename(data, data+".away"); err != nil {
			t.Fatal(err)
		}
		compare(t, path, l.files)
		eventually(t, "log line", func() bool { return strings.Contains(lines.String(), "stays on FUSE") })
		if st := n.Status()[0]; !slices.Equal(st.Mounts, []string{erofsOnFUSE}) {
			t.Errorf("status is %+v", st)
		}
		if again := n.path(t, l, "other"); again != path {
			t.Errorf("path is %s, was %s", again, path)
		}
		compare(t, path, l.files)
		if err := os.Rename(data+".away", data); err != nil {
			t.Fatal(err)
		}
		n.settled(t, l) // tried again
		if got := n.path(t, l, "later"); got != path+nativeSuffix {
			t.Errorf("path is %s", got)
		}
	})
}

// TestNoCacheTwice: contents that are read natively are in memory once.
func TestNoCacheTwice(t *testing.T) {
	const size = 64 << 20
	l := buildBlob(t, []file{regular("file", noise(1, size))})
	inNativeModes(t, func(t *testing.T, mode Mode) {
		n := newNode(t, Options{Mode: mode, Background: true})
		n.mountLayer(t, newRegistry(t, l).source(l))
		m := n.settled(t, l)
		path := n.path(t, l, "reader")
		if !n.erofs.directIO {
			t.Skip("this kernel's EROFS has no directio, or loop devices none on this disk")
		}
		got, err := os.ReadFile(filepath.Join(path, "file"))
		if err != nil || !bytes.Equal(got, l.files[0].data) {
			t.Fatalf("read %d bytes, %v", len(got), err)
		}
		if pages := cachedPages(t, m.shown.layer.Store().DataPath()); pages*4096 > size/10 {
			t.Errorf("%d of %d pages of the data file are cached too", pages, size/4096)
		}
	})
}

// cachedPages counts the pages of a file in its page cache.
func cachedPages(t *testing.T, name string) uint64 {
	t.Helper()
	fd, err := unix.Open(name, unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fd)
	var st unix.Cachestat_t
	if err := unix.Cachestat(uint(fd), &unix.CachestatRange{}, &st, 0); err != nil { // an empty range is all of it
		t.Skip(err)
	}
	return st.Cache
}

func TestWays(t *testing.T) {
	var gone []string
	stuck := true
	fallen := make(map[string]bool) // by somebody else
	w := &ways{logger: log.L, unmount: func(w way) error {
		gone = append(gone, w.path)
		if w.path == "stuck" && stuck {
			return os.ErrPermission
		}
		return nil
	}, standing: func(w way) bool { return !fallen[w.path] }, remount: func(w way) error {
		if w.path == "two" {
			return os.ErrPermission
		}
		delete(fallen, w.path)
		return nil
	}}
	holds := func(holder, want string) {
		t.Helper()
		if path, err := w.hold(holder); path != want || (err == nil) != (want != "") {
			t.Errorf("%s holds %q, %v; want %q", holder, path, err, want)
		}
	}
	expect := func(step string, paths ...string) {
		t.Helper()
		if !slices.Equal(gone, paths) {
			t.Errorf("%s: %q are unmounted, want %q", step, gone, paths)
		}
		gone = nil
	}
	holds("a", "")
	w.add(erofsOnFUSE, "one")
	for _, holder := range []string{"a", "b", "a"} {
		holds(holder, "one")
	}
	w.add(erofsNative, "two")
	w.drop("a")
	expect("b still holds the first")
	holds("b", "two")
	fallen["two"] = true // and cannot be mounted again
	holds("b", "one")
	fallen["one"] = true
	holds("b", "one")
	delete(fallen, "two")
	holds("b", "two")
	expect("b may yet mount the first")
	w.drop("b")
	expect("the best stays", "one")
	fallen["two"] = true
	holds("b", "")
	delete(fallen, "two")
	w.add(erofsNative, "stuck")
	expect("not held", "two")
	w.add(erofsNative, "three")
	expect("not held", "stuck")
	if kinds := w.kinds(); len(kinds) != 2 {
		t.Errorf("kinds are %q", kinds)
	}
	stuck = false
	w.drop("nobody")
	expect("tried again", "stuck")
	if kinds := w.kinds(); !slices.Equal(kinds, []string{erofsNative}) {
		t.Errorf("kinds are %q", kinds)
	}
	if err := w.close(); err != nil {
		t.Error(err)
	}
	expect("closed", "three")
	holds("c", "")
}

// TestNativeDamaged: what a proof finds to be lost under a container's native mount is fetched again, and nothing of the layer is taken
// away, though it counts as sealed no more.
func TestNativeDamaged(t *testing.T) {
	l := bulky(t, 1, 2<<20)
	inNativeModes(t, func(t *testing.T, mode Mode) {
		first, second := newRegistry(t, l), newRegistry(t, l)
		n := newNode(t, Options{Mode: mode, Background: true, Untrusted: func(ref string) bool { return ref == second.ref }})
		if err := n.Mount(t.Context(), first.source(l)); err != nil {
			t.Fatal(err)
		}
		m := n.settled(t, l)
		native, st := n.path(t, l, "container"), m.shown.layer.Store()
		f, err := os.OpenFile(st.DataPath(), os.O_RDWR, 0)
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		lose := func() {
			t.Helper()
			if _, err := f.WriteAt([]byte("damage"), st.Chunk(3).DataOffset); err != nil {
				t.Fatal(err)
			}
		}
		lose()
		if err := st.Recheck(t.Context()); err == nil || st.Sealed() {
			t.Fatalf("damage is not found: %v", err)
		}
		n.bound(1)
		n.MakeRoom()
		n.bound(100 << 20)
		if chunks, _ := st.Present(); chunks != st.NumChunks()-1 {
			t.Errorf("%d of %d chunks are there", chunks, st.NumChunks())
		}
		if err := m.shown.layer.Fill(t.Context()); err != nil || !st.Complete() {
			t.Errorf("not fetched again: %v", err)
		}
		lose()
		src := second.source(l)
		src.Chain = l.diffID(t)
		if err := n.Mount(t.Context(), src); err != nil {
			t.Error(err)
		}
		dropCaches(t)
		compare(t, native, l.files)
	})
}

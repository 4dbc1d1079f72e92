package fs

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"context"
	"errors"
	iofs "io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/identity"
	"golang.org/x/sys/unix"
)

// plainBlob is a plain layer, and its diffID.
func plainBlob(t testing.TB, files ...file) (blob, digest.Digest) {
	t.Helper()
	var content, packed bytes.Buffer
	w := tar.NewWriter(&content)
	for _, f := range files {
		f.Format = tar.FormatPAX
		if err := w.WriteHeader(&f.Header); err != nil {
			t.Fatal(err)
		}
		if _, err := w.Write(f.data); err != nil {
			t.Fatal(err)
		}
	}
	z, err := gzip.NewWriterLevel(&packed, gzip.BestSpeed)
	if err == nil {
		err = w.Close()
	}
	if err == nil {
		_, err = z.Write(content.Bytes())
	}
	if err = errors.Join(err, z.Close()); err != nil {
		t.Fatal(err)
	}
	return blob{files: files, bytes: packed.Bytes(), digest: digest.FromBytes(packed.Bytes())}, digest.FromBytes(content.Bytes())
}

// bottom is the source of a plain layer that has none below it.
func (r *registry) bottom(l blob, diffID digest.Digest) Source {
	src := r.source(l)
	src.Chain = diffID
	return src
}

func TestPlain(t *testing.T) {
	l, diffID := plainBlob(t, everything()...)
	inModes(t, func(t *testing.T, mode Mode) {
		root := t.TempDir()
		r := newRegistry(t, l)
		n := openNode(t, root, Options{Mode: mode})
		n.settling = 0
		path := n.mountLayer(t, r.bottom(l, diffID))
		r.fail.Store(500) // it is all there
		compare(t, path, l.files)
		n.settled(t, l)
		want := map[Mode]string{EROFS: erofsNative, Loop: erofsNative, FUSE: fuseTree}[mode]
		if st := n.Status()[0]; st.Format != "gzip" || st.State != Complete || st.Mount() != want || st.Size == 0 || st.Fetched != st.Size {
			t.Errorf("status is %+v", st)
		}
		compare(t, n.path(t, l, "another"), l.files)
		src, err := n.Source(l.digest)
		if err != nil || src.DiffID != diffID {
			t.Errorf("source is %+v, %v", src, err)
		}
		n.close(t)

		// After a restart it is there without the registry.
		n = openNode(t, root, Options{Mode: mode})
		again := Source{Ref: r.ref, Digest: l.digest, Manifest: r.manifest, DiffID: diffID, Held: true}
		if path = n.mountLayer(t, again); n.Status()[0].Mount() != want {
			t.Errorf("status after a restart is %+v", n.Status()[0])
		}
		compare(t, path, l.files)
		if err := n.Unmount(t.Context(), l.digest); err != nil {
			t.Fatal(err)
		}
		if _, err := n.store.Get(l.digest); !errors.Is(err, iofs.ErrNotExist) {
			t.Errorf("after it was unmounted: %v", err)
		}
	})
}

// TestPlainIsProven: nobody gets a plain layer but who can tell its diffID.
func TestPlainIsProven(t *testing.T) {
	l, diffID := plainBlob(t, regular("file", noise(1, 100_000)))
	below := digest.FromString("below")
	other := digest.FromString("other")
	r := newRegistry(t, l)
	tests := map[string]struct {
		change func(*Source)
		plain  bool // or not taken at all
		ok     bool
	}{
		"bottom":            {func(s *Source) { s.Chain = diffID }, true, true},
		"on top":            {func(s *Source) { s.Chain, s.Below = identity.ChainID([]digest.Digest{below, diffID}), below }, true, true},
		"known before":      {func(s *Source) { s.DiffID = diffID }, true, true},
		"wrong bottom":      {func(s *Source) { s.Chain = other }, true, false},
		"wrong top":         {func(s *Source) { s.Chain, s.Below = diffID, below }, true, false},
		"wrong below":       {func(s *Source) { s.Chain, s.Below = identity.ChainID([]digest.Digest{below, diffID}), other }, true, false},
		"wrong diffID":      {func(s *Source) { s.DiffID, s.Chain = other, diffID }, true, false},
		"no claim":          {func(*Source) {}, false, false},
		"only what's below": {func(s *Source) { s.Below = below }, false, false},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			src := r.source(l)
			test.change(&src)
			check := func(t *testing.T, n *node) {
				t.Helper()
				err := n.Mount(t.Context(), src)
				if (err == nil) != test.ok || errors.Is(err, ErrNotLazy) == test.plain {
					t.Errorf("error is %v", err)
				}
			}
			t.Run("first", func(t *testing.T) {
				n := newNode(t, Options{Mode: FUSE})
				check(t, n)
				if n.Mounted(l.digest) != test.ok {
					t.Error("mounted, or not")
				}
			})
			t.Run("mounted", func(t *testing.T) { // by another image
				n := newNode(t, Options{Mode: FUSE})
				n.mountLayer(t, r.bottom(l, diffID))
				check(t, n)
				compare(t, n.path(t, l, "x"), l.files)
			})
			t.Run("stored", func(t *testing.T) {
				root := t.TempDir()
				n := openNode(t, root, Options{Mode: FUSE})
				n.mountLayer(t, r.bottom(l, diffID))
				n.close(t)
				check(t, openNode(t, root, Options{Mode: FUSE}))
			})
		})
	}
	t.Run("not wanted", func(t *testing.T) {
		n := newNode(t, Options{Mode: FUSE, NoPlain: true})
		if err := n.Mount(t.Context(), r.bottom(l, diffID)); !errors.Is(err, ErrNotLazy) {
			t.Errorf("error is %v", err)
		}
	})
}

// TestPlainOrLazy: one blob, in one image with a TOC and in another without.
func TestPlainOrLazy(t *testing.T) {
	lazy := buildBlob(t, []file{regular("file", noise(1, 100_000))})
	plain := lazy
	plain.tocDigest = ""
	withTOC, without := newRegistry(t, lazy), newRegistry(t, plain)
	z, err := gzip.NewReader(bytes.NewReader(lazy.bytes))
	if err != nil {
		t.Fatal(err)
	}
	diffID, err := digest.FromReader(z)
	if err != nil {
		t.Fatal(err)
	}
	t.Run("lazy first", func(t *testing.T) {
		n := newNode(t, Options{Mode: FUSE})
		n.mountLayer(t, withTOC.source(lazy))
		if err := n.Mount(t.Context(), without.bottom(plain, diffID)); !errors.Is(err, errUnproven) {
			t.Errorf("mounted: %v", err)
		}
	})
	t.Run("plain first", func(t *testing.T) {
		n := newNode(t, Options{Mode: FUSE})
		n.mountLayer(t, without.bottom(plain, diffID))
		if err := n.Mount(t.Context(), withTOC.bottom(lazy, diffID)); err != nil {
			t.Error(err)
		}
		if err := n.Mount(t.Context(), withTOC.source(lazy)); err == nil {
			t.Error("who cannot tell its diffID has got it")
		}
	})
}

// TestPlainSiblings: the first mount brings all of an image, and each layer once.
func TestPlainSiblings(t *testing.T) {
	var layers []blob
	var diffIDs []digest.Digest
	for i := range 9 {
		l, diffID := plainBlob(t, regular("file", noise(uint64(i), 50_000)))
		if i%4 == 1 {
			l, diffID = buildBlob(t, l.files), ""
		}
		layers, diffIDs = append(layers, l), append(diffIDs, diffID)
	}
	r := newRegistry(t, layers...)
	n := newNode(t, Options{})
	n.mountLayer(t, r.bottom(layers[0], diffIDs[0]))
	eventually(t, "all layers in the store", func() bool {
		have, err := n.store.List()
		return err == nil && len(have) == len(layers)
	})
	r.fail.Store(500)
	requests := r.blobs.Load() + r.manifests.Load()
	for i, l := range layers {
		if l.tocDigest == "" {
			compare(t, n.mountLayer(t, r.bottom(l, diffIDs[i])), l.files)
		} else {
			n.mountLayer(t, r.source(l))
		}
	}
	if got := r.manifests.Load(); got != 1 || requests < int64(len(layers)) {
		t.Errorf("%d requests for manifests, %d in all", got, requests)
	}
}

// TestPlainImpatient: a Mount that is given up goes on, and who comes meanwhile waits for the same.
func TestPlainImpatient(t *testing.T) {
	l, diffID := plainBlob(t, regular("file", noise(1, 100_000)))
	r := newRegistry(t, l)
	n := newNode(t, Options{})
	r.stall()
	ctx, cancel := context.WithCancel(t.Context())
	result := make(chan error, 1)
	go func() { result <- n.Mount(ctx, r.bottom(l, diffID)) }()
	await(t, "request", r.waiting)
	cancel()
	if err := <-result; !errors.Is(err, context.Canceled) {
		t.Errorf("given up: %v", err)
	}
	var others sync.WaitGroup
	for range 4 {
		others.Go(func() {
			if err := n.Mount(t.Context(), r.bottom(l, diffID)); err != nil {
				t.Error(err)
			}
		})
	}
	r.release()
	others.Wait()
	compare(t, n.path(t, l, "x"), l.files)
	if got := r.blobs.Load(); got != 1 {
		t.Errorf("it was fetched in %d requests", got)
	}
}

// TestPlainClose: what is under way ends, and leaves nothing.
func TestPlainClose(t *testing.T) {
	l, diffID := plainBlob(t, regular("file", noise(1, 9<<20)))
	r := newRegistry(t, l)
	n := newNode(t, Options{})
	r.stall()
	result := make(chan error, 1)
	go func() { result <- n.Mount(t.Context(), r.bottom(l, diffID)) }()
	await(t, "manifest", r.waiting)
	r.release()
	r.stall()
	await(t, "blob", r.waiting)
	root := n.root
	n.close(t)
	if err := <-result; err == nil {
		t.Error("mounted")
	}
	if left, err := os.ReadDir(filepath.Join(root, "root", "layers", "tmp")); err != nil || len(left) > 0 {
		t.Errorf("left behind: %v, %v", left, err)
	}
}

// TestPlainMends: what a crash of the node has taken of a plain layer comes again, and who reads it meanwhile is told.
func TestPlainMends(t *testing.T) {
	l, diffID := plainBlob(t, regular("first", noise(1, 3<<20)), regular("last", noise(2, 5<<20)))
	inModes(t, func(t *testing.T, mode Mode) {
		ctx, output := logged(t)
		root := t.TempDir()
		r := newRegistry(t, l)
		n := openNode(t, root, Options{Mode: mode})
		n.mountLayer(t, r.bottom(l, diffID))
		n.close(t)
		crash(t, filepath.Join(root, "root", "layers"), l.digest, 6<<20)

		n = openNode(t, root, Options{Mode: mode})
		n.settling = 0
		r.stall()
		src := Source{Ref: r.ref, Digest: l.digest, Manifest: r.manifest, DiffID: diffID, Held: true}
		if err := n.Mount(ctx, src); err != nil {
			t.Fatal(err)
		}
		path := n.path(t, l, "x")
		if got, err := readDirect(filepath.Join(path, "first")); err != nil || !bytes.Equal(got, l.files[0].data) {
			t.Errorf("a file that is whole: %v", err)
		}
		if _, err := readDirect(filepath.Join(path, "last")); !errors.Is(err, unix.EIO) {
			t.Errorf("a file that is not: %v", err)
		}
		if log := output.String(); !strings.Contains(log, errLost.Error()) || !strings.Contains(log, "/last") {
			t.Errorf("the log says %s", log)
		}
		r.release()
		m, err := n.lookup(l.digest)
		if err != nil {
			t.Fatal(err)
		}
		await(t, "the layer to be whole again", m.shown.layer.Store().Whole())
		if got, err := readDirect(filepath.Join(path, "last")); err != nil || !bytes.Equal(got, l.files[1].data) {
			t.Errorf("after it came again: %v", err)
		}
		n.settled(t, l)
		if st := n.Status()[0]; st.State != Complete || mode != FUSE && st.Mount() != erofsNative {
			t.Errorf("status is %+v", st)
		}
	})
}

// readDirect reads a file with plain system calls: see the package comment on deadlocks.
func readDirect(name string) ([]byte, error) {
	fd, err := unix.Open(name, unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	defer unix.Close(fd)
	var all []byte
	p := make([]byte, 1<<20)
	for {
		n, err := unix.Read(fd, p)
		if err != nil || n == 0 {
			return all, err
		}
		all = append(all, p[:n]...)
	}
}

// crash makes a layer in a store look like after a crash of the node that has lost a page at off.
func crash(t *testing.T, store string, d digest.Digest, off int64) {
	t.Helper()
	dir := filepath.Join(store, d.Algorithm().String(), d.Encoded())
	boot, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		t.Fatal(err)
	}
	boot = bytes.TrimSpace(boot)
	name := filepath.Join(dir, "present")
	p, err := os.ReadFile(name)
	if err != nil || !bytes.Contains(p, boot) {
		t.Fatalf("%s names no boot (%v)", name, err)
	}
	p = bytes.ReplaceAll(p, boot, bytes.Repeat([]byte("0"), len(boot)))
	if err := os.WriteFile(name, p, 0o600); err != nil {
		t.Fatal(err)
	}
	f, err := os.OpenFile(filepath.Join(dir, "data"), os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	_, err = f.WriteAt(make([]byte, 4096), off)
	if err := errors.Join(err, f.Close(), os.Remove(filepath.Join(store, "clean"))); err != nil {
		t.Fatal(err)
	}
}

// TestPlainAgain: all of an image is brought at once also when its manifest is still known from an earlier pull.
func TestPlainAgain(t *testing.T) {
	first, firstID := plainBlob(t, regular("file", noise(1, 50_000)))
	second, secondID := plainBlob(t, regular("file", noise(2, 50_000)))
	r := newRegistry(t, first, second)
	n := newNode(t, Options{Mode: FUSE})
	for range 2 {
		n.mountLayer(t, r.bottom(first, firstID))
		eventually(t, "the other layer in the store", func() bool {
			l, err := n.store.Get(second.digest)
			return err == nil && l.Close() == nil
		})
		n.mountLayer(t, r.bottom(second, secondID))
		if err := errors.Join(n.Unmount(t.Context(), first.digest), n.Unmount(t.Context(), second.digest)); err != nil {
			t.Fatal(err)
		}
	}
	if r.manifests.Load() != 1 || r.blobs.Load() != 4 {
		t.Errorf("%d manifests and %d blobs were fetched", r.manifests.Load(), r.blobs.Load())
	}
}

package fs

import (
	"bytes"
	"context"
	"errors"
	iofs "io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/sluice-snapshotter/sluice/fs/toc"
)

func TestResolve(t *testing.T) {
	l := buildBlob(t, []file{regular("file", noise(1, 1000))})
	plain := blob{bytes: l.bytes[1:], digest: digest.FromBytes(l.bytes[1:])}
	r := newRegistry(t, l, plain)
	other := digest.FromString("other")
	for _, c := range []struct {
		name string
		src  Source
		is   error  // nil: see want
		want string // in the error; "" if it is mounted
	}{
		{name: "manifest only", src: r.source(l)},
		{name: "manifest and label", src: Source{Ref: r.ref, Digest: l.digest, Manifest: r.manifest, TOCDigest: l.tocDigest}},
		{name: "label and size only", src: Source{Ref: r.ref, Digest: l.digest, TOCDigest: l.tocDigest, Size: int64(len(l.bytes))}},
		{name: "label only", src: Source{Ref: r.ref, Digest: l.digest, TOCDigest: l.tocDigest}},
		{name: "neither", src: Source{Ref: r.ref, Digest: l.digest}, is: ErrNotLazy},
		{name: "no annotation", src: r.source(plain), is: ErrNotLazy},
		{name: "label and manifest differ", src: Source{Ref: r.ref, Digest: l.digest, Manifest: r.manifest, TOCDigest: other}, want: other.String()},
		{name: "wrong label", src: Source{Ref: r.ref, Digest: l.digest, TOCDigest: other}, want: other.String()},
		{name: "not in the manifest", src: Source{Ref: r.ref, Digest: other, Manifest: r.manifest}, want: "no such layer"},
		{name: "no such manifest", src: Source{Ref: r.ref, Digest: l.digest, Manifest: other}, want: other.String()},
		{name: "bad reference", src: Source{Ref: "::", Digest: l.digest, TOCDigest: l.tocDigest}, want: "::"},
		{name: "bad digest", src: Source{Ref: r.ref, Digest: "sha256:../..", TOCDigest: l.tocDigest}, want: "digest"},
	} {
		t.Run(c.name, func(t *testing.T) {
			n := newNode(t, Options{Mode: FUSE})
			err := n.Mount(t.Context(), c.src)
			if c.is == nil && c.want == "" {
				if err != nil {
					t.Fatal(err)
				}
				compare(t, filepath.Join(n.server.full.dir, "1"), l.files)
				return
			}
			if err == nil || c.is != nil && !errors.Is(err, c.is) || !strings.Contains(err.Error(), c.want) {
				t.Fatalf("error is %v, want %v %q", err, c.is, c.want)
			}
			for _, want := range []string{"mount layer", string(c.src.Digest), c.src.Ref} {
				if !strings.Contains(err.Error(), want) {
					t.Errorf("error %q lacks %q", err, want)
				}
			}
			if _, err := n.Path(c.src.Digest, t.Name()); !errors.Is(err, iofs.ErrNotExist) {
				t.Errorf("path: %v", err)
			}
			if len(n.Status()) != 0 || len(walk1(t, n.server.full.dir)) != 0 || len(mountsBelow(t, n.root)) != len(n.server.connections()) {
				t.Error("a failed mount left something")
			}
		})
	}
}

// TestLabelAgainstStore: a layer on disk is not mounted for a label that names another TOC.
func TestLabelAgainstStore(t *testing.T) {
	l := buildBlob(t, []file{regular("file", noise(1, 1000))})
	root := t.TempDir()
	n := openNode(t, root, Options{Mode: FUSE})
	r := newRegistry(t, l)
	n.mountLayer(t, r.source(l))
	n.close(t)

	n = openNode(t, root, Options{Mode: FUSE})
	src := r.source(l)
	src.TOCDigest = digest.FromString("other")
	if err := n.Mount(t.Context(), src); err == nil || !strings.Contains(err.Error(), src.TOCDigest.String()) {
		t.Errorf("error is %v", err)
	}
}

// TestSiblings: the first mount brings the TOCs of the whole image.
func TestSiblings(t *testing.T) {
	var layers []blob
	for i := range 12 {
		layers = append(layers, buildBlob(t, []file{regular("file", noise(uint64(i), 1000))}))
	}
	r := newRegistry(t, layers...)
	n := newNode(t, Options{})
	n.mountLayer(t, r.source(layers[5]))
	eventually(t, "all layers in the store", func() bool {
		have, err := n.store.List()
		return err == nil && len(have) == len(layers)
	})
	eventually(t, "prefetch", func() bool { return n.Wait(t.Context(), []digest.Digest{layers[5].digest}) == nil })
	r.fail.Store(500)
	requests := r.blobs.Load() + r.manifests.Load()
	for _, l := range layers {
		n.mountLayer(t, r.source(l))
	}
	if got := r.blobs.Load() + r.manifests.Load(); got != requests {
		t.Errorf("%d requests after the first mount", got-requests)
	}
}

// TestImpatientCaller: a Mount that is given up goes on, and the next one finds it.
func TestImpatientCaller(t *testing.T) {
	l := buildBlob(t, []file{regular("file", noise(1, 1000))})
	r := newRegistry(t, l)
	n := newNode(t, Options{})
	r.stall()
	ctx, cancel := context.WithCancel(t.Context())
	result := make(chan error, 1)
	go func() { result <- n.Mount(ctx, r.source(l)) }()
	await(t, "request", r.waiting)
	cancel()
	if err := <-result; !errors.Is(err, context.Canceled) {
		t.Errorf("given up: %v", err)
	}
	r.release()
	n.mountLayer(t, r.source(l))
	if got := r.manifests.Load(); got != 1 {
		t.Errorf("manifest was fetched %d times", got)
	}
}

func TestWait(t *testing.T) {
	first, second := regular("first", noise(1, 200000)), regular("second", noise(2, 200000))
	l := buildBlob(t, []file{second, first}, "first")

	t.Run("prefetched", func(t *testing.T) {
		r := newRegistry(t, l)
		n := newNode(t, Options{})
		path := n.mountLayer(t, r.source(l))
		if err := n.Wait(t.Context(), []digest.Digest{l.digest}); err != nil {
			t.Fatal(err)
		}
		r.fail.Store(404)
		if got, err := os.ReadFile(filepath.Join(path, "first")); err != nil || !bytes.Equal(got, first.data) {
			t.Errorf("prefetched file: %v", err)
		}
		st := n.Status()[0]
		if st.State != Lazy || st.Fetched < 200000 || st.Fetched >= st.Size || st.Format != string(toc.EStargz) || st.Image != r.ref {
			t.Errorf("status is %+v", st)
		}
	})
	t.Run("bounded", func(t *testing.T) {
		big := buildBlob(t, []file{regular("big", noise(3, 3<<20)), first}, "first")
		r := newRegistry(t, big)
		n := newNode(t, Options{PrefetchTimeout: 50 * time.Millisecond})
		src := Source{Ref: r.ref, Digest: big.digest, TOCDigest: big.tocDigest, Size: int64(len(big.bytes))}
		if err := n.Wait(t.Context(), []digest.Digest{big.digest}); !errors.Is(err, iofs.ErrNotExist) {
			t.Errorf("not mounted: %v", err)
		}
		r.stallBelow = 1 << 20 // all but the TOC
		r.stall()
		n.mountLayer(t, src)
		await(t, "prefetch", r.waiting)
		if err := n.Wait(t.Context(), []digest.Digest{big.digest}); err != nil {
			t.Errorf("after the timeout: %v", err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		if err := n.Wait(ctx, []digest.Digest{big.digest}); !errors.Is(err, context.Canceled) {
			t.Errorf("given up: %v", err)
		}
	})
	t.Run("failed", func(t *testing.T) {
		big := buildBlob(t, []file{regular("big", noise(3, 3<<20)), first}, "first")
		r := newRegistry(t, big)
		n := newNode(t, Options{Background: true})
		ctx, lines := logged(t)
		src := Source{Ref: r.ref, Digest: big.digest, TOCDigest: big.tocDigest, Size: int64(len(big.bytes))}
		r.stallBelow = 1 << 20
		r.stall()
		if err := n.Mount(ctx, src); err != nil {
			t.Fatal(err)
		}
		await(t, "prefetch", r.waiting)
		r.fail.Store(404)
		r.release()
		if err := n.Wait(t.Context(), []digest.Digest{big.digest}); err != nil {
			t.Errorf("wait: %v", err)
		}
		eventually(t, "log lines", func() bool {
			return strings.Contains(lines.String(), "prefetch failed") && strings.Contains(lines.String(), "background fetch failed")
		})
		r.fail.Store(0)
		eventually(t, "background after the outage", func() bool { return n.Status()[0].State == Complete })
	})
	t.Run("background by image", func(t *testing.T) {
		small, big := buildBlob(t, []file{regular("a", noise(4, 400<<10))}), buildBlob(t, []file{regular("b", noise(5, 4<<20))})
		r, other := newRegistry(t, small), newRegistry(t, big)
		n := newNode(t, Options{Background: true, BackgroundOf: func(ref string) bool { return ref == other.ref }})
		path := n.mountLayer(t, r.source(small))
		n.mountLayer(t, other.source(big))
		state := func(d digest.Digest) State {
			for _, s := range n.Status() {
				if s.Digest == d {
					return s.State
				}
			}
			return ""
		}
		eventually(t, "the other image is complete", func() bool { return state(big.digest) == Complete })
		if s := state(small.digest); s == Complete {
			t.Error("an image is complete that nobody reads")
		}
		compare(t, path, small.files)
	})
	t.Run("background", func(t *testing.T) {
		r := newRegistry(t, l)
		n := newNode(t, Options{Background: true})
		path := n.mountLayer(t, r.source(l))
		eventually(t, "complete", func() bool { return n.Status()[0].State == Complete })
		r.fail.Store(404)
		compare(t, path, l.files)
		st := n.Status()[0]
		if st.Fetched != st.Size {
			t.Errorf("status is %+v", st)
		}
		bytes, inodes, err := n.Usage(l.digest)
		if err != nil || bytes < 400000 || inodes != 3 {
			t.Errorf("usage is %d bytes, %d inodes, %v", bytes, inodes, err)
		}
	})
}

func TestManifestsForgetTheOldest(t *testing.T) {
	var m manifests
	name := func(i int) digest.Digest { return digest.FromString(string(rune('a' + i))) }
	for i := range maxManifests + 1 {
		m.keep(keptManifest{name(i), ocispec.Manifest{MediaType: string(name(i))}})
		m.find(name(0))
	}
	if _, ok := m.find(name(1)); ok {
		t.Error("the one not used is still there")
	}
	for _, i := range []int{0, 2, maxManifests} {
		if got, ok := m.find(name(i)); !ok || got.MediaType != string(name(i)) {
			t.Errorf("manifest %d: %v", i, ok)
		}
	}
}

func TestWholeSize(t *testing.T) {
	const k = 1 << 10
	for _, c := range []struct {
		sizes []int64
		want  int64
	}{
		{nil, 0},
		{[]int64{100 * k, 50 << 20, 900 * k}, 900 * k},
		{[]int64{1025 * k}, 0},
		{[]int64{-5}, -5},
		{slices.Repeat([]int64{500 * k}, 4), 500 * k},
		{append(slices.Repeat([]int64{500 * k}, 40), 10*k), 500*k - 1},
		{[]int64{500 * k, 600 * k, 700 * k, 800 * k}, 700 * k},
		{[]int64{1 << 20, 1<<63 - 1, 1<<63 - 1}, 1 << 20},
	} {
		var layers []ocispec.Descriptor
		for _, n := range c.sizes {
			layers = append(layers, ocispec.Descriptor{Size: n})
		}
		if got := wholeSize(layers, 2048*k); got != c.want {
			t.Errorf("%v: %d, want %d", c.sizes, got, c.want)
		}
		if got := wholeSize(layers, -1); got > 0 {
			t.Errorf("%v: %d, where none are wanted", c.sizes, got)
		}
	}
	if got := wholeSize([]ocispec.Descriptor{{Size: 500 * k}, {Size: 600 * k}}, 1000*k); got != 500*k {
		t.Errorf("%d with a lower limit", got)
	}
}

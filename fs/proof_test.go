package fs

import (
	"bytes"
	"compress/gzip"
	"errors"
	"io"
	"os"
	"path/filepath"
	"syscall"
	"testing"

	"github.com/klauspost/compress/zstd"
	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/identity"
)

// diffID is that of a lazy layer, as those who unpack it compute it.
func (l blob) diffID(t *testing.T) digest.Digest {
	t.Helper()
	var r io.Reader
	if bytes.HasPrefix(l.bytes, []byte{0x1f, 0x8b}) {
		z, err := gzip.NewReader(bytes.NewReader(l.bytes))
		if err != nil {
			t.Fatal(err)
		}
		r = z
	} else {
		z, err := zstd.NewReader(bytes.NewReader(l.bytes))
		if err != nil {
			t.Fatal(err)
		}
		defer z.Close()
		r = z
	}
	d, err := digest.FromReader(r)
	if err != nil {
		t.Fatal(err)
	}
	return d
}

// proving are options of an FS that proves all layers. results gets what became of them.
func proving(mode Mode, results chan bool) Options {
	return Options{Mode: mode, Background: true, ProveOf: func(string) bool { return true }, Proved: func(right bool) { results <- right }}
}

// recorded is the diffID that the store has of a layer.
func (n *node) recorded(t *testing.T, l blob) digest.Digest {
	t.Helper()
	st, err := n.store.Get(l.digest)
	if err != nil {
		t.Fatal(err)
	}
	d := st.Info().DiffID
	if err := st.Close(); err != nil {
		t.Fatal(err)
	}
	return d
}

func proofFiles(seed uint64) []file {
	return []file{dir("etc"), regular("etc/one", noise(seed, 5000)), regular("etc/two", noise(seed+1, 300_000)), regular("etc/zeros", make([]byte, 9000))}
}

// TestProof: a layer that is what its image claims is mounted natively as before, and known to be proven after a restart. The layers of
// podman and skopeo are proven too.
func TestProof(t *testing.T) {
	for name, l := range map[string]blob{
		"estargz": buildBlob(t, proofFiles(1), "etc/two"),
		"podman":  archiveLayers(t, "podman")[0],
		"skopeo":  archiveLayers(t, "skopeo")[0],
	} {
		t.Run(name, func(t *testing.T) {
			inModes(t, func(t *testing.T, mode Mode) {
				r, results, root := newRegistry(t, l), make(chan bool, 10), t.TempDir()
				n := openNode(t, root, proving(mode, results))
				want := l.diffID(t)
				below := digest.FromString("below")
				src := r.source(l)
				src.Chain, src.Below = identity.ChainID([]digest.Digest{below, want}), below
				n.mountLayer(t, src)
				if right := <-results; !right || n.recorded(t, l) != want {
					t.Fatalf("right %t, diffID %s, want %s", right, n.recorded(t, l), want)
				}
				kind := map[Mode]string{EROFS: erofsNative, Loop: erofsNative, FUSE: fuseTree}[mode]
				eventually(t, "best mount", func() bool { return n.Status()[0].Mount() == kind && n.Status()[0].State == Complete })
				if l.files != nil {
					compare(t, n.path(t, l, "another"), l.files)
				}
				known, err := n.Source(l.digest)
				if err != nil {
					t.Fatal(err)
				}
				src.TOCDigest, src.Held = known.TOCDigest, true // as a snapshot has it recorded
				n.close(t)

				r.fail.Store(500)
				n = openNode(t, root, proving(mode, results))
				n.mountLayer(t, src)
				if n.Status()[0].Mount() != kind || len(results) > 0 {
					t.Errorf("after a restart: %+v, %d proofs", n.Status()[0], len(results))
				}
			})
		})
	}
}

// crafted is a layer that an image claims to be another, genuine one.
type crafted struct {
	*registry
	layer, genuine blob
	claim          Source
	results        chan bool
	n              *node
}

// foundOut mounts the layer, and checks that it is found out: it is not read any more, nor mounted again for the image, after a restart either.
func foundOut(t *testing.T, mode Mode, layer, genuine blob) *crafted {
	t.Helper()
	c := &crafted{registry: newRegistry(t, layer, genuine), layer: layer, genuine: genuine, results: make(chan bool, 10)}
	c.claim = c.source(layer)
	c.claim.Chain = genuine.diffID(t)
	root := t.TempDir()
	n := openNode(t, root, proving(mode, c.results))
	path := n.mountLayer(t, c.claim)
	if <-c.results {
		t.Fatal("it was found to be right")
	}
	eventually(t, "failure", func() bool { return n.Status()[0].State == Failed })
	if _, err := os.ReadFile(filepath.Join(path, "etc/two")); !errors.Is(err, syscall.EIO) {
		t.Errorf("read of the crafted layer: %v", err)
	}
	if kinds := n.Status()[0].Mounts; len(kinds) != 1 || kinds[0] == erofsNative {
		t.Errorf("mounts %q", kinds)
	}
	if err := n.Contradicted(c.claim); !errors.Is(err, ErrRefused) {
		t.Errorf("contradicted: %v", err)
	}
	if err := n.Mount(t.Context(), c.claim); !errors.Is(err, ErrRefused) {
		t.Errorf("mounted again: %v", err)
	}
	n.close(t)

	c.n = openNode(t, root, proving(mode, c.results))
	recorded := c.claim
	recorded.TOCDigest, recorded.Manifest = layer.tocDigest, ""
	for _, src := range []Source{c.claim, recorded} {
		if err := c.n.Mount(t.Context(), src); !errors.Is(err, ErrRefused) {
			t.Errorf("mounted after a restart: %v", err)
		}
	}
	return c
}

// genuineComes mounts the layer that the crafted one was taken for.
func (c *crafted) genuineComes(t *testing.T) {
	t.Helper()
	right := c.source(c.genuine)
	right.Chain = c.claim.Chain
	c.n.mountLayer(t, right)
	if !<-c.results {
		t.Error("the genuine layer was found to be wrong")
	}
	compare(t, c.n.path(t, c.genuine, "another"), c.genuine.files)
}

// TestProofRefuses: a layer that is another than its image claims is found out. Who claims what it is gets it, and the one that it was taken for
// is mounted and read.
func TestProofRefuses(t *testing.T) {
	layer, genuine := buildBlob(t, proofFiles(1)), buildBlob(t, proofFiles(5))
	inModes(t, func(t *testing.T, mode Mode) {
		c := foundOut(t, mode, layer, genuine)
		right := c.source(layer)
		right.Chain = layer.diffID(t)
		compare(t, c.n.mountLayer(t, right), layer.files)
		if err := c.n.Unmount(t.Context(), layer.digest); err != nil {
			t.Fatal(err)
		}
		c.genuineComes(t)
	})
}

// TestProofOfSeveralClaims: of the images that share a layer one claims what it is not. The others keep it.
func TestProofOfSeveralClaims(t *testing.T) {
	l := buildBlob(t, proofFiles(1))
	r, results := newRegistry(t, l), make(chan bool, 10)
	n := newNode(t, proving(EROFS, results))
	r.stallBelow = 1000 // contents wait, the TOC does not
	r.stall()
	wrong, right := r.source(l), r.source(l)
	wrong.Chain, right.Chain = digest.FromString("another's"), l.diffID(t)
	for _, src := range []Source{wrong, right} {
		src.Manifest, src.TOCDigest, src.Size = "", l.tocDigest, int64(len(l.bytes))
		n.mountLayer(t, src)
	}
	r.release()
	if <-results {
		t.Error("all claims were found to be right")
	}
	eventually(t, "native mount", func() bool { return n.Status()[0].Mount() == erofsNative })
	compare(t, n.path(t, l, "another"), l.files)
	if err := n.Contradicted(wrong); !errors.Is(err, ErrRefused) {
		t.Errorf("the wrong claim: %v", err)
	}
	if err := n.Contradicted(right); err != nil {
		t.Errorf("the right claim: %v", err)
	}
}

// TestProofRefusedThenRight: the first claim was wrong, and the layer is not read; then comes an image that it belongs to.
func TestProofRefusedThenRight(t *testing.T) {
	l := buildBlob(t, proofFiles(1))
	r, results := newRegistry(t, l), make(chan bool, 10)
	n := newNode(t, proving(EROFS, results))
	wrong, right := r.source(l), r.source(l)
	wrong.Chain, right.Chain = digest.FromString("another's"), l.diffID(t)
	n.mountLayer(t, wrong)
	<-results
	eventually(t, "failure", func() bool { return n.Status()[0].State == Failed })
	compare(t, n.mountLayer(t, right), l.files)
	if err := n.Contradicted(wrong); !errors.Is(err, ErrRefused) {
		t.Errorf("the wrong claim: %v", err)
	}
}

// TestProofOfOldLayer: a layer that was complete before there were proofs is read at once, and mounted natively when it is proven.
func TestProofOfOldLayer(t *testing.T) {
	l := buildBlob(t, proofFiles(1))
	r, results, root := newRegistry(t, l), make(chan bool, 10), t.TempDir()
	n := openNode(t, root, Options{Mode: EROFS, Background: true})
	src := r.source(l)
	src.Chain = l.diffID(t)
	n.mountLayer(t, src)
	eventually(t, "native mount", func() bool { return n.Status()[0].Mount() == erofsNative })
	n.close(t)

	src.TOCDigest, src.Held = l.tocDigest, true
	r.fail.Store(500)
	n = openNode(t, root, proving(EROFS, results))
	n.retry = 1 // ns
	compare(t, n.mountLayer(t, src), l.files)
	if kind := n.Status()[0].Mount(); kind != erofsOnFUSE {
		t.Errorf("mounted as %s before it was proven", kind)
	}
	r.fail.Store(0)
	if !<-results {
		t.Error("it was found to be wrong")
	}
	eventually(t, "native mount", func() bool { return n.Status()[0].Mount() == erofsNative })
}

// TestUnproven: a layer counts as unproven until all of it has come and was compared.
func TestUnproven(t *testing.T) {
	inModes(t, func(t *testing.T, mode Mode) {
		l := buildBlob(t, proofFiles(1))
		r, results := newRegistry(t, l), make(chan bool, 10)
		opts := proving(mode, results)
		opts.Background = false
		n := newNode(t, opts)
		src := r.source(l)
		src.Chain = l.diffID(t) // it is the lowest
		n.mountLayer(t, src)
		if !n.Status()[0].Unproven {
			t.Error("proven before anything was read")
		}
		compare(t, n.path(t, l, "reader"), l.files)
		eventually(t, "proven", func() bool { return !n.Status()[0].Unproven })
		if right := <-results; !right {
			t.Error("refused")
		}
	})
}

// TestProofWithoutClaim: where nobody says what a layer has to be, there is nothing to prove, and nothing else changes.
func TestProofWithoutClaim(t *testing.T) {
	l := buildBlob(t, proofFiles(1))
	r, results := newRegistry(t, l), make(chan bool, 10)
	n := newNode(t, proving(EROFS, results))
	n.mountLayer(t, r.source(l))
	eventually(t, "native mount", func() bool { return n.Status()[0].Mount() == erofsNative })
	if d := n.recorded(t, l); d != "" || len(results) > 0 {
		t.Errorf("diffID %s, %d proofs", d, len(results))
	}
}

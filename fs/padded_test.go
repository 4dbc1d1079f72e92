package fs

import (
	"bytes"
	"compress/gzip"
	"errors"
	"io"
	"testing"

	"github.com/opencontainers/go-digest"
)

// TestProofOfZerosLater: images may name a layer's tar with more zeros at its end than the blob has. Whoever claims one of those rightly is given the
// layer, whatever was claimed before, wrongly or by another number of zeros, after a restart too, and when the layer was removed.
func TestProofOfZerosLater(t *testing.T) {
	l := buildBlob(t, proofFiles(1))
	z, err := gzip.NewReader(bytes.NewReader(l.bytes))
	if err != nil {
		t.Fatal(err)
	}
	tar, err := io.ReadAll(z)
	if err != nil {
		t.Fatal(err)
	}
	bare, padded := digest.FromBytes(tar), digest.FromBytes(append(tar, make([]byte, 1024)...))
	for name, claims := range map[string][]digest.Digest{
		"after a wrong one": {digest.FromString("bogus"), padded, bare},
		"fewer":             {padded, bare},
		"more":              {bare, padded},
	} {
		t.Run(name, func(t *testing.T) {
			r, results, root := newRegistry(t, l), make(chan bool, 10), t.TempDir()
			n := openNode(t, root, proving(FUSE, results))
			claim := func(d digest.Digest) Source {
				src := r.source(l)
				src.Chain = d
				return src
			}
			n.mountLayer(t, claim(claims[0]))
			<-results
			again := func(when string) {
				for _, d := range claims {
					err := n.Mount(t.Context(), claim(d))
					if right := d == bare || d == padded; right && err != nil || !right && !errors.Is(err, ErrRefused) {
						t.Errorf("%s, claim %s: %v", when, d, err)
					}
				}
			}
			again("proven")
			n.close(t)
			n = openNode(t, root, proving(FUSE, results))
			again("after a restart")
			if err := n.Unmount(t.Context(), l.digest); err != nil {
				t.Fatal(err)
			}
			again("removed")
		})
	}
}

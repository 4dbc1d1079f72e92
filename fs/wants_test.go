package fs

import (
	"testing"

	"github.com/opencontainers/go-digest"
)

// TestProofForAnyImage: a layer is there for an image of which nothing is fetched ahead, or proven. Then comes one of which all is: the layer is
// found out, or found to be right.
func TestProofForAnyImage(t *testing.T) {
	for name, background := range map[string]bool{"all lazy": false, "not proven": true} {
		t.Run(name, func(t *testing.T) {
			l := buildBlob(t, proofFiles(1))
			first, second := newRegistry(t, l), newRegistry(t, l)
			results := make(chan bool, 10)
			of := func(ref string) bool { return ref == second.ref }
			n := newNode(t, Options{
				Mode: EROFS, ProveOf: of, Proved: func(right bool) { results <- right },
				BackgroundOf: func(ref string) bool { return background || of(ref) },
			})
			wrong, right := first.source(l), second.source(l)
			wrong.Chain, right.Chain = digest.FromString("another's"), l.diffID(t)
			n.mountLayer(t, wrong)
			if background {
				n.settled(t, l)
			}
			n.mountLayer(t, right)
			if <-results {
				t.Error("the first image's claim was found to be right")
			}
			if n.Contradicted(wrong) == nil || n.Contradicted(right) != nil {
				t.Errorf("contradicted: %v, and %v", n.Contradicted(wrong), n.Contradicted(right))
			}
			n.settled(t, l)
			compare(t, n.path(t, l, "container"), l.files)
		})
	}
}

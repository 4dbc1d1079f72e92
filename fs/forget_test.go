package fs

import (
	"errors"
	"os"
	"path/filepath"
	"syscall"
	"testing"
)

// TestRefusedIsForgotten: a file of a crafted layer that was read before the layer was found out is not read from the kernel's page cache
// after it, nor by who has it open.
func TestRefusedIsForgotten(t *testing.T) {
	layer, genuine := buildBlob(t, proofFiles(1)), buildBlob(t, proofFiles(5))
	r, results := newRegistry(t, layer, genuine), make(chan bool, 10)
	o := proving(FUSE, results)
	o.Background = false // what is read last is what completes it
	n := newNode(t, o)
	claim := r.source(layer)
	claim.Chain = genuine.diffID(t)
	name := filepath.Join(n.mountLayer(t, claim), "etc/two")
	f, err := os.Open(name)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if _, err := os.ReadFile(name); err != nil {
		t.Fatal(err)
	}
	m, err := n.lookup(layer.digest)
	if err != nil {
		t.Fatal(err)
	}
	if err := m.shown.layer.FillFirst(t.Context()); err != nil {
		t.Fatal(err)
	}
	if <-results {
		t.Fatal("it was found to be right")
	}
	eventually(t, "forgotten", func() bool {
		_, err := f.ReadAt(make([]byte, 10), 0)
		_, again := os.ReadFile(name)
		return errors.Is(err, syscall.EIO) && errors.Is(again, syscall.EIO)
	})
}

package pack

import (
	"archive/tar"
	"bytes"
	"errors"
	"io"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"testing"
)

// FuzzNormalise: what is taken comes out as a tar with the same names and contents, and does not change any more.
func FuzzNormalise(f *testing.F) {
	for _, name := range []string{"sparse-gnu.tar", "sparse-pax.tar"} {
		raw, err := os.ReadFile(filepath.Join("..", "testdata", name))
		if err != nil {
			f.Fatal(err)
		}
		f.Add(raw)
	}
	f.Add(make([]byte, 1024))
	f.Fuzz(func(t *testing.T, raw []byte) {
		if hugeFile(raw) {
			return // a hole of gigabytes takes its time, and says nothing new
		}
		var once, twice bytes.Buffer
		first, err := Normalise(&once, bytes.NewReader(raw))
		if err != nil {
			return
		}
		again, err := Normalise(&twice, bytes.NewReader(once.Bytes()))
		if err != nil {
			t.Fatalf("not a tar any more: %v", err)
		}
		if !bytes.Equal(once.Bytes(), twice.Bytes()) {
			t.Fatalf("%d bytes, then %d", once.Len(), twice.Len())
		}
		// Replaced entries stay in the bytes.
		if !slices.EqualFunc(first.entries, again.entries, func(a, b *entry) bool { return reflect.DeepEqual(*a, *b) }) {
			t.Fatalf("%+v, then %+v", first.entries, again.entries)
		}
	})
}

func hugeFile(raw []byte) bool {
	tr := tar.NewReader(bytes.NewReader(raw))
	for {
		h, err := tr.Next()
		if errors.Is(err, io.EOF) || err != nil {
			return false
		}
		if h.Size > 16<<20 {
			return true
		}
	}
}

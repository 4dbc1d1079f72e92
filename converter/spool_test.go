package converter

import (
	"archive/tar"
	"bytes"
	"errors"
	"io"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"testing"
)

// FuzzNormalise: what is taken comes out as a tar with the same names and contents, and does not change any more.
func FuzzNormalise(f *testing.F) {
	for _, name := range []string{"sparse-gnu.tar", "sparse-pax.tar"} {
		raw, err := os.ReadFile(filepath.Join("testdata", name))
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
		first, err := normalise(&once, bytes.NewReader(raw))
		if err != nil {
			return
		}
		again, err := normalise(&twice, bytes.NewReader(once.Bytes()))
		if err != nil {
			t.Fatalf("not a tar any more: %v", err)
		}
		if !slices.Equal(again.names, first.names) || !maps.Equal(again.times, first.times) || !bytes.Equal(once.Bytes(), twice.Bytes()) {
			t.Fatalf("%+v, then %+v; %d bytes, then %d", first, again, once.Len(), twice.Len())
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

func TestDecompress(t *testing.T) {
	for name, raw := range map[string][]byte{
		"gzip header only": {0x1f, 0x8b, 8},
		"zstd header only": {0x28, 0xb5, 0x2f, 0xfd},
	} {
		t.Run(name, func(t *testing.T) {
			r, err := decompress(bytes.NewReader(raw))
			if err == nil {
				_, err = io.ReadAll(r)
			}
			if err == nil {
				t.Error("read")
			}
		})
	}
	r, err := decompress(bytes.NewReader([]byte("ab")))
	if err != nil {
		t.Fatal(err)
	}
	if got, err := io.ReadAll(r); err != nil || string(got) != "ab" {
		t.Errorf("plain: %q, %v", got, err)
	}
}

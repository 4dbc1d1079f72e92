package cache

import (
	"crypto/sha256"
	"fmt"
	"os"
	"testing"

	"github.com/opencontainers/go-digest"
)

// BenchmarkOrigins finds out which of many layers have chunks of a new one, of which one has most, and looks for a chunk.
func BenchmarkOrigins(b *testing.B) {
	const layers, chunks, large = 500, 3000, 126_000
	store, err := open(b.TempDir(), bootA)
	if err != nil {
		b.Fatal(err)
	}
	defer store.Close()
	create := func(name string, from, n int) *Layer {
		l, err := store.Create(digest.FromString(name), Info{Format: "estargz", BlobSize: 1, DataSize: 4096 * int64(n)},
			func(_ *os.File, add func(Chunk) error) error {
				for i := range n {
					c := Chunk{DataOffset: 4096 * int64(i), Size: 4096, BlobSize: 1, Digest: sha256.Sum256(fmt.Append(nil, from+i))}
					if err := add(c); err != nil {
						return err
					}
				}
				return nil
			})
		if err != nil {
			b.Fatal(err)
		}
		return l
	}
	for i := range layers {
		if err := create(fmt.Sprint(i), 1_000_000+i*chunks, chunks).Close(); err != nil {
			b.Fatal(err)
		}
	}
	if err := create("old", 0, large).Close(); err != nil {
		b.Fatal(err)
	}
	l := create("new", 1000, large)
	defer l.Close()
	b.Run("find", func(b *testing.B) {
		for b.Loop() {
			l.origins.seen, l.origins.list = 0, nil
			if got := len(l.findOrigins()); got != 1 {
				b.Fatalf("%d layers have some", got)
			}
		}
	})
	b.Run("has", func(b *testing.B) {
		from := l.Sources()
		defer from.Close()
		i := 0
		for b.Loop() {
			from.Has(i % large)
			i += 7919
		}
	})
	b.Run("sources", func(b *testing.B) {
		for b.Loop() {
			if err := l.Sources().Close(); err != nil {
				b.Fatal(err)
			}
		}
	})
}

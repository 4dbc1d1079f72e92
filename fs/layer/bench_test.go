package layer

import (
	"math/rand/v2"
	"testing"

	"github.com/containerd/stargz-snapshotter/estargz"
	"github.com/containerd/stargz-snapshotter/estargz/zstdchunked"
	"github.com/klauspost/compress/zstd"
)

// BenchmarkFill is the whole way from a blob in memory to the store: decompress, hash, write. Run it with -cpu 1 for the
// throughput of a core.
func BenchmarkFill(b *testing.B) {
	for name, opts := range map[string][]estargz.Option{
		"estargz": nil,
		"zstd": {estargz.WithCompression(
			zstdCompression{&zstdchunked.Compressor{CompressionLevel: zstd.SpeedDefault}, &zstdchunked.Decompressor{}})},
	} {
		b.Run(name, func(b *testing.B) {
			f := build(map[string][]byte{"f": benchBytes(64 << 20)}, append(opts, estargz.WithChunkSize(4<<20))...)
			b.SetBytes(64 << 20)
			for b.Loop() {
				b.StopTimer()
				s := newStore(b)
				l := must(Open(b.Context(), f.options(b, s)))
				b.StartTimer()
				if err := l.Fill(b.Context()); err != nil {
					b.Fatal(err)
				}
				b.StopTimer()
				must(0, l.Close())
				must(0, s.Remove(f.digest))
				b.StartTimer()
			}
		})
	}
}

// benchBytes compresses about as well as a library does.
func benchBytes(n int) []byte {
	rng := rand.New(rand.NewPCG(1, 2))
	words := make([][]byte, 4096)
	for i := range words {
		words[i] = make([]byte, 3+rng.IntN(12))
		for j := range words[i] {
			words[i][j] = byte(rng.Uint32())
		}
	}
	p := make([]byte, 0, n+16)
	for len(p) < n {
		p = append(p, words[rng.IntN(len(words))]...)
	}
	return p[:n]
}

func BenchmarkReadHit(b *testing.B) {
	h := open(b, testLayer(), nil)
	h.mustCheck(0, len(h.want))
	p := make([]byte, 4096)
	for _, bench := range []struct {
		name string
		read func(off int64) (int, error)
	}{
		{"layer", func(off int64) (int, error) { return h.ReadAt(b.Context(), p, off) }},
		{"pread alone", func(off int64) (int, error) { return h.Store().ReadAt(p, off) }},
	} {
		b.Run(bench.name, func(b *testing.B) {
			for i := 0; b.Loop(); i++ {
				if _, err := bench.read(int64(i*4096) % (3 << 20)); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

// BenchmarkReadMiss is what a read of a missing small chunk costs beside the network: without read-ahead, because the next
// chunk is there already.
func BenchmarkReadMiss(b *testing.B) {
	const chunk, n = 4 << 10, 16 << 20
	f := build(map[string][]byte{"f": benchBytes(n)}, estargz.WithChunkSize(chunk), estargz.WithCompressionLevel(1))
	p := make([]byte, chunk)
	var h *harness
	next := int64(-1) // backwards
	for b.Loop() {
		if next < 0 {
			b.StopTimer()
			h, next = open(b, f, nil), n-chunk
			b.StartTimer()
		}
		if _, err := h.ReadAt(b.Context(), p, next); err != nil {
			b.Fatal(err)
		}
		next -= chunk
	}
}

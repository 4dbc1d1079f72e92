package toc

import (
	"bytes"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"testing"

	"github.com/containerd/stargz-snapshotter/estargz"
	"github.com/opencontainers/go-digest"
)

// benchmarkBlob is the tail of a layer of n files in directories of 20, as estargz writes it.
func benchmarkBlob(b testing.TB, n int) blob {
	b.Helper()
	const fileSize = 50 << 10
	toc := &estargz.JTOC{Version: 1}
	for i := range n {
		folder := fmt.Sprintf("usr/lib/python3/dist-packages/package%d/", i/20)
		if i%20 == 0 {
			toc.Entries = append(toc.Entries, &entry{Name: folder, Type: "dir", Mode: 0o755, ModTime3339: "2024-02-29T12:00:00Z"})
		}
		d := digest.FromString(fmt.Sprint(i)).String()
		toc.Entries = append(toc.Entries, &entry{Name: fmt.Sprintf("%smodule%d.py", folder, i), Type: "reg", Size: fileSize, Mode: 0o644,
			ModTime3339: "2024-02-29T12:00:00Z", Offset: 512 + int64(i)*12345, Digest: d, ChunkDigest: d})
	}
	var tail bytes.Buffer
	d, err := estargz.NewGzipCompressor().WriteTOCAndFooter(&tail, int64(n)*12345, toc, nil)
	if err != nil {
		b.Fatal(err)
	}
	return blob{bytes: tail.Bytes(), toc: d}
}

// sparse serves a tail that stands at the end of a blob whose payload nobody reads.
func (b blob) sparse(payload int64) io.ReaderAt {
	return readerAtFunc(func(p []byte, off int64) (int, error) {
		zeros := min(int64(len(p)), max(0, payload-off))
		n, err := bytes.NewReader(b.bytes).ReadAt(p[zeros:], off+zeros-payload)
		return int(zeros) + n, err
	})
}

func BenchmarkTOC(b *testing.B) {
	for _, n := range []int{15000, 120000, MaxEntries / 21 * 20} { // with their directories: 15,750, 126,000, all
		blob := benchmarkBlob(b, n)
		payload := int64(n) * 12345
		size := payload + int64(len(blob.bytes))
		var toc *TOC
		var err error
		b.Run(fmt.Sprintf("Read/%d", n), func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				if toc, err = Read(blob.sparse(payload), size, blob.toc); err != nil {
					b.Fatal(err)
				}
			}
			b.ReportMetric(float64(len(blob.bytes)), "tail-bytes")
			b.ReportMetric(float64(heap())/1e6, "heap-MB")
		})
		if toc == nil {
			continue
		}
		b.Run(fmt.Sprintf("LayoutInOnePass/%d", n), func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				raw, err := Fetch(blob.sparse(payload), Wanted{BlobSize: size, Digest: blob.toc})
				if err != nil {
					b.Fatal(err)
				}
				if _, err = raw.Layout(); err != nil {
					b.Fatal(err)
				}
			}
		})
		var l *Layout
		b.Run(fmt.Sprintf("Layout/%d", n), func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				if l, err = toc.Layout(); err != nil {
					b.Fatal(err)
				}
			}
			b.ReportMetric(float64(heap())/1e6, "heap-MB")
		})
		if l == nil {
			continue
		}
		b.Run(fmt.Sprintf("WriteMetadata/%d", n), func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				if err := l.WriteMetadata(io.Discard); err != nil {
					b.Fatal(err)
				}
			}
		})
		runtime.KeepAlive(toc)
	}
}

// heap is the bytes in use.
func heap() uint64 {
	runtime.GC()
	runtime.GC() // what is in pools stays through one collection
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return m.HeapAlloc
}

func BenchmarkNewReader(b *testing.B) {
	for _, f := range []Format{EStargz, ZstdChunked} {
		for _, n := range []int{4 << 10, 4 << 20} {
			stream := compress(b, f, bytes.Repeat([]byte(noise(1, 1024)+"and what repeats "), n/1041))
			b.Run(fmt.Sprintf("%s/%d", f, n), func(b *testing.B) {
				b.SetBytes(int64(n))
				b.ReportAllocs()
				for b.Loop() {
					zr, err := f.NewReader(bytes.NewReader(stream))
					if err != nil {
						b.Fatal(err)
					}
					if _, err := io.Copy(io.Discard, zr); err != nil {
						b.Fatal(err)
					}
					zr.Close()
				}
			})
		}
	}
}

// BenchmarkDecode decompresses 8 MiB of a real program in streams of n bytes and a tar's header: by Decode, and by the streaming
// decoders, which are what Decode has for gzip without libdeflate.
func BenchmarkDecode(b *testing.B) {
	program, err := os.ReadFile(filepath.Join(runtime.GOROOT(), "bin/go")) //nolint:staticcheck // a test runs where it was built
	if err != nil {
		b.Fatal(err)
	}
	program = program[:8<<20]
	for _, f := range []Format{EStargz, ZstdChunked} {
		for _, n := range []int{1 << 10, 4 << 10, 20 << 10, 256 << 10, 4 << 20} {
			var streams [][]byte
			for p := range slices.Chunk(program[:len(program)/n*n], n) {
				streams = append(streams, compress(b, f, slices.Concat(p, make([]byte, 512))))
			}
			dst := make([]byte, n+padding)
			for way, decode := range map[string]func(src []byte) (int, error){
				"at once":   func(src []byte) (int, error) { return f.Decode(dst[:f.Room(src, n)], src, n) },
				"streaming": func(src []byte) (int, error) { return f.decodeStart(dst[:n], src) },
			} {
				b.Run(fmt.Sprintf("%s/%d/%s", f, n, way), func(b *testing.B) {
					b.SetBytes(int64(len(streams) * n))
					b.ReportAllocs()
					for b.Loop() {
						for _, src := range streams {
							if _, err := decode(src); err != nil {
								b.Fatal(err)
							}
						}
					}
					b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N*len(streams)), "ns/stream")
				})
			}
		}
	}
}

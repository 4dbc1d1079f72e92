package toc

import (
	"bytes"
	stdgzip "compress/gzip"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"runtime"
	"strings"
	"sync"
	"testing"

	"github.com/klauspost/compress/flate"
	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"

	"github.com/sluice-snapshotter/sluice/fs/libdeflate"
)

// streams are p compressed in all ways that a writer has, by name.
func streams(t testing.TB, f Format, p []byte) map[string][]byte {
	t.Helper()
	m := make(map[string][]byte)
	if f == ZstdChunked {
		for name, options := range map[string][]zstd.EOption{
			"plain": nil, "no checksum": {zstd.WithEncoderCRC(false)}, "single": {zstd.WithSingleSegment(true)},
			"fast": {zstd.WithEncoderLevel(zstd.SpeedFastest)}, "best": {zstd.WithEncoderLevel(zstd.SpeedBestCompression)},
			"small window": {zstd.WithWindowSize(1 << 10)}, "largest window": {zstd.WithWindowSize(maxWindow)},
		} {
			z, err := zstd.NewWriter(nil, append(options, zstd.WithZeroFrames(true), zstd.WithEncoderConcurrency(1), zstd.WithLowerEncoderMem(true))...)
			if err != nil {
				t.Fatal(err)
			}
			m[name+" with its size"] = z.EncodeAll(p, nil)
			var buf bytes.Buffer
			z.Reset(&buf)
			mustWrite(t, z, p)
			if err := z.Close(); err != nil {
				t.Fatal(err)
			}
			m[name] = buf.Bytes()
		}
		return m
	}
	for level := gzip.StatelessCompression; level <= gzip.BestCompression; level++ {
		var buf bytes.Buffer
		z, err := gzip.NewWriterLevel(&buf, level)
		if err != nil {
			t.Fatal(err)
		}
		m[fmt.Sprintf("level %d", level)] = finish(t, z, &buf, p)
	}
	for level := stdgzip.HuffmanOnly; level <= stdgzip.BestCompression; level++ {
		var buf bytes.Buffer
		z, err := stdgzip.NewWriterLevel(&buf, level)
		if err != nil {
			t.Fatal(err)
		}
		m[fmt.Sprintf("level %d of Go's", level)] = finish(t, z, &buf, p)
	}
	for name, h := range map[string]gzip.Header{
		"extra": {Extra: []byte(noise(1, 500))}, "name": {Name: "layer.tar"}, "comment": {Comment: strings.Repeat("c", 511)},
		"long name": {Name: strings.Repeat("n", 600)}, "all": {Extra: []byte("x"), Name: "n", Comment: "c"},
	} {
		var buf bytes.Buffer
		z := gzip.NewWriter(&buf)
		z.Header = h
		m[name] = finish(t, z, &buf, p)
	}
	return m
}

func finish(t testing.TB, z io.WriteCloser, to *bytes.Buffer, p []byte) []byte {
	t.Helper()
	mustWrite(t, z, p[:len(p)/2])
	if f, ok := z.(interface{ Flush() error }); ok { // an empty stored block
		if err := f.Flush(); err != nil {
			t.Fatal(err)
		}
	}
	mustWrite(t, z, p[len(p)/2:])
	if err := z.Close(); err != nil {
		t.Fatal(err)
	}
	return to.Bytes()
}

// ending is what an error of a decoder means to its caller.
func ending(err error) string {
	switch {
	case err == nil:
		return "fine"
	case err == io.EOF: //nolint:errorlint // as a Reader has it
		return "ended"
	case errors.Is(err, io.ErrUnexpectedEOF):
		return "cut off"
	}
	return "broken"
}

// decodeBothWays decodes src as fast as it goes, and the way that is right by definition, and compares.
func decodeBothWays(t testing.TB, f Format, src []byte, least, room int) ([]byte, error) {
	t.Helper()
	want := make([]byte, least)
	wantN, wantErr := f.decodeStart(want, src)
	dst := bytes.Repeat([]byte{0xa5}, room+1)
	n, err := f.Decode(dst[:room:room], src, least)
	if dst[room] != 0xa5 {
		t.Fatalf("wrote behind %d bytes", room)
	}
	var corrupt flate.CorruptInputError
	if errors.As(wantErr, &corrupt) && libdeflate.Version != "" && ending(err) != "broken" {
		return nil, wantErr // as documented: a forgery that libdeflate does not refuse
	}
	if ending(err) != ending(wantErr) {
		t.Fatalf("%d bytes, room for %d: %v, %v in pure Go", least, room, err, wantErr)
	}
	if n > room || err == nil && n < least || err != nil && n != wantN {
		t.Fatalf("%d bytes, room for %d: got %d, %v; %d, %v in pure Go", least, room, n, err, wantN, wantErr)
	}
	if !bytes.Equal(dst[:min(n, least)], want[:wantN]) {
		t.Fatalf("%d bytes, room for %d: other bytes than in pure Go", least, room)
	}
	return dst[:n], err
}

// contents are short, for there are many ways to compress them, but longer than a stored block or a small window.
var contents = map[string]string{
	"nothing": "", "a byte": "x", "text": strings.Repeat("all work and no play ", 999), "noise": noise(3, 70000), "zeros": strings.Repeat("\x00", 100000),
}

func TestDecode(t *testing.T) {
	bothFormats(t, func(t *testing.T, f Format) {
		for name, body := range contents {
			for kind, stream := range streams(t, f, []byte(body)) {
				t.Run(name+"/"+kind, func(t *testing.T) {
					testDecode(t, f, stream, body, 0, 1, len(body)/2, len(body), len(body)+1)
					for _, rest := range [][]byte{bytes.Repeat(compress(t, f, []byte("another")), 2), []byte("garbage"), make([]byte, 5000)} {
						testDecode(t, f, append(bytes.Clone(stream), rest...), body, len(body), len(body)+1)
					}
				})
			}
		}
	})
}

// testDecode asks for more and less of a stream, with less and more room.
func testDecode(t *testing.T, f Format, src []byte, body string, leasts ...int) {
	for _, least := range leasts {
		for _, room := range []int{least, least + 1, len(body), f.Room(src, least)} {
			if room < least {
				continue
			}
			p, err := decodeBothWays(t, f, src, least, room)
			switch {
			case kindIsRefused(f, src):
				if err == nil {
					t.Errorf("%d bytes, room for %d: no error", least, room)
				}
			case !strings.HasPrefix(body, string(p)):
				t.Errorf("%d bytes, room for %d: others", least, room)
			case least > len(body) && (ending(err) != "ended" || string(p) != body):
				t.Errorf("%d bytes, room for %d: got %d, %v", least, room, len(p), err)
			case least <= len(body) && err != nil:
				t.Errorf("%d bytes, room for %d: %v", least, room, err)
			}
		}
	}
}

// kindIsRefused reports whether src has the long name that Go's decoders refuse.
func kindIsRefused(f Format, src []byte) bool {
	return f == EStargz && src[gzipFlags] == 1<<3 && src[gzipHeader] == 'n'
}

// TestDecodeIsFast has streams of which the slow way would go unnoticed.
func TestDecodeIsFast(t *testing.T) {
	bothFormats(t, func(t *testing.T, f Format) {
		if f == EStargz && libdeflate.Version == "" {
			t.Skip("built without libdeflate")
		}
		for name, body := range contents {
			for kind, stream := range streams(t, f, []byte(body)) {
				if f == EStargz && stream[gzipFlags]&^gzipExtra != 0 || body == "" {
					continue
				}
				for _, least := range []int{len(body), len(body) - len(body)/20, len(body)*2/3 + 1} {
					_, known := f.streamSize(stream)
					if !known && len(body)-least > padding {
						continue
					}
					if n, _, ok := f.decodeWhole(make([]byte, f.Room(stream, least)), stream); !ok || n != len(body) {
						t.Errorf("%s, %s, %d of %d: %d, %t", name, kind, least, len(body), n, ok)
					}
				}
			}
		}
	})
}

func TestDecodeOfTruncatedStream(t *testing.T) {
	bothFormats(t, func(t *testing.T, f Format) {
		body := strings.Repeat("all work and no play ", 20) + noise(5, 200)
		for kind, stream := range streams(t, f, []byte(body)) {
			for n := range stream {
				for _, least := range []int{1, len(body) / 2, len(body), len(body) + 1} {
					_, err := decodeBothWays(t, f, stream[:n], least, len(body)+10)
					if least > len(body) && ending(err) != "cut off" && !kindIsRefused(f, stream) {
						t.Fatalf("%s: first %d bytes of %d: %v", kind, n, len(stream), err)
					}
				}
			}
		}
	})
}

func TestDecodeOfDamagedStream(t *testing.T) {
	bothFormats(t, func(t *testing.T, f Format) {
		r := rand.New(rand.NewPCG(1, 2))
		for _, body := range []string{strings.Repeat("all work and no play ", 99), noise(6, 3000), "x"} {
			for kind, stream := range streams(t, f, []byte(body)) {
				seen := 0
				for range 200 {
					p := bytes.Clone(stream)
					for range 1 + r.IntN(3) {
						p[r.IntN(len(p))] ^= byte(1 + r.IntN(255))
					}
					least := r.IntN(len(body) + 2)
					if got, err := decodeBothWays(t, f, p, least, least+r.IntN(len(body))); err != nil || !strings.HasPrefix(body, string(got[:least])) {
						seen++
					}
				}
				if seen == 0 {
					t.Errorf("%s: damage was never seen", kind)
				}
			}
		}
	})
}

// TestDecodeChecksWholeStreams has a wrong checksum and a wrong length.
func TestDecodeChecksWholeStreams(t *testing.T) {
	bothFormats(t, func(t *testing.T, f Format) {
		stream := compress(t, f, []byte("all work and no play"))
		for i := range 4 { // zstd ends with the checksum, gzip with checksum and length
			p := bytes.Clone(stream)
			p[len(p)-1-i]++
			if _, err := decodeBothWays(t, f, p, 21, 21); ending(err) != "broken" {
				t.Errorf("byte %d from the end: %v", i, err)
			}
			if p, err := decodeBothWays(t, f, p, 19, 20); f == EStargz && (err != nil || string(p[:19]) != "all work and no pla") {
				t.Errorf("byte %d from the end, not asked for: %q, %v", i, p, err)
			}
		}
	})
}

func TestDecodeOfGarbage(t *testing.T) {
	bothFormats(t, func(t *testing.T, f Format) {
		other := EStargz
		if f == EStargz {
			other = ZstdChunked
		}
		for name, p := range map[string][]byte{
			"nothing": nil, "zeros": make([]byte, 100), "noise": []byte(noise(6, 100)), "the other format": compress(t, other, []byte("x")),
			"skippable frame": append(skippable([]byte("x")), compress(t, ZstdChunked, []byte("x"))...),
		} {
			if _, err := decodeBothWays(t, f, p, 1, 100); err == nil {
				t.Errorf("%s: no error", name)
			}
		}
		if _, err := f.Decode(make([]byte, 9), compress(t, f, make([]byte, 100)), 10); !errors.Is(err, io.ErrShortBuffer) {
			t.Errorf("less room than is asked for: %v", err)
		}
	})
	if _, err := Format("lz4").Decode(make([]byte, 10), compress(t, EStargz, []byte("x")), 1); err == nil || !strings.Contains(err.Error(), `"lz4"`) {
		t.Errorf("unknown format: %v", err)
	}
}

// TestDecodeOfLayers decodes each stream of a layer once, as far as its last chunk, and takes all chunks from it.
func TestDecodeOfLayers(t *testing.T) {
	members := append(goSources(t, "src/sort"), reg("noise", noise(1, 300000)), reg("zeros", strings.Repeat("\x00", 300000)))
	for i := range 3000 { // headers behind the data of a small file
		members = append(members, link('2', fmt.Sprint("links/", i), "x"))
	}
	layer := makeTar(t, append(members, reg("last", "last"))...)
	for _, p := range packings {
		t.Run(p.name, func(t *testing.T) {
			b := pack(t, layer, p.options()...)
			fast := 0
			for rest := b.layout(t).Chunks; len(rest) > 0; {
				n := 1
				for n < len(rest) && rest[n].BlobOffset == rest[0].BlobOffset {
					n++
				}
				if decodeChunks(t, p.format, b.bytes, rest[:n]) {
					fast++
				}
				rest = rest[n:]
			}
			if fast == 0 && (p.format == ZstdChunked || libdeflate.Version != "") {
				t.Error("none was decoded in one go")
			}
		})
	}
}

// decodeChunks checks the chunks of one stream. It reports whether all of the stream was decoded.
func decodeChunks(t *testing.T, f Format, blob []byte, chunks []Chunk) (whole bool) {
	t.Helper()
	src := blob[chunks[0].BlobOffset:][:chunks[0].BlobSize]
	last := chunks[len(chunks)-1]
	least := int(last.InnerOffset + last.Size)
	dst := make([]byte, f.Room(src, least))
	n, err := f.Decode(dst, src, least)
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range chunks {
		if sha256.Sum256(dst[c.InnerOffset:][:c.Size]) != c.Digest {
			t.Fatalf("chunk at %d in %d: wrong digest", c.InnerOffset, c.BlobOffset)
		}
	}
	return n > least
}

func TestRoom(t *testing.T) {
	bothFormats(t, func(t *testing.T, f Format) {
		body := []byte(strings.Repeat("all work and no play ", 50000))
		for kind, src := range streams(t, f, body) {
			for _, least := range []int{0, 1, 10000, len(body) / 2, len(body) - 1, len(body), len(body) + 1} {
				room := f.Room(src, least)
				if room < least || room > 2*least+detour {
					t.Errorf("%s: room for %d of %d: %d", kind, least, len(body), room)
				}
				if size, known := f.streamSize(src); known && size != len(body) || !known && f == EStargz {
					t.Errorf("%s: %d bytes, %t", kind, size, known)
				}
			}
		}
		for n := range 32 { // nothing and next to nothing
			if room := f.Room(make([]byte, n), 10); room < 10 || room > detour {
				t.Errorf("room for 10 bytes of %d zeros: %d", n, room)
			}
		}
	})
}

// TestDecodersAreReused uses them at once, and lets the collector take them meanwhile.
func TestDecodersAreReused(t *testing.T) {
	bothFormats(t, func(t *testing.T, f Format) {
		body := noise(9, 100000)
		stream := compress(t, f, []byte(body))
		damaged := bytes.Clone(stream)
		damaged[len(damaged)/2]++
		var wg sync.WaitGroup
		for i := range 8 {
			wg.Go(func() {
				dst := make([]byte, len(body)+i%2)
				for j := range 20 {
					switch (i + j) % 4 {
					case 0:
						runtime.GC()
					case 1:
						if n, err := f.Decode(dst, damaged, len(body)); err == nil && string(dst[:n]) == body {
							t.Error("damaged: no difference")
						}
					default:
						if n, err := f.Decode(dst, stream, len(body)); err != nil || string(dst[:n]) != body {
							t.Errorf("%d bytes, %v", n, err)
						}
					}
				}
			})
		}
		wg.Wait()
	})
}

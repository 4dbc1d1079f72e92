package toc

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"testing"

	"github.com/opencontainers/go-digest"
)

// FuzzRead gives Read any bytes as a blob. Whatever it accepts has the digest that was asked for, and either lays out
// soundly or is refused by entry.
func FuzzRead(f *testing.F) {
	layer := makeTar(f, dir("d/", 0o755), reg("d/f", "data"), reg("d/.wh.x", ""), link('2', "l", "d"))
	gz, z := pack(f, layer), pack(f, layer, withZstd())
	for _, b := range []blob{gz, z} {
		f.Add(b.bytes)
		f.Add(b.bytes[:len(b.bytes)-1])
		f.Add(b.bytes[len(b.bytes)/2:])
	}
	f.Fuzz(func(t *testing.T, p []byte) {
		size := int64(len(p))
		toc, err := Read(bytes.NewReader(p), size, someDigest)
		var other *DigestError
		if toc != nil || err == nil {
			t.Fatalf("took a TOC of another digest: %v", err)
		}
		if !errors.As(err, &other) {
			return
		}
		if toc, err = Read(bytes.NewReader(p), size, other.Got); err != nil {
			return
		}
		if toc.Digest != other.Got || toc.PayloadSize < 0 || toc.PayloadSize >= size || toc.BlobSize != size {
			t.Fatalf("TOC %s, %d of %d", toc.Digest, toc.PayloadSize, toc.BlobSize)
		}
		checkLayout(t, toc)
		sameInOnePass(t, p, toc)
	})
}

// FuzzLayout gives Layout any JSON as a TOC.
func FuzzLayout(f *testing.F) {
	layer := makeTar(f, dir("d/", 0o755), reg("d/f", noise(1, 9000)).xattr("user.x", "y"), link('1', "d/h", "d/f"), reg("d/.wh.x", ""),
		reg(".wh..wh..opq", ""), link('2', "l", "d"), device('3', "c", 1, 3))
	f.Add([]byte(asJSONL(f, pack(f, layer).read(f))), int64(10000), true)
	for _, e := range [][]*entry{
		{hardlink("a", "b"), hardlink("b", "c"), sound("c")}, {hardlink("a", "b"), hardlink("b", "a")},
		{sound("f"), sound("f"), hardlink("h", "f"), sound("f")}, {sound("f", func(e *entry) { e.ChunkSize = 40 }), chunkAt(40, 0)},
		{sound(".wh.f"), sound("f"), folder("f")}, {sound("a/b/c"), folder("a"), sound("a/b")},
	} {
		f.Add([]byte(asJSONL(f, tocOf(e...))), int64(1<<20), false)
	}
	f.Fuzz(func(t *testing.T, p []byte, payload int64, gzip bool) {
		var c collector
		if err := decodeEntries(bytes.NewReader(p), c.take); err != nil {
			return
		}
		toc := &TOC{Format: ZstdChunked, Digest: digest.FromBytes(p), Entries: c.entries, PayloadSize: payload, BlobSize: payload}
		if gzip {
			toc.Format = EStargz
		}
		checkLayout(t, toc)
	})
}

func asJSONL(t testing.TB, toc *TOC) string {
	t.Helper()
	p, err := json.Marshal(map[string]any{"version": 1, "entries": toc.Entries})
	if err != nil {
		t.Fatal(err)
	}
	return string(p)
}

func checkLayout(t *testing.T, toc *TOC) {
	t.Helper()
	before := asJSONL(t, toc)
	l, err := toc.Layout()
	if asJSONL(t, toc) != before {
		t.Fatal("Layout changed the TOC")
	}
	if err != nil {
		var e *EntryError
		if !errors.As(err, &e) || len(err.Error()) > 4096 {
			t.Fatalf("error %v", err)
		}
		return
	}
	checkShape(t, toc, l)
	if err := l.WriteMetadata(io.Discard); err != nil {
		t.Fatalf("accepted, and cannot be written: %v", err)
	}
}

// FuzzFrame compares the walk over a zstd frame with the decoder's own: what decodes as one frame and something
// behind it decodes to the same bytes as the frame alone.
func FuzzFrame(f *testing.F) {
	for _, body := range bodies {
		f.Add(compress(f, ZstdChunked, []byte(body[:min(len(body), 1000)])))
	}
	f.Fuzz(func(t *testing.T, p []byte) {
		var frame bytes.Buffer
		walk := frameReader{src: bufio.NewReader(nil)}
		if err := walk.open(bytes.NewReader(p)); err != nil {
			return
		}
		if _, err := frame.ReadFrom(&walk); err != nil {
			return
		}
		if !bytes.HasPrefix(p, frame.Bytes()) {
			t.Fatal("passed on other bytes")
		}
		if n := frameSize(p); n != frame.Len() {
			t.Fatalf("a frame of %d bytes at once, of %d by and by", n, frame.Len())
		}
		alone, err := decompress(ZstdChunked, bytes.NewReader(frame.Bytes()))
		if err != nil {
			return
		}
		whole, err := decompress(ZstdChunked, bytes.NewReader(append(bytes.Clone(p), "behind"...)))
		if err != nil || !bytes.Equal(alone, whole) {
			t.Fatalf("%d bytes alone, %d with something behind, %v", len(alone), len(whole), err)
		}
	})
}

// FuzzDecode decodes any bytes, and any bytes compressed, as fast as it goes and by streaming: both give the same, as far
// as what is damaged in the middle.
func FuzzDecode(f *testing.F) {
	for _, format := range []Format{EStargz, ZstdChunked} {
		for _, body := range contents {
			body := []byte(body[:min(len(body), 1000)])
			for _, stream := range streams(f, format, body) {
				f.Add(stream, format == ZstdChunked, uint16(len(body)), uint16(10))
				f.Add(append(bytes.Clone(stream), stream...), format == ZstdChunked, uint16(len(body)/2), uint16(10000))
			}
		}
	}
	f.Fuzz(func(t *testing.T, p []byte, zstd bool, least, more uint16) {
		format := EStargz
		if zstd {
			format = ZstdChunked
		}
		if len(p) < 1<<20 {
			_, _ = decodeBothWays(t, format, p, int(least), int(least)+int(more))
		}
		stream := compress(t, format, p)
		for _, at := range []int{len(stream), int(more) % len(stream)} {
			if at < len(stream) {
				stream[at]++
			}
			_, _ = decodeBothWays(t, format, stream, int(least), format.Room(stream, int(least)))
		}
	})
}

package pack

import (
	"archive/tar"
	"bytes"
	"fmt"
	"io"
	"testing"
	"time"

	"github.com/sluice-snapshotter/sluice/fs/toc"
)

// TestGuess: what a node has to know of a tar besides contents, it can make anew of the TOC that is written here, fractions of seconds too.
func TestGuess(t *testing.T) {
	headers := []*tar.Header{
		node(tar.TypeDir, "usr/", ""), file("usr/first", 100), node(tar.TypeSymlink, "usr/link", "first"), file("usr/large", 300_000),
		{Typeflag: tar.TypeReg, Name: "usr/nanos", Mode: 0o600, Size: 10, ModTime: when.Add(time.Millisecond), Format: tar.FormatPAX},
		{Typeflag: tar.TypeReg, Name: "usr/capable", Mode: 0o755, Size: 1, PAXRecords: map[string]string{"SCHILY.xattr.user.x": "y"}},
		{Typeflag: tar.TypeReg, Name: "usr/owned", Mode: 0o644, Size: 512, Uid: 7, Gid: 8, Uname: "alice", Gname: "users"},
	}
	for i := range 3000 { // more than one member has
		headers = append(headers, node(tar.TypeSymlink, fmt.Sprintf("usr/many%d", i), "first"))
	}
	headers = append(headers, file("usr/last", 1000))
	raw := tarOf(t, headers...)
	for name, k := range kinds() {
		for how, o := range map[string]Options{
			"plainly":        {},
			"in order":       {First: []string{"usr/last", "usr/large"}, Edges: map[string][]int64{"usr/large": {10, 70_000}}},
			"in few members": {MinChunkSize: 100_000},
		} {
			t.Run(name+"/"+how, func(t *testing.T) {
				if name == "zstd" && o.MinChunkSize > 0 {
					t.Skip("nobody packs zstd so")
				}
				o.ChunkSize, o.Compressor = 64<<10, k.compressor
				packed, blob := mustPack(t, raw, o)
				r, err := toc.Fetch(bytes.NewReader(blob), toc.Wanted{BlobSize: int64(len(blob)), Digest: packed.TOCDigest})
				if err != nil {
					t.Fatal(err)
				}
				l, err := r.Layout()
				if err != nil {
					t.Fatal(err)
				}
				kept := toc.Kept{Format: r.Format, Digest: packed.TOCDigest, Compressed: bytes.NewReader(r.Compressed())}
				var made bytes.Buffer
				for g, err := range kept.Guess(toc.Styles()[0]) {
					if err != nil {
						t.Fatal(err)
					}
					if g.Piece == nil {
						t.Errorf("nothing is guessed at %d", g.Stream)
					}
					fill(t, &made, g, l.Chunks, r.Format, blob)
				}
				whole, err := r.Format.NewReaderAll(bytes.NewReader(blob[:r.PayloadSize]))
				if err != nil {
					t.Fatal(err)
				}
				want, err := io.ReadAll(whole)
				if err != nil || !bytes.Equal(made.Bytes(), want) {
					t.Errorf("%d bytes, want %d, error %v", made.Len(), len(want), err)
				}
			})
		}
	}
}

// fill writes a stream: what is guessed of it, and its chunks in between.
func fill(t *testing.T, w *bytes.Buffer, g toc.Guessed, chunks []toc.Chunk, f toc.Format, blob []byte) {
	t.Helper()
	pos := int64(0)
	for _, c := range chunks {
		if c.BlobOffset != g.Stream {
			continue
		}
		data := make([]byte, c.InnerOffset+c.Size)
		if _, err := f.Decode(data, blob[c.BlobOffset:], len(data)); err != nil {
			t.Fatal(err)
		}
		w.Write(g.Piece[:c.InnerOffset-pos])
		g.Piece = g.Piece[c.InnerOffset-pos:]
		w.Write(data[c.InnerOffset:])
		pos = c.InnerOffset + c.Size
	}
	w.Write(g.Piece)
}

package converter_test

import (
	"bytes"
	"math/rand/v2"
	"strings"
	"testing"

	"github.com/sluice-snapshotter/sluice/converter"
	"github.com/sluice-snapshotter/sluice/fs/toc"
)

// dense is n bytes that compression takes 1 % off.
func dense(n int) string {
	rng := rand.New(rand.NewPCG(1, 2))
	p := make([]byte, n)
	for i := range p {
		p[i] = byte(rng.IntN(240))
	}
	return string(p)
}

// TestDenseFiles has files that hardly compress stand in the blob as they are, in either format, and all else be compressed.
func TestDenseFiles(t *testing.T) {
	picture, text := dense(1<<20), strings.Repeat("all work and no play ", 50000)
	src := newLayout(t)
	src.tag(src.image(host, testLayer{tar: tarOf(t, file("a.txt", text), file("b.jpg", picture), file("c.txt", text))}))
	for name, o := range map[string]converter.Options{
		"estargz":        {},
		"fast":           {CompressionLevel: new(1)},
		"large chunks":   {ChunkSize: toc.MaxChunkSize},
		"min chunk size": {ChunkSize: 64 << 10, MinChunkSize: 100 << 10},
		"zstd":           {Format: toc.ZstdChunked},
		"zstd, best":     {Format: toc.ZstdChunked, CompressionLevel: new(22)},
	} {
		t.Run(name, func(t *testing.T) {
			out, report := convertTo(t, src.source(), o)
			blob := out.read(report.Layers[0].Target)
			if !bytes.Contains(blob, []byte(picture[:60000])) {
				t.Error("the picture is not stored")
			}
			if limit := len(picture) + 50000; len(blob) > limit {
				t.Errorf("%d bytes, want at most %d", len(blob), limit)
			}
			got := entriesOf(t, blob)
			for path, want := range map[string]string{"/a.txt": text, "/b.jpg": picture, "/c.txt": text} {
				if got[path].content != want {
					t.Errorf("%s: other bytes", path)
				}
			}
			if _, again := convertTo(t, src.source(), o); again.Digest != report.Digest {
				t.Error("another digest the second time")
			}
		})
	}
}

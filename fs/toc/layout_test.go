package toc

import (
	"archive/tar"
	"bytes"
	"crypto/sha256"
	"fmt"
	"io"
	"path"
	"strings"
	"testing"

	"github.com/containerd/stargz-snapshotter/estargz"
	"golang.org/x/sys/unix"

	"github.com/sluice-snapshotter/sluice/fs/metadata"
)

// packings are the ways of other people's tools to pack a layer.
var packings = []struct {
	name    string
	format  Format
	options func() []estargz.Option
}{
	{"gzip", EStargz, func() []estargz.Option { return nil }},
	{"gzip, small chunks", EStargz, func() []estargz.Option {
		return []estargz.Option{estargz.WithChunkSize(4096), estargz.WithCompressionLevel(1)}
	}},
	{"gzip, one worker", EStargz, func() []estargz.Option { return []estargz.Option{estargz.WithParallelism(1)} }},
	{"gzip, shared streams", EStargz, func() []estargz.Option {
		return []estargz.Option{estargz.WithChunkSize(30000), estargz.WithMinChunkSize(100000)}
	}},
	{"gzip, legacy footer", EStargz, func() []estargz.Option {
		return []estargz.Option{estargz.WithCompression(legacyGzip{estargz.NewGzipCompressor(), new(estargz.LegacyGzipDecompressor)})}
	}},
	{"zstd", ZstdChunked, func() []estargz.Option { return []estargz.Option{withZstd()} }},
	{"zstd, small chunks", ZstdChunked, func() []estargz.Option {
		return []estargz.Option{withZstd(), estargz.WithChunkSize(20000)}
	}},
	{"zstd, shared streams", ZstdChunked, func() []estargz.Option {
		return []estargz.Option{withZstd(), estargz.WithChunkSize(30000), estargz.WithMinChunkSize(100000)}
	}},
}

func TestLayoutOfRealLayers(t *testing.T) {
	members := append(goSources(t, "src/net/http"),
		reg("big", noise(1, 4<<20+1)),
		reg("zeros", strings.Repeat("\x00", 8<<20)),
		reg("exactly", noise(2, 8192)),
		reg("empty", ""),
		link(tar.TypeLink, "again", "big"))
	layer := makeTar(t, members...)
	for _, p := range packings {
		t.Run(p.name, func(t *testing.T) {
			b := pack(t, layer, p.options()...)
			toc := b.read(t)
			if toc.Format != p.format || toc.Digest != b.toc || toc.BlobSize != int64(len(b.bytes)) {
				t.Errorf("TOC says %s %s %d", toc.Format, toc.Digest, toc.BlobSize)
			}
			l := b.layout(t)
			checkShape(t, toc, l)
			checkFiles(t, b, toc.Format, l, members)
			if err := l.WriteMetadata(io.Discard); err != nil {
				t.Error(err)
			}
		})
	}
}

// checkShape checks what holds for every layout, whatever the layer.
func checkShape(t testing.TB, toc *TOC, l *Layout) {
	t.Helper()
	end := int64(0)
	for i, c := range l.Chunks {
		switch {
		case c.DataOffset < end || c.Size <= 0 || c.Size > MaxChunkSize || c.Size > l.DataSize-c.DataOffset:
			t.Fatalf("chunk %d: %d bytes at %d of %d, after %d", i, c.Size, c.DataOffset, l.DataSize, end)
		case c.BlobOffset < 0 || c.BlobSize <= 0 || c.BlobSize > toc.PayloadSize-c.BlobOffset || c.InnerOffset < 0:
			t.Fatalf("chunk %d: %d+%d bytes of blob at %d of %d", i, c.BlobSize, c.InnerOffset, c.BlobOffset, toc.PayloadSize)
		}
		end = c.DataOffset + c.Size
	}
	if l.DataSize%blockSize != 0 || l.DataSize-end >= blockSize && l.DataSize > 0 || l.PrefetchChunks > len(l.Chunks) {
		t.Fatalf("address space of %d bytes, chunks end at %d; prefetch %d of %d", l.DataSize, end, l.PrefetchChunks, len(l.Chunks))
	}
	checkTree(t, l)
}

// checkTree walks the tree: every name possible, every file where chunks are, in one run without gaps.
func checkTree(t testing.TB, l *Layout) {
	t.Helper()
	starts := make(map[int64]int, len(l.Chunks))
	for i, c := range l.Chunks {
		starts[c.DataOffset] = i
	}
	files, chunks := map[*metadata.Node]bool{}, 0
	dirs := map[*metadata.Node]bool{l.Root: true}
	for queue := []*metadata.Node{l.Root}; len(queue) > 0; queue = queue[1:] {
		for name, n := range queue[0].Children {
			if name == "" || name == "." || name == ".." || len(name) > 255 || strings.ContainsAny(name, "/\x00") {
				t.Fatalf("name %q", name)
			}
			switch n.Mode & unix.S_IFMT {
			case unix.S_IFDIR:
				if dirs[n] {
					t.Fatalf("directory %q has two names", name)
				}
				dirs[n] = true
				queue = append(queue, n)
			case unix.S_IFREG:
				if !files[n] {
					files[n] = true
					chunks += checkRun(t, l, n, starts)
				}
			}
		}
	}
	if len(files) != l.Files || chunks != len(l.Chunks) {
		t.Fatalf("tree has %d files in %d chunks, layout says %d in %d", len(files), chunks, l.Files, len(l.Chunks))
	}
}

// checkRun checks that chunks cover a file exactly, and says how many do.
func checkRun(t testing.TB, l *Layout, n *metadata.Node, starts map[int64]int) int {
	t.Helper()
	if n.Size == 0 {
		return 0
	}
	first, ok := starts[n.Offset]
	if !ok || n.Offset%blockSize != 0 {
		t.Fatalf("file at %d begins with no chunk", n.Offset)
	}
	next, i := n.Offset, first
	for ; i < len(l.Chunks) && next < n.Offset+n.Size; i++ {
		if l.Chunks[i].DataOffset != next {
			t.Fatalf("file at %d has a gap at %d", n.Offset, next)
		}
		next += l.Chunks[i].Size
	}
	if next != n.Offset+n.Size {
		t.Fatalf("file at %d of %d bytes has chunks up to %d", n.Offset, n.Size, next)
	}
	return i - first
}

// checkFiles decompresses every chunk and compares the files with what went in.
func checkFiles(t *testing.T, b blob, f Format, l *Layout, members []member) {
	t.Helper()
	data := make([]byte, l.DataSize)
	for i, c := range l.Chunks {
		p := data[c.DataOffset:][:c.Size]
		if err := extract(f, io.NewSectionReader(bytes.NewReader(b.bytes), c.BlobOffset, c.BlobSize), c.InnerOffset, p); err != nil {
			t.Fatalf("chunk %d: %v", i, err)
		}
		if sha256.Sum256(p) != c.Digest {
			t.Fatalf("chunk %d: wrong digest", i)
		}
	}
	for _, m := range members {
		n := find(l.Root, m.header.Name)
		if n == nil {
			t.Fatalf("%s is not in the tree", m.header.Name)
		}
		if m.header.Typeflag == tar.TypeReg && string(data[n.Offset:][:n.Size]) != m.body {
			t.Fatalf("%s has other bytes", m.header.Name)
		}
	}
}

// extract reads the bytes at inner of the stream in r.
func extract(f Format, r io.Reader, inner int64, p []byte) error {
	zr, err := f.NewReader(r)
	if err != nil {
		return err
	}
	defer zr.Close()
	if _, err := io.CopyN(io.Discard, zr, inner); err != nil {
		return fmt.Errorf("skip %d: %w", inner, err)
	}
	_, err = io.ReadFull(zr, p)
	return err
}

func find(root *metadata.Node, name string) *metadata.Node {
	n := root
	for c := range strings.SplitSeq(path.Clean("/" + name)[1:], "/") {
		if c != "" && n != nil {
			n = n.Children[c]
		}
	}
	return n
}

func TestLayoutHasChunksInBlobOrder(t *testing.T) {
	for _, p := range packings {
		t.Run(p.name, func(t *testing.T) {
			options := append(p.options(), estargz.WithPrioritizedFiles([]string{"c", "a"}))
			l := pack(t, makeTar(t, reg("a", noise(1, 30000)), reg("b", noise(2, 30000)), reg("c", noise(3, 30000))), options...).layout(t)
			for i := 1; i < len(l.Chunks); i++ {
				if compareInBlob(&l.Chunks[i-1], &l.Chunks[i]) >= 0 {
					t.Errorf("chunk %d lies before the one before", i)
				}
			}
			a, b, c := find(l.Root, "a"), find(l.Root, "b"), find(l.Root, "c")
			if c.Offset != 0 || a.Offset != 32768 || b.Offset != 65536 {
				t.Errorf("offsets %d %d %d of c, a, b", c.Offset, a.Offset, b.Offset)
			}
			if l.PrefetchChunks == 0 || l.PrefetchChunks == len(l.Chunks) || l.Chunks[l.PrefetchChunks].DataOffset != b.Offset {
				t.Errorf("%d of %d chunks are prefetched, b begins at %d", l.PrefetchChunks, len(l.Chunks), b.Offset)
			}
		})
	}
}

func TestPrefetchChunks(t *testing.T) {
	layer := makeTar(t, reg("a", "aaa"), reg("b", "bbb"))
	for name, tc := range map[string]struct {
		prioritized []string
		want        int
	}{
		"no list":       {nil, 0},
		"one file":      {[]string{"b"}, 1},
		"everything":    {[]string{"b", "a"}, 2},
		"repeated":      {[]string{"a", "a"}, 1},
		"spelled other": {[]string{"./a"}, 1},
	} {
		t.Run(name, func(t *testing.T) {
			l := pack(t, layer, estargz.WithPrioritizedFiles(tc.prioritized)).layout(t)
			if l.PrefetchChunks != tc.want {
				t.Errorf("%d chunks, want %d", l.PrefetchChunks, tc.want)
			}
			for _, name := range []string{estargz.PrefetchLandmark, estargz.NoPrefetchLandmark} {
				if find(l.Root, name) != nil {
					t.Errorf("%s is in the tree", name)
				}
			}
		})
	}
}

func TestLayoutIsRepeatable(t *testing.T) {
	toc := pack(t, makeTar(t, goSources(t, "src/net/http")...)).read(t)
	var first []byte
	for range 3 {
		l, err := toc.Layout()
		if err != nil {
			t.Fatal(err)
		}
		var image bytes.Buffer
		if err := l.WriteMetadata(&image); err != nil {
			t.Fatal(err)
		}
		if first == nil {
			first = image.Bytes()
		}
		if !bytes.Equal(first, image.Bytes()) {
			t.Error("metadata image differs")
		}
	}
}

package fs

import (
	"bytes"
	"crypto/sha256"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/opencontainers/go-digest"
	"golang.org/x/sys/unix"

	"github.com/sluice-snapshotter/sluice/cache"
	"github.com/sluice-snapshotter/sluice/fs/layer"
	"github.com/sluice-snapshotter/sluice/fs/metadata"
)

// A layer with a file that is larger than 4 GiB and nearly all holes, and one that lies behind it.
const (
	hugeOffset   = 5 * 4096
	hugeSize     = 4<<30 + 9<<20 + 1234
	behindOffset = 6 << 30
	behindSize   = 5000
	hugeData     = 7 << 30
	hugeChunk    = 8192 // bytes around each mark; what no chunk covers reads as zeros
)

// hugeMarks are where the large file has something in it: where 31 and 32 bits do not suffice any more, for the file and for the data file.
func hugeMarks() []int64 {
	return []int64{0, 1<<31 - hugeOffset, 1 << 31, 1<<32 - hugeOffset, 1 << 32, 1<<32 + 5<<20}
}

// hugeChunks are the contents of the layer, by offset in its address space.
func hugeChunks() map[int64][]byte {
	chunks := map[int64][]byte{behindOffset: noise(99, behindSize)}
	for i, off := range hugeMarks() {
		chunks[hugeOffset+off-hugeChunk/2*min(off, 1)] = noise(uint64(i), hugeChunk) // on both sides of the mark
	}
	const tail = 3000
	chunks[hugeOffset+hugeSize-tail] = noise(98, tail)
	return chunks
}

// storeHuge puts the layer into the node's store, whole, and returns what it is mounted by.
func (n *node) storeHuge(t *testing.T) Source {
	t.Helper()
	src := Source{Ref: "localhost/test/huge:latest", Digest: digest.FromString("huge"), TOCDigest: digest.FromString("TOC"), Size: 1000, Held: true}
	chunks := hugeChunks()
	order := slices.Sorted(maps.Keys(chunks))
	root := &metadata.Node{Mode: unix.S_IFDIR | 0o755, Children: map[string]*metadata.Node{
		"huge":   {Mode: unix.S_IFREG | 0o644, Offset: hugeOffset, Size: hugeSize},
		"behind": {Mode: unix.S_IFREG | 0o644, Offset: behindOffset, Size: behindSize},
	}}
	info := cache.Info{Format: "estargz", TOCDigest: src.TOCDigest, BlobSize: src.Size, DataSize: hugeData}
	l, err := n.store.Create(src.Digest, info, func(meta *os.File, add func(cache.Chunk) error) error {
		for _, off := range order {
			p := chunks[off]
			if err := add(cache.Chunk{DataOffset: off, Size: int64(len(p)), BlobSize: 1, Digest: sha256.Sum256(p)}); err != nil {
				return err
			}
		}
		return metadata.Write(meta, root, metadata.Options{DataSize: hugeData})
	})
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	for i, off := range order {
		if err := l.Put(i, chunks[off]); err != nil {
			t.Fatal(err)
		}
	}
	return src
}

// TestHuge reads on both sides of 4 GiB, of a file and of the data file, in every kind of mount.
func TestHuge(t *testing.T) {
	for _, c := range everyKind {
		t.Run(c.name, func(t *testing.T) {
			var reads atomic.Int64
			n := newNode(t, Options{Mode: c.mode, NoNative: c.noNative, Observer: layer.Observer{Read: func(layer.Result) { reads.Add(1) }}})
			src := n.storeHuge(t)
			n.mountLayer(t, src)
			l := blob{digest: src.Digest}
			n.settled(t, l)
			path := n.path(t, l, "reader")
			if native := strings.HasSuffix(path, nativeSuffix); native == c.noNative {
				t.Fatalf("the layer is at %s", path)
			}
			compareHuge(t, path)
			if came := reads.Load() > 0; came != c.noNative {
				t.Errorf("%d reads came to this process", reads.Load())
			}
			if used := n.store.Used(); used > 1<<20 {
				t.Errorf("the layer takes %d bytes on disk", used)
			}
		})
	}
}

// compareHuge compares all places of the layer at root that have something in them, with what is around them.
func compareHuge(t *testing.T, root string) {
	t.Helper()
	for name, at := range map[string]struct{ offset, size int64 }{"huge": {hugeOffset, hugeSize}, "behind": {behindOffset, behindSize}} {
		f, err := os.Open(filepath.Join(root, name))
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		if st, err := f.Stat(); err != nil || st.Size() != at.size {
			t.Errorf("%s: %v, %v; want %d bytes", name, st, err, at.size)
		}
		for data, content := range hugeChunks() {
			if data < at.offset || data >= at.offset+at.size {
				continue
			}
			from := max(data-at.offset-10_000, 0)
			to := min(data-at.offset+int64(len(content))+10_000, at.size)
			want := make([]byte, to-from)
			copy(want[data-at.offset-from:], content)
			got := make([]byte, len(want))
			if k, err := f.ReadAt(got, from); err != nil || !bytes.Equal(got, want) {
				t.Errorf("%s: %d bytes at %d differ: read %d, %v", name, len(want), from, k, err)
			}
		}
	}
}

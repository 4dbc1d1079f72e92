package fs

import (
	"bytes"
	"fmt"
	"testing"

	"github.com/containerd/stargz-snapshotter/estargz"
	"github.com/opencontainers/go-digest"
)

// manyFiles is a layer of n files, 20 to a folder, and the folders. Its payload is nothing that could be read.
func manyFiles(t testing.TB, n int) blob {
	t.Helper()
	const streamSize = 8
	table := &estargz.JTOC{Version: 1}
	for i := range n {
		folder := fmt.Sprintf("usr/lib/python3/dist-packages/package%d/", i/20)
		if i%20 == 0 {
			table.Entries = append(table.Entries, &estargz.TOCEntry{Name: folder, Type: "dir", Mode: 0o755, ModTime3339: "2024-02-29T12:00:00Z"})
		}
		d := digest.FromString(fmt.Sprint(i)).String()
		table.Entries = append(table.Entries, &estargz.TOCEntry{Name: fmt.Sprintf("%smodule%d.py", folder, i), Type: "reg", Size: 50, Mode: 0o644,
			ModTime3339: "2024-02-29T12:00:00Z", Offset: int64(i) * streamSize, Digest: d, ChunkDigest: d})
	}
	var out bytes.Buffer
	out.Write(make([]byte, n*streamSize))
	d, err := estargz.NewGzipCompressor().WriteTOCAndFooter(&out, int64(out.Len()), table, nil)
	if err != nil {
		t.Fatal(err)
	}
	return blob{bytes: out.Bytes(), digest: digest.FromBytes(out.Bytes()), tocDigest: d}
}

// BenchmarkMount mounts a layer of 126,000 entries: for the first time, from a registry next door, and then from the store, as after a
// restart.
func BenchmarkMount(b *testing.B) {
	l := manyFiles(b, 120_000)
	src := newRegistry(b, l).told(l)
	b.Run("first", func(b *testing.B) {
		n := newNode(b, Options{})
		for b.Loop() {
			n.mountLayer(b, src)
			b.StopTimer()
			if err := n.Unmount(b.Context(), src.Digest); err != nil { // removes it from the store
				b.Fatal(err)
			}
			b.StartTimer()
		}
	})
	b.Run("second", func(b *testing.B) {
		root := b.TempDir()
		n := openNode(b, root, Options{})
		n.mountLayer(b, src)
		for b.Loop() {
			b.StopTimer()
			n.close(b)
			n = openNode(b, root, Options{})
			b.StartTimer()
			n.mountLayer(b, src)
		}
	})
}

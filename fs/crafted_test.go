package fs

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"io"
	"testing"

	"github.com/containerd/stargz-snapshotter/estargz"
	"github.com/containerd/stargz-snapshotter/estargz/zstdchunked"
	"github.com/klauspost/compress/zstd"
	"github.com/opencontainers/go-digest"

	"github.com/sluice-snapshotter/sluice/fs/layer"
	"github.com/sluice-snapshotter/sluice/fs/toc"
)

// zstdCompression packs zstd:chunked with estargz.Build.
type zstdCompression struct {
	*zstdchunked.Compressor
	*zstdchunked.Decompressor
}

// buildZstd makes a zstd:chunked layer, whose TOC is no part of its tar. change changes what the TOC says; nil leaves it honest.
func buildZstd(t testing.TB, files []file, change func(entries []*estargz.TOCEntry) []*estargz.TOCEntry) blob {
	t.Helper()
	r, err := estargz.Build(tarOf(t, files), estargz.WithChunkSize(64<<10),
		estargz.WithCompression(zstdCompression{&zstdchunked.Compressor{CompressionLevel: zstd.SpeedFastest}, new(zstdchunked.Decompressor)}))
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	packed, err := io.ReadAll(r)
	if err != nil {
		t.Fatal(err)
	}
	honest, err := toc.Read(bytes.NewReader(packed), int64(len(packed)), r.TOCDigest())
	if err != nil {
		t.Fatal(err)
	}
	if change == nil {
		return blob{files: files, bytes: packed, digest: digest.FromBytes(packed), tocDigest: r.TOCDigest()}
	}
	text, err := json.Marshal(estargz.JTOC{Version: 1, Entries: change(honest.Entries)})
	if err != nil {
		t.Fatal(err)
	}
	crafted := withTOC(t, packed[:honest.PayloadSize], text)
	return blob{files: files, bytes: crafted, digest: digest.FromBytes(crafted), tocDigest: digest.FromBytes(text)}
}

// withTOC makes a zstd:chunked blob of a payload and a TOC.
func withTOC(t testing.TB, payload, text []byte) []byte {
	t.Helper()
	z, err := zstd.NewWriter(nil)
	if err != nil {
		t.Fatal(err)
	}
	compressed := z.EncodeAll(text, nil)
	skippable := func(p []byte) []byte {
		return append(binary.LittleEndian.AppendUint32([]byte{0x50, 0x2a, 0x4d, 0x18}, uint32(len(p))), p...)
	}
	var footer []byte
	for _, n := range []int{len(payload) + 8, len(compressed), len(text), 1} {
		footer = binary.LittleEndian.AppendUint64(footer, uint64(n))
	}
	out := append(bytes.Clone(payload), skippable(compressed)...)
	return append(out, skippable(append(footer, "GnUlInUx"...))...)
}

// setuid is what a lying TOC says of etc/one.
func setuid(entries []*estargz.TOCEntry) []*estargz.TOCEntry {
	for _, e := range entries {
		if e.Name == "etc/one" {
			e.Mode = 0o4755
		}
	}
	return entries
}

// TestProofOfLyingTOC: the tar of a layer is the one that its image names, and its TOC says otherwise. It is found out, and treated as one
// whose tar is another; the same tar with an honest TOC is mounted.
func TestProofOfLyingTOC(t *testing.T) {
	for name, lie := range map[string]func(entries []*estargz.TOCEntry) []*estargz.TOCEntry{
		"mode":   setuid,
		"hidden": func(entries []*estargz.TOCEntry) []*estargz.TOCEntry { return append(entries[:2], entries[3:]...) },
		"added": func(entries []*estargz.TOCEntry) []*estargz.TOCEntry {
			return append(entries, &estargz.TOCEntry{Name: "evil", Type: "symlink", LinkName: "/", Mode: 0o777})
		},
	} {
		t.Run(name, func(t *testing.T) {
			crafted, genuine := buildZstd(t, proofFiles(1), lie), buildZstd(t, proofFiles(1), nil)
			if crafted.diffID(t) != genuine.diffID(t) || crafted.digest == genuine.digest {
				t.Fatal("not the same tar in two blobs")
			}
			inModes(t, func(t *testing.T, mode Mode) { foundOut(t, mode, crafted, genuine).genuineComes(t) })
		})
	}
}

// TestProofOfBomb: a small blob that decompresses to more zeros than a tar can have is found out long before the end of them, wherever they are.
func TestProofOfBomb(t *testing.T) {
	const zeros = 8 << 30
	honest := buildZstd(t, proofFiles(1), nil)
	info, err := toc.Read(bytes.NewReader(honest.bytes), int64(len(honest.bytes)), honest.tocDigest)
	if err != nil {
		t.Fatal(err)
	}
	text, err := json.Marshal(estargz.JTOC{Version: 1, Entries: info.Entries})
	if err != nil {
		t.Fatal(err)
	}
	packed := withTOC(t, append(bytes.Clone(honest.bytes[:info.PayloadSize]), zerosFrame(zeros)...), text)
	bomb := blob{bytes: packed, digest: digest.FromBytes(packed), tocDigest: digest.FromBytes(text)}
	r, results := newRegistry(t, bomb), make(chan bool, 1)
	n := newNode(t, proving(FUSE, results))
	claim := r.source(bomb)
	claim.Chain = digest.FromString("any")
	n.mountLayer(t, claim)
	if right := <-results; right || n.recorded(t, bomb) != layer.NoDiffID {
		t.Errorf("right %t, diffID %s", right, n.recorded(t, bomb))
	}
}

// zerosFrame is a zstd frame of zeros: four bytes for each 128 KiB (RFC 8878, 3.1.1.2).
func zerosFrame(size int) []byte {
	const block = 128 << 10
	out := []byte{0x28, 0xb5, 0x2f, 0xfd, 0x00, 0x38} // a window of 128 KiB
	for i := range size / block {
		h := uint32(block<<3 | 1<<1)
		if i == size/block-1 {
			h |= 1
		}
		out = append(binary.LittleEndian.AppendUint32(out, h)[:len(out)+3], 0)
	}
	return out
}

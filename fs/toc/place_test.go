package toc

import (
	"bytes"
	"cmp"
	"encoding/binary"
	"errors"
	"fmt"
	"testing"

	"github.com/containerd/stargz-snapshotter/estargz"
	"github.com/klauspost/compress/zstd"
	"github.com/opencontainers/go-digest"
)

func TestAnnotated(t *testing.T) {
	for _, tc := range []struct {
		name        string
		annotations map[string]string
		digest      digest.Digest
		place       Place
	}{
		{"none", nil, "", Place{}},
		{"estargz", map[string]string{TOCDigestAnnotation: "a"}, "a", Place{}},
		{"skopeo 1.9", map[string]string{ZstdChecksumAnnotation: "b", ZstdPositionAnnotation: "58490:2304:8810:1"}, "b", Place{ZstdChunked, 58490, 2304}},
		{"podman 5", map[string]string{PodmanChecksumAnnotation: "c", PodmanPositionAnnotation: "56495:2301:7965:1",
			"io.github.containers.zstd-chunked.tarsplit-position": "58804:1326:35000"}, "c", Place{ZstdChunked, 56495, 2301}},
		{"stargz-snapshotter", map[string]string{TOCDigestAnnotation: "a", ZstdChecksumAnnotation: "b", ZstdPositionAnnotation: "8:9:10:1"}, "a", Place{ZstdChunked, 8, 9}},
		{"sluice", map[string]string{TOCDigestAnnotation: "a", EStargzPositionAnnotation: "8:9"}, "a", Place{EStargz, 8, 9}},
		{"sluice, cut off", map[string]string{TOCDigestAnnotation: "a", EStargzPositionAnnotation: "8"}, "a", Place{}},
		{"unknown type", map[string]string{TOCDigestAnnotation: "a", ZstdPositionAnnotation: "8:9:10:2"}, "a", Place{}},
		{"too few", map[string]string{TOCDigestAnnotation: "a", ZstdPositionAnnotation: "8:9:10"}, "a", Place{}},
		{"no number", map[string]string{TOCDigestAnnotation: "a", ZstdPositionAnnotation: "8:x:10:1"}, "a", Place{}},
		{"huge number", map[string]string{TOCDigestAnnotation: "a", ZstdPositionAnnotation: "9223372036854775808:1:10:1"}, "a", Place{}},
	} {
		if d, p := Annotated(tc.annotations); d != tc.digest || p != tc.place {
			t.Errorf("%s: %q at %v, want %q at %v", tc.name, d, p, tc.digest, tc.place)
		}
	}
}

// packPodman is packJSON in podman's form: tarSplit lies between TOC and footer.
func packPodman(t testing.TB, payload, json, tarSplit []byte) (blob, Place) {
	t.Helper()
	z, err := zstd.NewWriter(nil)
	if err != nil {
		t.Fatal(err)
	}
	compressed := z.EncodeAll(json, nil)
	place := Place{ZstdChunked, int64(len(payload)) + 8, int64(len(compressed))}
	var footer []byte
	for _, n := range []int64{place.Offset, place.Size, int64(len(json)), 1, place.Offset + place.Size + 8, int64(len(tarSplit)), 12345} {
		footer = binary.LittleEndian.AppendUint64(footer, uint64(n))
	}
	b := bytes.Clone(payload)
	for _, p := range [][]byte{compressed, tarSplit, append(footer, "GNUlInUx"...)} {
		b = append(b, skippable(p)...)
	}
	return blob{bytes: b, toc: digest.FromBytes(compressed), format: ZstdChunked}, place
}

func TestPodmanFooter(t *testing.T) {
	for _, split := range []int{10, 100 << 10, 3 << 20} { // also one that takes the TOC out of the tail, in part and wholly
		for _, payload := range []int{10, 3 << 20} {
			b, _ := packPodman(t, make([]byte, payload), entriesJSON(1000), []byte(noise(1, split)))
			toc := b.read(t)
			if len(toc.Entries) != 1000 || toc.Format != ZstdChunked || toc.PayloadSize != int64(payload) {
				t.Errorf("%d before, %d behind: %d entries, payload %d", payload, split, len(toc.Entries), toc.PayloadSize)
			}
		}
	}
}

// TestFetchByPlace: where the TOC's place is known it is all that is asked for, however large it is, and of small blobs
// what lies before it too.
func TestFetchByPlace(t *testing.T) {
	for _, tc := range []struct{ files, payload, split int }{{10, 100, 100}, {100, 3 << 20, 3 << 20}, {40000, 3 << 20, 100}, {1000, 50 << 10, 200 << 10}} {
		t.Run(fmt.Sprint(tc), func(t *testing.T) {
			b, place := packPodman(t, make([]byte, tc.payload), entriesJSON(tc.files), make([]byte, tc.split))
			r := &countingReader{bytes: b.bytes}
			raw, err := Fetch(r, Wanted{BlobSize: int64(len(b.bytes)), Digest: b.toc, Place: place})
			if err != nil {
				t.Fatal(err)
			}
			from := place.Offset
			if len(b.bytes) <= MinTailSize {
				from = 0
			}
			if want := [2]int64{from, place.Offset + place.Size - from}; len(r.reads) != 1 || r.reads[0] != want {
				t.Errorf("read %v, want %v", r.reads, want)
			}
			tail := max(0, int64(tc.payload)-from)
			if raw.Tail.Offset != from || int64(len(raw.Tail.Bytes)) != tail || raw.PayloadSize != int64(tc.payload) {
				t.Errorf("tail of %d bytes at %d, payload %d", len(raw.Tail.Bytes), raw.Tail.Offset, raw.PayloadSize)
			}
			if toc, err := raw.TOC(); err != nil || len(toc.Entries) != tc.files {
				t.Errorf("TOC %v, error %v", toc, err)
			}
		})
	}
}

// TestFetchByImpossiblePlace goes by the footer where the place cannot be, and gives the TOC's own error where it is wrong.
func TestFetchByImpossiblePlace(t *testing.T) {
	b, place := packPodman(t, make([]byte, 1000), entriesJSON(3), nil)
	size := int64(len(b.bytes))
	for _, at := range [][2]int64{{}, {7, 10}, {-1, 10}, {8, 0}, {8, -1}, {size, 1}, {8, size}, {1<<63 - 1, 1<<63 - 1}, {8, MaxCompressedTOCSize + 1}} {
		p := Place{ZstdChunked, at[0], at[1]}
		raw, err := Fetch(bytes.NewReader(b.bytes), Wanted{BlobSize: size, Digest: b.toc, Place: p})
		if err != nil || raw.PayloadSize != 1000 {
			t.Errorf("%v: %+v, error %v", p, raw, err)
		}
	}
	raw, err := Fetch(bytes.NewReader(b.bytes), Wanted{BlobSize: size, Digest: b.toc, Place: Place{ZstdChunked, place.Offset + 1, place.Size}})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := raw.TOC(); err == nil {
		t.Error("no error for a TOC that is elsewhere")
	}
}

// TestFetchEStargzByPlace: what Sluice's converter says of an eStargz layer is all that is asked for, and no more than a hint.
func TestFetchEStargzByPlace(t *testing.T) {
	b := packJSON(t, EStargz, []byte(noise(1, 3<<20)), entriesJSON(40000))
	size := int64(len(b.bytes))
	place := Place{EStargz, 3 << 20, size - 3<<20 - estargz.FooterSize}
	r := &countingReader{bytes: b.bytes}
	raw, err := Fetch(r, Wanted{BlobSize: size, Digest: b.toc, Place: place})
	if err != nil {
		t.Fatal(err)
	}
	if want := [2]int64{place.Offset, place.Size}; len(r.reads) != 1 || r.reads[0] != want || raw.PayloadSize != place.Offset {
		t.Errorf("read %v, want %v; payload %d", r.reads, want, raw.PayloadSize)
	}
	if toc, err := raw.TOC(); err != nil || len(toc.Entries) != 40000 {
		t.Errorf("TOC %v, error %v", toc, err)
	}
	for _, at := range [][2]int64{{-1, 10}, {8, 0}, {size, 1}, {8, size}} {
		raw, err := Fetch(bytes.NewReader(b.bytes), Wanted{BlobSize: size, Digest: b.toc, Place: Place{EStargz, at[0], at[1]}})
		if err != nil || raw.PayloadSize != place.Offset {
			t.Errorf("%v: %+v, error %v", at, raw, err)
		}
	}
}

func TestTail(t *testing.T) {
	for _, tc := range []struct{ payload, tail int }{{100, 100}, {5 << 20, 0}} {
		bothFormats(t, func(t *testing.T, f Format) {
			payload := []byte(noise(1, tc.payload))
			b := packJSON(t, f, payload, entriesJSON(5))
			raw, err := Fetch(bytes.NewReader(b.bytes), Wanted{BlobSize: int64(len(b.bytes)), Digest: b.toc})
			if err != nil {
				t.Fatal(err)
			}
			size := int64(len(b.bytes))
			if raw.Tail.Offset != size-tailSize(size) || !bytes.Equal(raw.Tail.Bytes, payload[raw.Tail.Offset:]) {
				t.Errorf("%d bytes of the payload from %d on", len(raw.Tail.Bytes), raw.Tail.Offset)
			}
		})
	}
	for blob, want := range map[int64]int64{-1: 0, 0: 0, 1: 1, MinTailSize: MinTailSize, MinTailSize + 1: MinTailSize, 4 << 20: 256 << 10, 1 << 40: TailSize} {
		if got := tailSize(blob); got != want {
			t.Errorf("tail of %d bytes: %d, want %d", blob, got, want)
		}
	}
}

func TestHoles(t *testing.T) {
	d := digest.FromString("").String()
	e := func(s string) string { return `{"version":1,"entries":[` + s + `]}` }
	for _, tc := range []struct {
		name, json string
		want       []Chunk // of which only offset and size count
		size       int64
	}{
		{"at the front", e(`{"name":"f","type":"reg","size":10000,"offset":1,"chunkSize":9000,"chunkDigest":"` + d + `","chunkType":"zeros"},
			{"type":"chunk","name":"f","offset":50,"chunkOffset":9000,"chunkSize":1000,"chunkDigest":"` + d + `"}`), []Chunk{{DataOffset: 9000, Size: 1000}}, 12288},
		{"at the end, and a file behind", e(`{"name":"f","type":"reg","size":10000,"offset":1,"chunkSize":10,"chunkDigest":"` + d + `"},
			{"type":"chunk","name":"f","chunkOffset":10,"chunkSize":9990,"chunkType":"zeros"},
			{"name":"g","type":"reg","size":5,"offset":60,"digest":"` + d + `"}`), []Chunk{{DataOffset: 0, Size: 10}, {DataOffset: 12288, Size: 5}}, 16384},
		{"nothing else", e(`{"name":"f","type":"reg","size":1000000,"chunkType":"zeros"}`), nil, 1003520},
		{"larger than any chunk", e(`{"name":"f","type":"reg","size":1099511627776,"chunkType":"zeros"}`), nil, 1 << 40},
	} {
		t.Run(tc.name, func(t *testing.T) {
			b := packJSON(t, ZstdChunked, make([]byte, 100), []byte(tc.json))
			l := b.layout(t)
			if len(l.Chunks) != len(tc.want) || l.DataSize != tc.size {
				t.Fatalf("%d chunks in %d bytes, want %d in %d", len(l.Chunks), l.DataSize, len(tc.want), tc.size)
			}
			for i, c := range l.Chunks {
				if c.DataOffset != tc.want[i].DataOffset || c.Size != tc.want[i].Size {
					t.Errorf("chunk %d: %+v, want %+v", i, c, tc.want[i])
				}
			}
			sameInOnePass(t, b.bytes, b.read(t))
		})
	}
	for name, json := range map[string]string{
		"unknown type":    e(`{"name":"f","type":"reg","size":10,"chunkType":"ones"}`),
		"begins late":     e(`{"name":"f","type":"reg","size":10,"chunkOffset":1,"chunkSize":9,"chunkType":"zeros"}`),
		"too much":        e(`{"name":"f","type":"reg","size":10,"chunkSize":11,"chunkType":"zeros"}`),
		"no such address": e(`{"name":"f","type":"reg","size":9223372036854775807,"chunkType":"zeros"}`),
	} {
		b := packJSON(t, ZstdChunked, make([]byte, 100), []byte(json))
		toc, err := Read(bytes.NewReader(b.bytes), int64(len(b.bytes)), b.toc)
		if err == nil {
			_, err = toc.Layout()
		}
		var refused *EntryError
		if err == nil || !cmp.Or(name == "unknown type", errors.As(err, &refused)) {
			t.Errorf("%s: error %v", name, err)
		}
	}
}

// TestFetchWhole reads all of a small blob that is wanted whole, and no more of a large one than else.
func TestFetchWhole(t *testing.T) {
	for _, payload := range []int{100, 500 << 10, 3 << 20} {
		bothFormats(t, func(t *testing.T, f Format) {
			b := packJSON(t, f, make([]byte, payload), entriesJSON(5))
			size := int64(len(b.bytes))
			r := &countingReader{bytes: b.bytes}
			raw, err := Fetch(r, Wanted{BlobSize: size, Digest: b.toc, Whole: true})
			if err != nil {
				t.Fatal(err)
			}
			want := [2]int64{0, size}
			if size > TailSize {
				want = [2]int64{size - tailSize(size), tailSize(size)}
			}
			if len(r.reads) != 1 || r.reads[0] != want || raw.Tail.Offset != want[0] {
				t.Errorf("read %v of %d, want %v", r.reads, size, want)
			}
		})
	}
}

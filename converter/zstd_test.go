package converter_test

import (
	"bytes"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"testing"

	"github.com/containerd/stargz-snapshotter/estargz"
	"github.com/containerd/stargz-snapshotter/estargz/zstdchunked"
	"github.com/klauspost/compress/zstd"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/sluice-snapshotter/sluice/converter"
	"github.com/sluice-snapshotter/sluice/converter/prefetch"
	"github.com/sluice-snapshotter/sluice/fs/toc"
)

// ofZstd are the annotations of a zstd:chunked layer, of eStargz's the first two; sorted.
var ofZstd = []string{
	estargz.TOCJSONDigestAnnotation, estargz.StoreUncompressedSizeAnnotation,
	zstdchunked.ManifestChecksumAnnotation, zstdchunked.ManifestPositionAnnotation,
}

func sortedKeys(m map[string]string) []string { return slices.Sorted(maps.Keys(m)) }

// TestZstdAnnotations holds each annotation of a zstd:chunked layer to the blob, as those would read it who trust that annotation.
func TestZstdAnnotations(t *testing.T) {
	for name, plain := range map[string][]byte{"everything": everything(t), "empty": tarOf(t)} {
		t.Run(name, func(t *testing.T) {
			src := newLayout(t)
			src.tag(src.image(host, testLayer{tar: plain, compression: "gzip"}))
			out, report := convertTo(t, src.source(), converter.Options{Format: toc.ZstdChunked})
			var m ocispec.Manifest
			out.parse(report.Digest, &m)
			l := m.Layers[0]
			if want := slices.Sorted(slices.Values(ofZstd)); !slices.Equal(sortedKeys(l.Annotations), want) {
				t.Fatalf("annotations %v, want %v", l.Annotations, want)
			}
			if l.MediaType != ocispec.MediaTypeImageLayerZstd || report.Layers[0].Format != string(toc.ZstdChunked) {
				t.Errorf("media type %s, reported format %s", l.MediaType, report.Layers[0].Format)
			}
			blob := out.read(l.Digest)
			if got := fmt.Sprint(len(unpacked(t, blob))); got != l.Annotations[estargz.StoreUncompressedSizeAnnotation] {
				t.Errorf("%s bytes uncompressed, annotated %s", got, l.Annotations[estargz.StoreUncompressedSizeAnnotation])
			}
			checkPosition(t, blob, l.Annotations)
			for _, key := range []string{toc.TOCDigestAnnotation, toc.ZstdChecksumAnnotation} {
				read, err := toc.Read(bytes.NewReader(blob), l.Size, digest.Digest(l.Annotations[key]))
				if err != nil || read.Format != toc.ZstdChunked {
					t.Errorf("by %s: %v", key, err)
				}
			}
			checkConfig(t, out, m, testLayer{tar: unpacked(t, blob)})
		})
	}
}

// checkPosition finds the TOC as podman does: without the footer.
func checkPosition(t *testing.T, blob []byte, annotations map[string]string) {
	t.Helper()
	var offset, packed, size, kind int
	if _, err := fmt.Sscanf(annotations[zstdchunked.ManifestPositionAnnotation], "%d:%d:%d:%d", &offset, &packed, &size, &kind); err != nil {
		t.Fatal(err)
	}
	compressed := blob[offset : offset+packed]
	if got := digest.FromBytes(compressed).String(); got != annotations[zstdchunked.ManifestChecksumAnnotation] {
		t.Errorf("compressed TOC is %s, annotated %s", got, annotations[zstdchunked.ManifestChecksumAnnotation])
	}
	d, err := zstd.NewReader(bytes.NewReader(compressed))
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	json, err := io.ReadAll(d)
	if err != nil || len(json) != size || kind != 1 {
		t.Errorf("TOC of %d bytes, annotated %d, type %d, %v", len(json), size, kind, err)
	}
	if got := digest.FromBytes(json).String(); got != annotations[estargz.TOCJSONDigestAnnotation] {
		t.Errorf("TOC is %s, annotated %s", got, annotations[estargz.TOCJSONDigestAnnotation])
	}
}

// TestAnnotationsOfTheOtherFormat goes from zstd:chunked, podman's annotations included, to eStargz: only its own are left.
func TestAnnotationsOfTheOtherFormat(t *testing.T) {
	src := newLayout(t)
	src.tag(src.image(host, testLayer{tar: everything(t)}))
	lazy, report := convertTo(t, src.source(), converter.Options{Format: toc.ZstdChunked})
	var m ocispec.Manifest
	lazy.parse(report.Digest, &m)
	m.Layers[0].Annotations["io.github.containers.zstd-chunked.tarsplit-checksum"] = "sha256:x"
	m.Layers[0].Annotations["mine"] = "kept"
	lazy.tag(lazy.json(ocispec.MediaTypeImageManifest, m))
	out, report := convertTo(t, lazy.source(), converter.Options{})
	m = ocispec.Manifest{}
	out.parse(report.Digest, &m)
	want := slices.Sorted(slices.Values(append(ofZstd[:2:2], toc.EStargzPositionAnnotation, "mine")))
	if got := sortedKeys(m.Layers[0].Annotations); !slices.Equal(got, want) || m.Layers[0].MediaType != ocispec.MediaTypeImageLayerGzip {
		t.Errorf("%s with %v, want %v", m.Layers[0].MediaType, got, want)
	}
	checkPlace(t, out.read(m.Layers[0].Digest), m.Layers[0].Annotations)
}

// checkPlace finds the TOC of an eStargz layer where its annotation says, and nothing but the footer behind it.
func checkPlace(t *testing.T, blob []byte, annotations map[string]string) {
	t.Helper()
	d, place := toc.Annotated(annotations)
	if place.Format != toc.EStargz || place.Offset+place.Size+estargz.FooterSize != int64(len(blob)) {
		t.Fatalf("the TOC is at %+v of %d bytes", place, len(blob))
	}
	cut := bytes.Clone(blob)
	clear(cut[place.Offset+place.Size:]) // the footer, which would say it too
	raw, err := toc.Fetch(bytes.NewReader(cut), toc.Wanted{BlobSize: int64(len(blob)), Digest: d, Place: place})
	if err == nil {
		_, err = raw.TOC()
	}
	if err != nil {
		t.Errorf("at %+v: %v", place, err)
	}
}

func TestZstdPrefetch(t *testing.T) {
	src := newLayout(t)
	src.tag(src.image(host, testLayer{tar: tarOf(t, file("a", "1"), file("b", "22"), file("c", "333"))}))
	list, err := prefetch.Parse(strings.NewReader("/c\n/b"))
	if err != nil {
		t.Fatal(err)
	}
	out, report := convertTo(t, src.source(), converter.Options{Format: toc.ZstdChunked, Prefetch: list})
	if got := report.Layers[0].PrefetchBytes; got != 5 {
		t.Errorf("prefetch bytes %d, want 5", got)
	}
	if _, ok := entriesOf(t, out.read(report.Layers[0].Target))["/"+estargz.PrefetchLandmark]; !ok {
		t.Error("no landmark")
	}
}

// TestZstdLevels has levels reach the encoder.
func TestZstdLevels(t *testing.T) {
	src := newLayout(t)
	var words strings.Builder
	for i := range 40000 {
		fmt.Fprintf(&words, "%d %x\n", i*i%977, i%61)
	}
	src.tag(src.image(host, testLayer{tar: tarOf(t, file("words", words.String()))}))
	sizes := make(map[int]int64)
	for _, level := range []int{1, 3, 22} {
		_, report := convertTo(t, src.source(), converter.Options{Format: toc.ZstdChunked, CompressionLevel: &level})
		sizes[level] = report.Layers[0].Size
	}
	_, report := convertTo(t, src.source(), converter.Options{Format: toc.ZstdChunked})
	if sizes[1] == sizes[3] || sizes[3] == sizes[22] || sizes[3] != report.Layers[0].Size {
		t.Errorf("sizes by level %v, by default %d", sizes, report.Layers[0].Size)
	}
}

package inspect_test

import (
	"archive/tar"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/containerd/platforms"
	"github.com/containerd/stargz-snapshotter/estargz"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/sluice-snapshotter/sluice/converter"
	"github.com/sluice-snapshotter/sluice/converter/endpoint"
	"github.com/sluice-snapshotter/sluice/converter/image"
	"github.com/sluice-snapshotter/sluice/converter/inspect"
	"github.com/sluice-snapshotter/sluice/converter/prefetch"
	"github.com/sluice-snapshotter/sluice/fs/toc"
)

// lazyLayout makes a layout with one image of one plain layer, as "plain", and its conversion, as "lazy".
func lazyLayout(t *testing.T, o converter.Options) string {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "layout")
	dst, err := endpoint.NewLayoutTarget(dir, "plain")
	if err != nil {
		t.Fatal(err)
	}
	var b bytes.Buffer
	tw := tar.NewWriter(&b)
	for name, content := range map[string]string{"a": "first", "b": strings.Repeat("0123456789", 10000), "c": ""} {
		err := tw.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: name, Mode: 0o644, Size: int64(len(content))})
		if _, werr := io.WriteString(tw, content); err != nil || werr != nil {
			t.Fatal(err, werr)
		}
	}
	if err := tw.Close(); err != nil {
		t.Fatal(err)
	}
	layer := put(t, dst, ocispec.MediaTypeImageLayer, b.Bytes())
	config := ocispec.Image{Platform: platforms.DefaultSpec()}
	config.RootFS = ocispec.RootFS{Type: "layers", DiffIDs: []digest.Digest{layer.Digest}}
	m := ocispec.Manifest{MediaType: ocispec.MediaTypeImageManifest, Layers: []ocispec.Descriptor{layer}}
	m.Config = put(t, dst, ocispec.MediaTypeImageConfig, encode(t, config))
	raw := encode(t, m)
	root := ocispec.Descriptor{MediaType: m.MediaType, Digest: digest.FromBytes(raw), Size: int64(len(raw))}
	if err := errors.Join(dst.Tag(t.Context(), root, raw), dst.Close()); err != nil {
		t.Fatal(err)
	}
	lazy, err := endpoint.NewLayoutTarget(dir, "lazy")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := converter.Convert(t.Context(), open(t, dir, "plain"), lazy, o); err != nil {
		t.Fatal(err)
	}
	if err := lazy.Close(); err != nil {
		t.Fatal(err)
	}
	return dir
}

func put(t *testing.T, dst endpoint.Target, mediaType string, raw []byte) ocispec.Descriptor {
	t.Helper()
	desc := ocispec.Descriptor{MediaType: mediaType, Digest: digest.FromBytes(raw), Size: int64(len(raw))}
	if err := dst.Push(t.Context(), desc, endpoint.Bytes(raw)); err != nil {
		t.Fatal(err)
	}
	return desc
}

func encode(t *testing.T, v any) []byte {
	t.Helper()
	raw, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return raw
}

func open(t *testing.T, dir, tag string) endpoint.Source {
	t.Helper()
	src, err := endpoint.NewLayoutSource(dir, tag)
	if err != nil {
		t.Fatal(err)
	}
	return src
}

func TestInspect(t *testing.T) {
	list, err := prefetch.Parse(strings.NewReader("a"))
	if err != nil {
		t.Fatal(err)
	}
	dir := lazyLayout(t, converter.Options{Prefetch: list, ChunkSize: 40000})
	img, err := inspect.Inspect(t.Context(), open(t, dir, "lazy"), image.Selection{})
	if err != nil {
		t.Fatal(err)
	}
	l := img.Layers[0]
	if l.Format != "estargz" || l.Files != 3 || l.Chunks != 4 || l.PrefetchFiles != 1 || l.PrefetchBytes != 5 || !l.Lazy() {
		t.Errorf("lazy layer: %+v", l)
	}
	img, err = inspect.Inspect(t.Context(), open(t, dir, "plain"), image.Selection{})
	if err != nil {
		t.Fatal(err)
	}
	if l := img.Layers[0]; l.Format != "tar" || l.Lazy() {
		t.Errorf("plain layer: %+v", l)
	}
}

// verifyOne verifies an image of one layer.
func verifyOne(t *testing.T, src endpoint.Source) inspect.Result {
	t.Helper()
	var all []inspect.Result
	if err := inspect.Verify(t.Context(), src, image.Selection{}, func(r inspect.Result) { all = append(all, r) }); err != nil {
		t.Fatal(err)
	}
	if len(all) != 1 {
		t.Fatalf("%d layers", len(all))
	}
	return all[0]
}

func TestVerify(t *testing.T) {
	for name, o := range map[string]converter.Options{
		"small chunks": {ChunkSize: 1000}, "shared streams": {ChunkSize: 1000, MinChunkSize: 5000}, "default": {},
		"zstd:chunked": {Format: toc.ZstdChunked, ChunkSize: 1000},
	} {
		t.Run(name, func(t *testing.T) {
			dir := lazyLayout(t, o)
			if r := verifyOne(t, open(t, dir, "lazy")); r.Err != nil || !r.Lazy() {
				t.Errorf("lazy: %+v", r)
			}
			if r := verifyOne(t, open(t, dir, "plain")); r.Err != nil || r.Lazy() {
				t.Errorf("plain: %+v", r)
			}
		})
	}
}

// flip is a source of blobs with one byte changed.
type flip struct {
	endpoint.Source
	at func(size int64) int64
}

func (f flip) Fetch(ctx context.Context, desc ocispec.Descriptor) (io.ReadCloser, error) {
	r, err := f.Source.Fetch(ctx, desc)
	if err != nil || image.Compression(desc.MediaType) == "" {
		return r, err
	}
	defer r.Close()
	raw, err := io.ReadAll(r)
	if err != nil {
		return nil, err
	}
	raw[f.at(desc.Size)] ^= 0x40
	return io.NopCloser(bytes.NewReader(raw)), nil
}

func (f flip) ReaderAt(ctx context.Context, desc ocispec.Descriptor) (endpoint.ReaderAt, error) {
	r, err := f.Fetch(ctx, desc)
	if err != nil {
		return nil, err
	}
	raw, err := io.ReadAll(r)
	return struct {
		io.ReaderAt
		io.Closer
	}{bytes.NewReader(raw), r}, err
}

// TestVerifyFindsEveryFlippedByte needs no chunk to be hit: the blob's own digest covers all of it.
func TestVerifyFindsEveryFlippedByte(t *testing.T) {
	for name, o := range map[string]converter.Options{
		"estargz":      {ChunkSize: 5000, CompressionLevel: new(0)},
		"zstd:chunked": {ChunkSize: 5000, Format: toc.ZstdChunked},
	} {
		dir := lazyLayout(t, o)
		for i := range int64(40) {
			r := verifyOne(t, flip{open(t, dir, "lazy"), func(size int64) int64 { return i * (size - 1) / 39 }})
			if r.Err == nil {
				t.Errorf("%s, byte at %d/39 of the blob: not noticed", name, i)
			}
		}
	}
}

// TestVerifyFindsWrongChunk has an image whose blob and TOC are what their digests say, but a chunk is not.
func TestVerifyFindsWrongChunk(t *testing.T) {
	dir := lazyLayout(t, converter.Options{CompressionLevel: new(0)})
	src := open(t, dir, "lazy")
	desc, err := src.Resolve(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	raw, err := endpoint.ReadDocument(t.Context(), src, desc)
	if err != nil {
		t.Fatal(err)
	}
	var m ocispec.Manifest
	if err := json.Unmarshal(raw, &m); err != nil {
		t.Fatal(err)
	}
	blob, err := os.ReadFile(filepath.Join(dir, "blobs", "sha256", m.Layers[0].Digest.Encoded()))
	if err != nil {
		t.Fatal(err)
	}
	blob, tocDigest := withWrongChunk(t, blob)

	dst, err := endpoint.NewLayoutTarget(dir, "wrong")
	if err != nil {
		t.Fatal(err)
	}
	annotations := map[string]string{estargz.TOCJSONDigestAnnotation: tocDigest.String()}
	m.Layers[0] = put(t, dst, ocispec.MediaTypeImageLayerGzip, blob)
	m.Layers[0].Annotations = annotations
	raw = encode(t, m)
	root := ocispec.Descriptor{MediaType: m.MediaType, Digest: digest.FromBytes(raw), Size: int64(len(raw))}
	if err := errors.Join(dst.Tag(t.Context(), root, raw), dst.Close()); err != nil {
		t.Fatal(err)
	}
	r := verifyOne(t, open(t, dir, "wrong"))
	var wrong *inspect.ChunkError
	if !errors.As(r.Err, &wrong) {
		t.Errorf("got %v, want a ChunkError", r.Err)
	}
	// And one with another TOC altogether.
	m.Layers[0].Annotations[estargz.TOCJSONDigestAnnotation] = digest.FromString("other").String()
	if dst, err = endpoint.NewLayoutTarget(dir, "toc"); err != nil {
		t.Fatal(err)
	}
	raw = encode(t, m)
	root = ocispec.Descriptor{MediaType: m.MediaType, Digest: digest.FromBytes(raw), Size: int64(len(raw))}
	if err := errors.Join(dst.Tag(t.Context(), root, raw), dst.Close()); err != nil {
		t.Fatal(err)
	}
	var other *toc.DigestError
	if r = verifyOne(t, open(t, dir, "toc")); !errors.As(r.Err, &other) {
		t.Errorf("got %v, want a toc.DigestError", r.Err)
	}
}

// withWrongChunk replaces the TOC of a blob by one that is wrong about a chunk.
func withWrongChunk(t *testing.T, blob []byte) ([]byte, digest.Digest) {
	t.Helper()
	sr := io.NewSectionReader(bytes.NewReader(blob), 0, int64(len(blob)))
	offset, _, err := estargz.OpenFooter(sr)
	if err != nil {
		t.Fatal(err)
	}
	table, _, err := new(estargz.GzipDecompressor).ParseTOC(io.NewSectionReader(sr, offset, sr.Size()-offset))
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range table.Entries {
		if e.Name == "b" && e.Type == "reg" {
			e.ChunkDigest = digest.FromString("not b").String()
			e.Digest = e.ChunkDigest // it is the file's only chunk
		}
	}
	out := bytes.NewBuffer(blob[:offset:offset])
	d, err := estargz.NewGzipCompressor().WriteTOCAndFooter(out, offset, table, nil)
	if err != nil {
		t.Fatal(err)
	}
	return out.Bytes(), d
}

package converter_test

import (
	"archive/tar"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"maps"
	"os"
	"path"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"
	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/sluice-snapshotter/sluice/converter"
	"github.com/sluice-snapshotter/sluice/converter/endpoint"
)

// layout is an OCI image layout under construction.
type layout struct {
	t   testing.TB
	dir string
}

func newLayout(t testing.TB) *layout {
	t.Helper()
	l := &layout{t, t.TempDir()}
	l.write(ocispec.ImageLayoutFile, []byte(`{"imageLayoutVersion":"1.0.0"}`))
	return l
}

func (l *layout) write(name string, raw []byte) {
	l.t.Helper()
	file := filepath.Join(l.dir, name)
	if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
		l.t.Fatal(err)
	}
	if err := os.WriteFile(file, raw, 0o644); err != nil {
		l.t.Fatal(err)
	}
}

func (l *layout) blob(mediaType string, raw []byte) ocispec.Descriptor {
	l.t.Helper()
	d := digest.FromBytes(raw)
	l.write(filepath.Join("blobs", "sha256", d.Encoded()), raw)
	return ocispec.Descriptor{MediaType: mediaType, Digest: d, Size: int64(len(raw))}
}

func (l *layout) json(mediaType string, v any) ocispec.Descriptor {
	l.t.Helper()
	raw, err := json.Marshal(v)
	if err != nil {
		l.t.Fatal(err)
	}
	return l.blob(mediaType, raw)
}

// tag makes desc the layout's only image.
func (l *layout) tag(desc ocispec.Descriptor) {
	l.t.Helper()
	index := ocispec.Index{Versioned: specs.Versioned{SchemaVersion: 2}, Manifests: []ocispec.Descriptor{desc}}
	raw, err := json.Marshal(index)
	if err != nil {
		l.t.Fatal(err)
	}
	l.write(ocispec.ImageIndexFile, raw)
}

// testLayer is a layer's tar and how it is packed.
type testLayer struct {
	tar         []byte
	compression string // "gzip", "zstd" or ""
	mediaType   string // "" for OCI's
	annotations map[string]string
}

func (l testLayer) packed(t testing.TB) (mediaType string, raw []byte) {
	t.Helper()
	var b bytes.Buffer
	mediaType = ocispec.MediaTypeImageLayer
	switch l.compression {
	case "gzip":
		mediaType = ocispec.MediaTypeImageLayerGzip
		pack(t, gzip.NewWriter(&b), l.tar)
	case "zstd":
		mediaType = ocispec.MediaTypeImageLayerZstd
		w, err := zstd.NewWriter(&b)
		if err != nil {
			t.Fatal(err)
		}
		pack(t, w, l.tar)
	default:
		b.Write(l.tar)
	}
	if l.mediaType != "" {
		mediaType = l.mediaType
	}
	return mediaType, b.Bytes()
}

func pack(t testing.TB, w io.WriteCloser, raw []byte) {
	t.Helper()
	if _, err := w.Write(raw); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
}

// image adds an image manifest and returns its descriptor, with the platform.
func (l *layout) image(platform ocispec.Platform, layers ...testLayer) ocispec.Descriptor {
	l.t.Helper()
	return l.imageAs(ocispec.MediaTypeImageManifest, ocispec.MediaTypeImageConfig, platform, layers...)
}

func (l *layout) imageAs(manifestType, configType string, platform ocispec.Platform, layers ...testLayer) ocispec.Descriptor {
	l.t.Helper()
	m := ocispec.Manifest{Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: manifestType, Annotations: map[string]string{"a": "kept"}}
	var diffIDs []digest.Digest
	var history []map[string]any
	for _, layer := range layers {
		mediaType, raw := layer.packed(l.t)
		desc := l.blob(mediaType, raw)
		desc.Annotations = maps.Clone(layer.annotations)
		m.Layers = append(m.Layers, desc)
		diffIDs = append(diffIDs, digest.FromBytes(layer.tar))
		history = append(history, map[string]any{"created_by": "COPY"}, map[string]any{"created_by": "ENV", "empty_layer": true})
	}
	config := map[string]any{
		"architecture": platform.Architecture, "os": platform.OS, "variant": platform.Variant,
		"config": map[string]any{"Cmd": []string{"/bin/true"}}, "history": history, "x-unknown": 1.50,
		"rootfs": map[string]any{"type": "layers", "diff_ids": diffIDs},
	}
	m.Config = l.json(configType, config)
	desc := l.json(manifestType, m)
	desc.Platform = &platform
	return desc
}

func (l *layout) source() endpoint.Source {
	l.t.Helper()
	src, err := endpoint.NewLayoutSource(l.dir, "")
	if err != nil {
		l.t.Fatal(err)
	}
	return src
}

// tarOf packs entries; Size is set from content.
func tarOf(t testing.TB, entries ...entry) []byte {
	t.Helper()
	var b bytes.Buffer
	tw := tar.NewWriter(&b)
	for _, e := range entries {
		h := e.Header
		h.Size = int64(len(e.content))
		if err := tw.WriteHeader(&h); err != nil {
			t.Fatal(err)
		}
		if _, err := io.WriteString(tw, e.content); err != nil {
			t.Fatal(err)
		}
	}
	if err := tw.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

type entry struct {
	tar.Header
	content string
}

var when = time.Date(2021, 2, 3, 4, 5, 6, 0, time.UTC)

func file(name, content string) entry {
	return entry{tar.Header{Typeflag: tar.TypeReg, Name: name, Mode: 0o644, ModTime: when}, content}
}

func node(typeflag byte, name, link string) entry {
	return entry{tar.Header{Typeflag: typeflag, Name: name, Linkname: link, Mode: 0o755, ModTime: when}, ""}
}

// everything is a layer with every kind of entry that an image has.
func everything(t testing.TB) []byte {
	pax := map[string]string{"SCHILY.xattr.user.note": "a\x00b", "SCHILY.xattr.security.capability": "\x01\x00\x00\x02"}
	return tarOf(t,
		node(tar.TypeDir, "./", ""),
		entry{tar.Header{Typeflag: tar.TypeDir, Name: "etc/", Mode: 0o1777, Uid: 7, Gid: 8, Uname: "u", Gname: "g", ModTime: when}, ""},
		file("etc/passwd", "root:x:0:0\n"),
		entry{tar.Header{Typeflag: tar.TypeReg, Name: "etc/cap", Mode: 0o4755, ModTime: when.Add(123456789), PAXRecords: pax, Format: tar.FormatPAX}, "x"},
		file("etc/empty", ""),
		node(tar.TypeLink, "etc/hard", "etc/passwd"),
		node(tar.TypeSymlink, "etc/soft", "../nowhere"),
		entry{tar.Header{Typeflag: tar.TypeChar, Name: "dev/null", Mode: 0o666, Devmajor: 1, Devminor: 3, ModTime: when}, ""},
		entry{tar.Header{Typeflag: tar.TypeBlock, Name: "dev/sda", Mode: 0o660, Devmajor: 8, ModTime: when}, ""},
		node(tar.TypeFifo, "dev/fifo", ""),
		file("etc/.wh.gone", ""),
		file("opt/.wh..wh..opq", ""),
		file("usr/"+strings.Repeat("long/", 30)+"name", "long"),
		file("usr/"+strings.Repeat("ä", 120), "unicode"),
		file("usr/big", strings.Repeat("0123456789abcdef", 20000)),
		entry{tar.Header{Typeflag: tar.TypeReg, Name: "usr/huge-id", Mode: 0o600, Uid: 1 << 31, Gid: 1 << 30, ModTime: when}, "id"},
	)
}

// convertTo converts into a fresh layout and checks that nothing is left in the temporary folder.
func convertTo(t testing.TB, src endpoint.Source, o converter.Options) (*layout, *converter.Report) {
	t.Helper()
	out := &layout{t, filepath.Join(t.TempDir(), "out")}
	dst, err := endpoint.NewLayoutTarget(out.dir, "")
	if err != nil {
		t.Fatal(err)
	}
	report, err := converter.Convert(context.Background(), src, dst, o)
	if err != nil {
		t.Fatal(err)
	}
	if err := dst.Close(); err != nil {
		t.Fatal(err)
	}
	return out, report
}

func (l *layout) read(d digest.Digest) []byte {
	l.t.Helper()
	raw, err := os.ReadFile(filepath.Join(l.dir, "blobs", "sha256", d.Encoded()))
	if err != nil {
		l.t.Fatal(err)
	}
	if digest.FromBytes(raw) != d {
		l.t.Fatalf("blob %s has another digest", d)
	}
	return raw
}

func (l *layout) parse(d digest.Digest, v any) {
	l.t.Helper()
	if err := json.Unmarshal(l.read(d), v); err != nil {
		l.t.Fatal(err)
	}
}

// entriesOf reads a tar, compressed or not, into what it says about each path.
func entriesOf(t testing.TB, raw []byte) map[string]entry {
	t.Helper()
	plain, err := decompressed(raw)
	if err != nil {
		t.Fatal(err)
	}
	all := make(map[string]entry)
	tr := tar.NewReader(bytes.NewReader(plain))
	for {
		h, err := tr.Next()
		if errors.Is(err, io.EOF) {
			return all
		}
		if err != nil {
			t.Fatal(err)
		}
		content, err := io.ReadAll(tr)
		if err != nil {
			t.Fatal(err)
		}
		e := entry{*h, string(content)}
		e.Format = 0
		for key := range e.PAXRecords {
			if !strings.HasPrefix(key, "SCHILY.xattr.") {
				delete(e.PAXRecords, key) // long names and the like are in the header's fields too
			}
		}
		if len(e.PAXRecords) == 0 {
			e.PAXRecords = nil
		}
		e.Xattrs = nil // the same as the PAX records
		all[path.Clean("/"+h.Name)] = e
	}
}

func closeOrFail(t testing.TB, c io.Closer) {
	t.Helper()
	if err := c.Close(); err != nil {
		t.Error(err)
	}
}

// decompressed is a blob without its gzip or zstd, if it has one.
func decompressed(raw []byte) ([]byte, error) {
	switch {
	case bytes.HasPrefix(raw, []byte{0x1f, 0x8b}):
		zr, err := gzip.NewReader(bytes.NewReader(raw))
		if err != nil {
			return nil, err
		}
		return io.ReadAll(zr)
	case bytes.HasPrefix(raw, []byte{0x28, 0xb5, 0x2f, 0xfd}):
		zr, err := zstd.NewReader(bytes.NewReader(raw))
		if err != nil {
			return nil, err
		}
		defer zr.Close()
		return io.ReadAll(zr)
	}
	return raw, nil
}

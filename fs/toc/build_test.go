package toc

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"io"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"runtime"
	"testing"
	"time"

	"github.com/containerd/stargz-snapshotter/estargz"
	"github.com/containerd/stargz-snapshotter/estargz/zstdchunked"
	"github.com/klauspost/compress/zstd"
	"github.com/opencontainers/go-digest"
)

// member is one file of a tar.
type member struct {
	header tar.Header
	body   string
}

var when = time.Date(2024, 2, 29, 12, 30, 15, 0, time.UTC)

func reg(name, body string) member {
	return member{tar.Header{Name: name, Typeflag: tar.TypeReg, Mode: 0o644, Size: int64(len(body)), ModTime: when}, body}
}

func dir(name string, mode int64) member {
	return member{tar.Header{Name: name, Typeflag: tar.TypeDir, Mode: mode, ModTime: when}, ""}
}

func link(kind byte, name, target string) member {
	return member{tar.Header{Name: name, Typeflag: kind, Linkname: target, Mode: 0o644, ModTime: when}, ""}
}

func device(kind byte, name string, major, minor int64) member {
	return member{tar.Header{Name: name, Typeflag: kind, Devmajor: major, Devminor: minor, Mode: 0o620, ModTime: when}, ""}
}

// with changes a copy of m's header.
func (m member) with(change func(h *tar.Header)) member {
	change(&m.header)
	return m
}

func (m member) xattr(name, value string) member {
	return m.with(func(h *tar.Header) { h.PAXRecords = map[string]string{"SCHILY.xattr." + name: value} })
}

func makeTar(t testing.TB, members ...member) []byte {
	t.Helper()
	var buf bytes.Buffer
	w := tar.NewWriter(&buf)
	for _, m := range members {
		if err := w.WriteHeader(&m.header); err != nil {
			t.Fatalf("%s: %v", m.header.Name, err)
		}
		if _, err := io.WriteString(w, m.body); err != nil {
			t.Fatalf("%s: %v", m.header.Name, err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return buf.Bytes()
}

// noise is n bytes that do not compress, the same ones for a seed.
func noise(seed uint64, n int) string {
	p := make([]byte, n)
	r := rand.New(rand.NewPCG(seed, 1))
	for i := range p {
		p[i] = byte(r.Uint32())
	}
	return string(p)
}

// goSources are the members of a part of GOROOT, some 1,000 real files.
func goSources(t testing.TB, under string) []member {
	t.Helper()
	root := filepath.Join(runtime.GOROOT(), under) //nolint:staticcheck // a test runs where it was built
	var members []member
	err := filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(root, path)
		if err != nil {
			return err
		}
		if d.IsDir() {
			members = append(members, dir("./"+rel+"/", 0o755))
			return nil
		}
		body, err := os.ReadFile(path)
		members = append(members, reg("./"+rel, string(body)))
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return members
}

// blob is a lazy layer as a registry would have it.
type blob struct {
	bytes  []byte
	toc    digest.Digest
	format Format
}

func (b blob) read(t testing.TB) *TOC {
	t.Helper()
	toc, err := Read(bytes.NewReader(b.bytes), int64(len(b.bytes)), b.toc)
	if err != nil {
		t.Fatal(err)
	}
	return toc
}

func (b blob) layout(t testing.TB) *Layout {
	t.Helper()
	l, err := b.read(t).Layout()
	if err != nil {
		t.Fatal(err)
	}
	return l
}

// zstdCompression packs zstd:chunked with estargz.Build.
type zstdCompression struct {
	*zstdchunked.Compressor
	*zstdchunked.Decompressor
}

func withZstd() estargz.Option { return withZstdMetadata(nil) }

// withZstdMetadata also puts the annotations of the layer into m.
func withZstdMetadata(m map[string]string) estargz.Option {
	return estargz.WithCompression(zstdCompression{
		&zstdchunked.Compressor{CompressionLevel: zstd.SpeedDefault, Metadata: m}, new(zstdchunked.Decompressor)})
}

// legacyGzip packs with the footer that stargz had before eStargz.
type legacyGzip struct {
	*estargz.GzipCompressor
	*estargz.LegacyGzipDecompressor
}

func pack(t testing.TB, layer []byte, options ...estargz.Option) blob {
	t.Helper()
	b, err := estargz.Build(io.NewSectionReader(bytes.NewReader(layer), 0, int64(len(layer))), options...)
	if err != nil {
		t.Fatal(err)
	}
	defer b.Close()
	p, err := io.ReadAll(b)
	if err != nil {
		t.Fatal(err)
	}
	return blob{bytes: p, toc: b.TOCDigest(), format: EStargz}
}

// packJSON makes a blob of a payload and a TOC that need not be one.
func packJSON(t testing.TB, f Format, payload, json []byte) blob {
	t.Helper()
	var tail bytes.Buffer
	switch f {
	case EStargz:
		z, err := gzip.NewWriterLevel(&tail, gzip.BestSpeed)
		if err != nil {
			t.Fatal(err)
		}
		mustWrite(t, z, makeTar(t, reg(estargz.TOCTarName, string(json))))
		if err := z.Close(); err != nil {
			t.Fatal(err)
		}
		tail.Write(gzipFooter(t, int64(len(payload))))
	case ZstdChunked:
		z, err := zstd.NewWriter(nil)
		if err != nil {
			t.Fatal(err)
		}
		compressed := z.EncodeAll(json, nil)
		mustWrite(t, &tail, skippable(compressed))
		footer := make([]byte, 0, 40)
		for _, n := range []int{len(payload) + 8, len(compressed), len(json), 1} {
			footer = append(footer, byte(n), byte(n>>8), byte(n>>16), byte(n>>24), 0, 0, 0, 0)
		}
		mustWrite(t, &tail, skippable(append(footer, "GnUlInUx"...)))
	}
	return blob{bytes: append(bytes.Clone(payload), tail.Bytes()...), toc: digest.FromBytes(json), format: f}
}

func skippable(p []byte) []byte {
	n := len(p)
	return append([]byte{0x50, 0x2a, 0x4d, 0x18, byte(n), byte(n >> 8), byte(n >> 16), byte(n >> 24)}, p...)
}

// gzipFooter is the eStargz footer that points at offset.
func gzipFooter(t testing.TB, offset int64) []byte {
	t.Helper()
	var buf bytes.Buffer
	if _, err := estargz.NewGzipCompressor().WriteTOCAndFooter(&buf, offset, new(estargz.JTOC), nil); err != nil {
		t.Fatal(err)
	}
	return buf.Bytes()[buf.Len()-estargz.FooterSize:]
}

func mustWrite(t testing.TB, w io.Writer, p []byte) {
	t.Helper()
	if _, err := w.Write(p); err != nil {
		t.Fatal(err)
	}
}

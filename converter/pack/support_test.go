package pack

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"fmt"
	"io"
	"math/rand/v2"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/containerd/stargz-snapshotter/estargz"
	"github.com/containerd/stargz-snapshotter/estargz/zstdchunked"
	"github.com/klauspost/compress/zstd"
)

var when = time.Date(2021, 2, 3, 4, 5, 6, 0, time.UTC)

// tarOf packs headers, files with n bytes that say which file they are of.
func tarOf(t testing.TB, headers ...*tar.Header) []byte {
	t.Helper()
	var b bytes.Buffer
	tw := tar.NewWriter(&b)
	for _, h := range headers {
		if h.ModTime.IsZero() {
			h.ModTime = when
		}
		err := tw.WriteHeader(h)
		if err == nil {
			_, err = tw.Write(content(h))
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	if err := tw.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// content is what tarOf gives a file: noise, so that no two chunks are the same.
func content(h *tar.Header) []byte {
	if h.Typeflag != tar.TypeReg {
		return nil
	}
	p := make([]byte, h.Size)
	seed := [32]byte{byte(h.Size), byte(h.Mode)}
	copy(seed[2:], h.Name)
	_, _ = rand.NewChaCha8(seed).Read(p)
	return p
}

func file(name string, size int64) *tar.Header {
	return &tar.Header{Typeflag: tar.TypeReg, Name: name, Mode: 0o644, Size: size}
}

func node(typeflag byte, name, link string) *tar.Header {
	return &tar.Header{Typeflag: typeflag, Name: name, Linkname: link, Mode: 0o755}
}

// normalised is a tar as Pack takes it, and what is known of it.
func normalised(t testing.TB, raw []byte) (*Tar, *bytes.Reader) {
	t.Helper()
	var b bytes.Buffer
	tr, err := Normalise(&b, bytes.NewReader(raw))
	if err != nil {
		t.Fatal(err)
	}
	return tr, bytes.NewReader(b.Bytes())
}

func mustPack(t testing.TB, raw []byte, o Options) (*Packed, []byte) {
	t.Helper()
	tr, at := normalised(t, raw)
	var blob bytes.Buffer
	packed, err := tr.Pack(t.Context(), at, &blob, o)
	if err != nil {
		t.Fatal(err)
	}
	return packed, blob.Bytes()
}

// kind is a compressor and how to read what it makes.
type kind struct {
	compressor estargz.Compressor
	decompress estargz.Decompressor
}

func kinds() map[string]kind {
	return map[string]kind{
		"gzip": {newGzip(gzip.BestSpeed), new(estargz.GzipDecompressor)},
		"zstd": {&zstdchunked.Compressor{CompressionLevel: zstd.SpeedFastest}, new(zstdchunked.Decompressor)},
	}
}

// pooled is estargz's gzip, but that one member's encoder, which is a megabyte, is the next one's.
type pooled struct {
	estargz.Compressor
	level int
	idle  sync.Pool
}

func newGzip(level int) estargz.Compressor {
	return &pooled{Compressor: estargz.NewGzipCompressorWithLevel(level), level: level}
}

func (c *pooled) Writer(w io.Writer) (estargz.WriteFlushCloser, error) {
	if z, ok := c.idle.Get().(*gzip.Writer); ok {
		z.Reset(w)
		return &pooledWriter{z, c}, nil
	}
	z, err := gzip.NewWriterLevel(w, c.level)
	return &pooledWriter{z, c}, err
}

type pooledWriter struct {
	*gzip.Writer
	of *pooled
}

func (w *pooledWriter) Close() error {
	defer w.of.idle.Put(w.Writer)
	return w.Writer.Close()
}

func (k kind) plain(t testing.TB, blob []byte) []byte {
	t.Helper()
	r, err := k.decompress.Reader(bytes.NewReader(blob))
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	plain, err := io.ReadAll(r)
	if err != nil {
		t.Fatal(err)
	}
	return plain
}

// randomTar has folders, files, links to earlier ones, owners, xattrs, names that come again, and no folders for some.
func randomTar(rng *rand.Rand) []*tar.Header {
	var headers []*tar.Header
	linked := make(map[string]bool)
	var names []string
	for i := range 5 + rng.IntN(60) {
		dir := []string{"", "a/", "a/b/", "no/"}[rng.IntN(4)]
		h := &tar.Header{Name: fmt.Sprintf("%s%d", dir, i), Mode: int64(rng.IntN(0o7777)), Uid: rng.IntN(3), Gid: rng.IntN(2), ModTime: when.Add(time.Duration(i) * time.Hour)}
		h.Uname, h.Gname = []string{"", "u", "v"}[rng.IntN(3)], []string{"", "g"}[rng.IntN(2)]
		if rng.IntN(5) == 0 {
			h.PAXRecords = map[string]string{"SCHILY.xattr.user.note": "a\x00b", "SCHILY.xattr.user.empty": "e"}
		}
		h.Typeflag = []byte{tar.TypeReg, tar.TypeReg, tar.TypeReg, tar.TypeReg, tar.TypeSymlink, tar.TypeLink, tar.TypeChar, tar.TypeFifo}[rng.IntN(8)]
		switch h.Typeflag {
		case tar.TypeReg:
			h.Size = []int64{0, 1, 511, 512, 1000, 4096, 10000, 30000, 40000}[rng.IntN(9)]
			if len(names) > 0 && rng.IntN(8) == 0 {
				if again := names[rng.IntN(len(names))]; !linked[again] {
					h.Name = again
				}
			}
			names = append(names, h.Name)
		case tar.TypeSymlink:
			h.Linkname = "../x"
		case tar.TypeChar:
			h.Devmajor, h.Devminor = 1, int64(i)
		case tar.TypeLink:
			if len(names) == 0 {
				continue
			}
			h.Linkname = names[rng.IntN(len(names))]
			linked[h.Linkname] = true
		}
		headers = append(headers, h)
	}
	dirs := []*tar.Header{node(tar.TypeDir, "a/", ""), node(tar.TypeDir, "a/b/", "")}
	if rng.IntN(2) == 0 {
		dirs = append([]*tar.Header{node(tar.TypeDir, "./", "")}, dirs...)
	}
	return append(dirs, headers...)
}

// randomFirst is some of the names, and some that are not there.
func randomFirst(rng *rand.Rand, tr *Tar) (first []string) {
	if rng.IntN(4) == 0 {
		return nil
	}
	names := tr.Names()
	rng.Shuffle(len(names), func(i, j int) { names[i], names[j] = names[j], names[i] })
	return append(slices.DeleteFunc(names, func(s string) bool { return s == "" })[:rng.IntN(len(names)-1)], "not/there")
}

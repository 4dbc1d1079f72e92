package images

import (
	"archive/tar"
	"compress/gzip"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"hash"
	"hash/crc32"
	"io"
	"os"
	"path"

	"github.com/containerd/stargz-snapshotter/estargz"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// ManyFiles makes an image of n lazy layers that differ, of so many tiny files each, beneath base and probe. The layers are eStargz as
// they are: to convert so many files would take minutes. The command reads 20 files from all layers and prints SampleLine.
func ManyFiles(ctx context.Context, n, files int) (*Image, error) {
	if n < 1 || files < samples {
		return nil, fmt.Errorf("image of %d layers of %d files: want 1 and %d at least", n, files, samples)
	}
	program, err := probe(ctx)
	if err != nil {
		return nil, err
	}
	var layers []layer
	for i := range n {
		layers = append(layers, tiny{i, files})
	}
	return recipe{
		name:   fmt.Sprintf("many-%d-%d", n, files),
		key:    keyOf(manyFilesSources, string(program)),
		layers: append(layers, base(), withProbe(program)),
		config: ocispec.ImageConfig{Cmd: tinyCommand(n, files), Env: []string{"PATH=/"}},
	}.make(ctx)
}

// tiny is a lazy layer of files of some 20 bytes, 20 to a folder.
type tiny struct{ layer, files int }

const perFolder = 20

func (t tiny) name(i int) string {
	return fmt.Sprintf("srv/%02d/site-packages/package%05d/module%06d.py", t.layer, i/perFolder, i)
}

func (t tiny) content(i int) string { return fmt.Sprintf("file %d of layer %d\n", i, t.layer) }

// tinyCommand reads a sample and compares its checksum.
func tinyCommand(n, files int) []string {
	var names []string
	crc := crc32.New(crc32.MakeTable(crc32.Castagnoli))
	for k := range samples {
		t, i := tiny{k % n, files}, files*(2*k+1)/(2*samples)
		names = append(names, "/"+t.name(i))
		crc.Write([]byte(t.content(i)))
	}
	return append([]string{"/probe", "sum", "-want", fmt.Sprintf("%08x", crc.Sum32())}, names...)
}

func (t tiny) write(_ context.Context, dir string) (l written, err error) {
	f, err := os.CreateTemp(dir, "layer")
	if err != nil {
		return l, err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	w := newMembers(f)
	for i := range t.files {
		if i%perFolder == 0 {
			w.entry(tar.Header{Typeflag: tar.TypeDir, Name: path.Dir(t.name(i)) + "/", Mode: 0o755}, "")
		}
		w.entry(tar.Header{Typeflag: tar.TypeReg, Name: t.name(i), Mode: 0o644}, t.content(i))
	}
	toc, err := w.finish()
	if err != nil {
		return l, err
	}
	l = written{diffID: digest.NewDigest(digest.SHA256, w.content), blob: ocispec.Descriptor{
		MediaType: ocispec.MediaTypeImageLayerGzip, Digest: digest.NewDigest(digest.SHA256, w.blob), Size: w.size.n,
		Annotations: map[string]string{estargz.TOCJSONDigestAnnotation: toc.String()},
	}}
	return l, os.Rename(f.Name(), blobPath(dir, l.blob.Digest))
}

// members writes an eStargz blob whose gzip members hold many files each. The first error sticks.
type members struct {
	out           io.Writer
	size          *counter // of the blob
	blob, content hash.Hash
	toc           estargz.JTOC
	zw            *gzip.Writer
	tw            *tar.Writer
	start         int64    // of the member
	inner         *counter // bytes of the member, uncompressed
	err           error
}

const memberSize = 1 << 20 // bytes, uncompressed

func newMembers(f io.Writer) *members {
	m := &members{size: &counter{}, blob: sha256.New(), content: sha256.New(), inner: &counter{}, toc: estargz.JTOC{Version: 1}}
	m.out = io.MultiWriter(f, m.blob, m.size)
	m.zw = gzip.NewWriter(m.out)
	m.tw = tar.NewWriter(io.MultiWriter(m.zw, m.content, m.inner))
	return m
}

func (m *members) entry(h tar.Header, content string) {
	if m.inner.n >= memberSize {
		m.end()
		m.zw.Reset(m.out)
		m.start, m.inner.n = m.size.n, 0
	}
	h.ModTime, h.Size = epoch, int64(len(content))
	e := &estargz.TOCEntry{Name: h.Name, Type: "dir", Mode: h.Mode, ModTime3339: epoch.UTC().Format("2006-01-02T15:04:05Z")}
	m.err = errors.Join(m.err, m.tw.WriteHeader(&h))
	if h.Typeflag == tar.TypeReg {
		e.Type, e.Size, e.Digest = "reg", h.Size, digest.FromString(content).String()
		e.Offset, e.InnerOffset, e.ChunkDigest = m.start, m.inner.n, e.Digest
		_, err := io.WriteString(m.tw, content)
		m.err = errors.Join(m.err, err)
	}
	m.toc.Entries = append(m.toc.Entries, e)
}

func (m *members) end() { m.err = errors.Join(m.err, m.tw.Flush(), m.zw.Close()) }

// finish writes the TOC and returns its digest.
func (m *members) finish() (digest.Digest, error) {
	m.end()
	toc, err := estargz.NewGzipCompressor().WriteTOCAndFooter(m.out, m.size.n, &m.toc, m.content)
	return toc, errors.Join(m.err, err)
}

package images

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"hash"
	"io"
	"os"
	"time"

	"github.com/containerd/stargz-snapshotter/estargz"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// The one large file in the image that Huge makes.
const (
	HugeFile  = "/huge/file"
	HugeBytes = 4<<30 + 9<<20 + 1234
)

// HugeMarks are what HugeFile has at some offsets; the rest is zeros. They lie where 31 and 32 bits do not suffice any more.
func HugeMarks() map[int64]string {
	marks := make(map[int64]string)
	for _, off := range []int64{0, 1<<31 - 16, 1<<32 - 16, 1<<32 + 5<<20, HugeBytes - 32} {
		marks[off] = fmt.Sprintf("here is offset %17d", off)
	}
	return marks
}

// Huge makes an image with a file of more than 4 GiB, in a layer that is lazy already: an eStargz blob of 5 MB, which takes seconds to
// make and to push because nearly all of its chunks are the same one. Its entrypoint is /check.
func Huge(ctx context.Context) (*Image, error) {
	program, err := checker(ctx)
	if err != nil {
		return nil, err
	}
	return checked(recipe{name: "huge", key: keyOf(hugeSources, string(program)), layers: []layer{huge{}}}, program).make(ctx)
}

// hugeChunk is the bytes of a chunk, as converters have it by default.
const hugeChunk = 4 << 20

type huge struct{}

func (huge) write(_ context.Context, dir string) (l written, err error) {
	f, err := os.CreateTemp(dir, "layer")
	if err != nil {
		return l, err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	blob, size := sha256.New(), &counter{}
	h := &hugeWriter{blob: io.MultiWriter(f, blob, size), size: size, content: sha256.New(), toc: estargz.JTOC{Version: 1}}
	if err := h.file(); err != nil {
		return l, err
	}
	toc, err := estargz.NewGzipCompressor().WriteTOCAndFooter(h.blob, size.n, &h.toc, h.content)
	if err != nil {
		return l, err
	}
	l.blob = ocispec.Descriptor{
		MediaType: ocispec.MediaTypeImageLayerGzip, Digest: digest.NewDigest(digest.SHA256, blob), Size: size.n,
		Annotations: map[string]string{estargz.TOCJSONDigestAnnotation: toc.String()},
	}
	l.diffID = digest.NewDigest(digest.SHA256, h.content)
	return l, os.Rename(f.Name(), blobPath(dir, l.blob.Digest))
}

// hugeWriter writes the layer's payload and keeps its TOC.
type hugeWriter struct {
	blob    io.Writer
	size    *counter  // of the blob
	content hash.Hash // of the tar: the diffID
	toc     estargz.JTOC
	zeros   zeros
}

// zeros is a chunk of nothing else.
type zeros struct {
	chunk, member []byte
	digest        string
}

// file writes HugeFile, a gzip member for each chunk, and what a tar has before and behind it.
func (h *hugeWriter) file() error {
	var headers bytes.Buffer
	tw := tar.NewWriter(&headers)
	reg := &tar.Header{Typeflag: tar.TypeReg, Name: HugeFile[1:], Mode: 0o644, Size: HugeBytes, ModTime: epoch}
	if err := errors.Join(parents(tw, "huge"), tw.WriteHeader(reg)); err != nil {
		return err
	}
	when := epoch.UTC().Format(time.RFC3339)
	h.toc.Entries = []*estargz.TOCEntry{{Name: "huge/", Type: "dir", Mode: 0o755, ModTime3339: when}}
	if err := h.member(headers.Bytes()); err != nil {
		return err
	}
	for off := int64(0); off < HugeBytes; off += hugeChunk {
		e := &estargz.TOCEntry{Name: reg.Name, Type: "chunk", ChunkOffset: off, ChunkSize: min(hugeChunk, HugeBytes-off), Offset: h.size.n}
		if off == 0 {
			e.Type, e.Size, e.Mode, e.ModTime3339 = "reg", HugeBytes, 0o644, when
		}
		h.toc.Entries = append(h.toc.Entries, e)
		if err := h.chunk(e); err != nil {
			return err
		}
	}
	return h.member(make([]byte, 512-HugeBytes%512)) // tar is made of blocks
}

// chunk writes one chunk, and what it is into e.
func (h *hugeWriter) chunk(e *estargz.TOCEntry) error {
	p := make([]byte, e.ChunkSize)
	marked := false
	for off, text := range HugeMarks() {
		if from := off - e.ChunkOffset; from > -int64(len(text)) && from < e.ChunkSize {
			copy(p[max(from, 0):], text[max(-from, 0):])
			marked = true
		}
	}
	if marked || e.ChunkSize < hugeChunk {
		e.ChunkDigest = digest.FromBytes(p).String()
		return h.member(p)
	}
	if h.zeros.member == nil {
		z, err := compress(p)
		if err != nil {
			return err
		}
		h.zeros = zeros{chunk: p, member: z, digest: digest.FromBytes(p).String()}
	}
	e.ChunkDigest = h.zeros.digest
	h.content.Write(h.zeros.chunk)
	_, err := h.blob.Write(h.zeros.member)
	return err
}

// member writes bytes of the tar that decompress by themselves.
func (h *hugeWriter) member(p []byte) error {
	z, err := compress(p)
	if err != nil {
		return err
	}
	h.content.Write(p)
	_, err = h.blob.Write(z)
	return err
}

func compress(p []byte) ([]byte, error) {
	var z bytes.Buffer
	zw := gzip.NewWriter(&z)
	_, err := zw.Write(p)
	err = errors.Join(err, zw.Close())
	return z.Bytes(), err
}

// Package stream serves images of any size from nothing: a registry that makes the bytes of a layer when they are asked for, so that
// neither making nor keeping gigabytes is part of a test.
//
// The layer is eStargz, of one file in chunks of 4 MiB that do not compress: each is the same pseudo-random bytes behind its own
// number, stored in a gzip member of its own. All of its digests are those of what is served.
//
// An Image and a Registry may be used from any goroutine at any time.
package stream

import (
	"archive/tar"
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"hash/crc32"
	"io"
	"time"

	"github.com/containerd/stargz-snapshotter/estargz"
	"github.com/opencontainers/go-digest"
)

// The one file of an image: chunks, each of which begins with its number, big-endian in NumberBytes.
const (
	File        = "/stream/file"
	ChunkBytes  = 4 << 20
	NumberBytes = 8
)

// Image is a layer and what an image needs beside it.
type Image struct {
	chunks int
	member member
	sums   []uint32 // of the chunks, as gzip has them
	head   []byte   // of the blob: a member with what a tar has before the file
	tail   []byte   // what comes after the last chunk
	size   int64    // of the blob

	blobs    map[digest.Digest][]byte // but for the layer
	layer    digest.Digest
	manifest digest.Digest
}

// New makes an image with a file of so many chunks. It hashes all of them several times: seconds for each GiB.
func New(chunks int) (*Image, error) {
	if chunks < 1 {
		return nil, fmt.Errorf("stream of %d chunks: want 1 or more", chunks)
	}
	im := &Image{chunks: chunks, member: newMember(), blobs: make(map[digest.Digest][]byte)}
	b := &builder{Image: im, content: sha256.New(), blob: sha256.New(), toc: estargz.JTOC{Version: 1}}
	toc, err := b.build()
	if err != nil {
		return nil, fmt.Errorf("stream of %d chunks: %w", chunks, err)
	}
	im.layer = digest.NewDigest(digest.SHA256, b.blob)
	return im, im.describe(toc, digest.NewDigest(digest.SHA256, b.content))
}

// Bytes is the size of the file.
func (im *Image) Bytes() int64 { return int64(im.chunks) * ChunkBytes }

// ReadAt reads the layer's blob.
func (im *Image) ReadAt(p []byte, off int64) (n int, err error) {
	for n < len(p) {
		k := im.piece(p[n:], off+int64(n))
		if k == 0 {
			return n, io.EOF
		}
		n += k
	}
	return n, nil
}

// piece copies what lies at off up to the end of its part: the head, a member, the tail.
func (im *Image) piece(p []byte, off int64) int {
	first, size := int64(len(im.head)), int64(im.member.size())
	end := first + int64(im.chunks)*size
	switch {
	case off < first:
		return copy(p, im.head[off:])
	case off < end:
		i := (off - first) / size
		return im.member.read(p, int((off-first)%size), chunk{uint64(i), im.sums[i]})
	case off < im.size:
		return copy(p, im.tail[off-end:])
	}
	return 0
}

// builder goes once through all that an image has.
type builder struct {
	*Image
	content, blob hash.Hash
	toc           estargz.JTOC
}

func (b *builder) build() (toc digest.Digest, err error) {
	if err := b.begin(); err != nil {
		return "", err
	}
	work := hashes{b.blob, b.content}
	p, z := b.member.content(), make([]byte, b.member.size())
	for i := range b.chunks {
		binary.BigEndian.PutUint64(p, uint64(i))
		sum := crc32.ChecksumIEEE(p)
		b.member.read(z, 0, chunk{uint64(i), sum})
		b.toc.Entries = append(b.toc.Entries, b.entry(i, work.add(z, p)))
		b.sums = append(b.sums, sum)
	}
	var tail bytes.Buffer
	end := int64(len(b.head)) + int64(b.chunks)*int64(b.member.size())
	toc, err = estargz.NewGzipCompressor().WriteTOCAndFooter(&tail, end, &b.toc, b.content)
	b.tail, b.size = tail.Bytes(), end+int64(tail.Len())
	b.blob.Write(b.tail)
	return toc, err
}

// begin makes the head: a folder and the header of the file, whose size is one of whole tar blocks.
func (b *builder) begin() error {
	var headers, z bytes.Buffer
	tw := tar.NewWriter(&headers)
	folder := &tar.Header{Typeflag: tar.TypeDir, Name: "stream/", Mode: 0o755, ModTime: epoch}
	file := &tar.Header{Typeflag: tar.TypeReg, Name: File[1:], Mode: 0o644, Size: b.Bytes(), ModTime: epoch}
	if err := errors.Join(tw.WriteHeader(folder), tw.WriteHeader(file), compress(&z, headers.Bytes())); err != nil {
		return err
	}
	b.head = z.Bytes()
	b.blob.Write(b.head)
	b.content.Write(headers.Bytes())
	b.toc.Entries = []*estargz.TOCEntry{{Name: folder.Name, Type: "dir", Mode: 0o755, ModTime3339: when}}
	return nil
}

// entry is chunk i in the TOC.
func (b *builder) entry(i int, sum []byte) *estargz.TOCEntry {
	e := &estargz.TOCEntry{
		Name: File[1:], Type: "chunk", ChunkOffset: int64(i) * ChunkBytes, ChunkSize: ChunkBytes,
		Offset: int64(len(b.head)) + int64(i)*int64(b.member.size()), ChunkDigest: "sha256:" + hex.EncodeToString(sum),
	}
	if i == 0 {
		e.Type, e.Size, e.Mode, e.ModTime3339 = "reg", b.Bytes(), 0o644, when
	}
	return e
}

// epoch is the time of all files.
var (
	epoch = time.Unix(1_600_000_000, 0).UTC()
	when  = epoch.Format(time.RFC3339)
)

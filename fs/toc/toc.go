// Package toc reads what a layer says about itself: the footer and the table of contents (TOC) at the end of an
// eStargz or zstd:chunked blob, checked against the digest that the image's manifest names, and laid out as a tree and
// a chunk table.
//
// Words:
//
//   - blob: the compressed bytes of a layer in a registry: its payload (the compressed tar), the TOC, and a footer
//     that says where the TOC is.
//   - stream: a piece of the payload that decompresses by itself, a gzip member or a zstd frame.
//   - chunk: a run of one file's bytes with a digest of its own, somewhere inside a stream. Several chunks may share
//     a stream.
//   - entry: one element of the TOC: a file of the tar, or a further chunk of the file before it.
//   - address space: the flat bytes in which every regular file of the layer gets a place.
//   - landmark: an entry of the eStargz format that is no file: it marks the end of what is to be prefetched.
//
// A TOC comes from whoever made the image. Nothing in it is believed before its digest is right, and after that it is
// still hostile input: Layout refuses what it cannot stand behind, by entry. The tree that Layout makes is the one that
// containerd's overlayfs snapshotter would unpack from the same layer; README.md says where it differs and why.
//
// All functions may be called concurrently. A TOC may be laid out by several goroutines at once; it is never changed.
package toc

import (
	"github.com/containerd/stargz-snapshotter/estargz"
	"github.com/containerd/stargz-snapshotter/estargz/zstdchunked"
	"github.com/opencontainers/go-digest"
)

// Annotations of a layer's descriptor that make it lazy.
const (
	// TOCDigestAnnotation holds the digest of the TOC's JSON, for either format.
	TOCDigestAnnotation = estargz.TOCJSONDigestAnnotation
	// ZstdChecksumAnnotation holds the digest of a zstd:chunked layer's TOC in its compressed form.
	ZstdChecksumAnnotation = zstdchunked.ManifestChecksumAnnotation
	// ZstdPositionAnnotation holds offset:compressed size:size:type of a zstd:chunked layer's TOC.
	ZstdPositionAnnotation = zstdchunked.ManifestPositionAnnotation

	// The same two as newer versions of podman name them (containers/storage, pkg/chunked/internal/minimal).
	PodmanChecksumAnnotation = "io.github.containers.zstd-chunked.manifest-checksum"
	PodmanPositionAnnotation = "io.github.containers.zstd-chunked.manifest-position"
)

// Format is how a lazy layer is packed.
type Format string

const (
	EStargz     Format = "estargz"      // gzip members; the TOC is a tar with one file
	ZstdChunked Format = "zstd:chunked" // zstd frames; the TOC is JSON in a skippable frame
)

// Limits of what is accepted. They bound the memory that a hostile blob can cost before it is refused.
const (
	// MaxChunkSize is the most bytes that one chunk may have, uncompressed: it is in memory as a whole while its digest
	// is checked. Writers use 4 MiB unless told otherwise.
	MaxChunkSize = 128 << 20
	// MaxEntries is the most entries that a TOC, and names that its tree may have. Real layers reach some 500,000.
	// README.md says what as many cost; whoever opens layers of strangers limits how many are read at once.
	MaxEntries = 1 << 20
	// MaxTOCSize is the most bytes of JSON in a TOC: MaxEntries of about 500 bytes.
	MaxTOCSize = 512 << 20
	// MaxCompressedTOCSize is the most bytes that a TOC may take in the blob. Two digests that do not compress make
	// most of an entry, some 70 bytes.
	MaxCompressedTOCSize = 128 << 20
	// MaxDataSize is the most bytes of address space: as many 4 KiB blocks as EROFS can number.
	MaxDataSize = (1<<32 - 1) * blockSize
)

const blockSize = 4096 // alignment of files in the address space, as fs/metadata wants it

// TOC is a layer's table of contents whose digest was right. Entries are as the blob has them, not validated: Layout
// does that.
type TOC struct {
	Format      Format
	Digest      digest.Digest // the one asked for
	Entries     []*estargz.TOCEntry
	BlobSize    int64 // bytes of the whole blob
	PayloadSize int64 // bytes of the blob before the TOC: where chunks may lie
}

package toc

import (
	"encoding/hex"
	"errors"
	"fmt"
	"math"
	"slices"
	"strings"

	"github.com/containerd/stargz-snapshotter/estargz"
)

// Chunk is one record of a layer's chunk table. All numbers are bytes.
type Chunk struct {
	DataOffset  int64    // where the chunk lies in the address space
	Size        int64    // uncompressed, at least 1
	BlobOffset  int64    // where the stream that holds the chunk begins in the blob
	BlobSize    int64    // how much of the blob that stream takes at most: up to the next stream
	InnerOffset int64    // where the chunk begins in the decompressed stream
	Digest      [32]byte // SHA-256 of the uncompressed bytes
}

// chunks collects the chunks of one file after another, checking each. Their DataOffset counts from the beginning of
// their file, and BlobSize is not known, until the streams are.
type chunks struct {
	payloadSize int64
	list        []Chunk
	streams     []int64 // blob offsets at which streams begin
}

// addFile appends the chunks of one file: of its "reg" entry and the "chunk" entries behind it.
func (c *chunks) addFile(entries []estargz.TOCEntry) error {
	file := &entries[0]
	switch {
	case file.Size < 0:
		return fmt.Errorf("negative size %d", file.Size)
	case file.Size == 0 && len(entries) == 1:
		return nil // without data, it has no place in the blob: its other fields mean nothing
	}
	offset := int64(0)
	for i := range entries {
		e := &entries[i]
		if e.Name != file.Name && e.Name != "" {
			return fmt.Errorf("chunk %d is of another file, %s", i, quote(e.Name))
		}
		size, err := chunkSize(e, offset, file.Size)
		if err == nil && e.ChunkDigest != hole {
			err = c.add(e, size, len(entries) == 1)
		}
		if err != nil {
			return fmt.Errorf("chunk %d: %w", i, err)
		}
		offset += size
	}
	if offset != file.Size {
		return fmt.Errorf("chunks end at %d, the file at %d", offset, file.Size)
	}
	return nil
}

// chunkSize is that of an entry that must begin at offset of a file of fileSize bytes.
func chunkSize(e *estargz.TOCEntry, offset, fileSize int64) (int64, error) {
	size := e.ChunkSize
	if size == 0 {
		size = fileSize - offset // "to the end of the file"
	}
	switch {
	case e.ChunkOffset != offset:
		return 0, fmt.Errorf("begins at %d of the file, the one before ends at %d", e.ChunkOffset, offset)
	case size <= 0 || size > fileSize-offset:
		return 0, fmt.Errorf("%d bytes at %d of a file of %d", size, offset, fileSize)
	}
	return size, nil
}

// add appends the chunk of an entry that is no hole.
func (c *chunks) add(e *estargz.TOCEntry, size int64, only bool) error {
	switch {
	case size > MaxChunkSize:
		return fmt.Errorf("%d bytes, at most %d are read", size, MaxChunkSize)
	case e.Offset < 0 || e.Offset >= c.payloadSize:
		return fmt.Errorf("offset %d is outside the blob's %d bytes of payload", e.Offset, c.payloadSize)
	case e.InnerOffset < 0 || e.InnerOffset > math.MaxInt64-size:
		return fmt.Errorf("inner offset %d is out of range", e.InnerOffset)
	}
	d, err := chunkDigest(e, only)
	if err != nil {
		return err
	}
	if n := len(c.streams); n == 0 || c.streams[n-1] != e.Offset {
		c.streams = append(c.streams, e.Offset)
	}
	c.list = append(c.list, Chunk{DataOffset: e.ChunkOffset, Size: size, BlobOffset: e.Offset, InnerOffset: e.InnerOffset, Digest: d})
	return nil
}

// setBlobSizes gives the chunks the sizes of their streams, once all of them are known.
func (c *chunks) setBlobSizes() {
	slices.Sort(c.streams)
	c.streams = slices.Compact(c.streams)
	for i := range c.list {
		chunk := &c.list[i]
		end := c.payloadSize
		if next, _ := slices.BinarySearch(c.streams, chunk.BlobOffset+1); next < len(c.streams) {
			end = c.streams[next]
		}
		chunk.BlobSize = end - chunk.BlobOffset
	}
}

// checkReach refuses a chunk that its stream cannot possibly decompress to: looking for it could take forever.
func (c *Chunk) checkReach(f Format) error {
	if ratio := f.maxRatio(); (c.InnerOffset+c.Size)/ratio > c.BlobSize {
		return fmt.Errorf("chunk ends at %d of a stream of %d compressed bytes", c.InnerOffset+c.Size, c.BlobSize)
	}
	return nil
}

// maxRatio is how many bytes one compressed byte can become. Deflate's longest match, 258 bytes, takes two bits (zlib's
// technical page, "Maximum Compression Factor"); a zstd block of at most 128 KiB takes four bytes (RFC 8878, 3.1.1.2).
func (f Format) maxRatio() int64 {
	if f == ZstdChunked {
		return 128 << 10 / 4
	}
	return 258 * 8 / 2
}

// chunkDigest is the digest of an entry's bytes. Older eStargz has one for whole files only, which will do for a file
// in one chunk.
func chunkDigest(e *estargz.TOCEntry, only bool) (d [32]byte, err error) {
	switch {
	case e.ChunkDigest == "" && only && e.Digest != "":
		return parseDigest(e.Digest)
	case e.ChunkDigest == "":
		return d, errors.New("no digest")
	case only && e.Digest != "" && e.Digest != e.ChunkDigest:
		return d, fmt.Errorf("digest %s of the file, %s of its only chunk", quote(e.Digest), quote(e.ChunkDigest))
	}
	return parseDigest(e.ChunkDigest)
}

func parseDigest(s string) (d [32]byte, err error) {
	digits, ok := strings.CutPrefix(s, "sha256:")
	if !ok || len(digits) != 2*len(d) || strings.ContainsAny(digits, "ABCDEF") {
		return d, fmt.Errorf("digest %s is no sha256", quote(s))
	}
	if _, err := hex.Decode(d[:], []byte(digits)); err != nil {
		return d, fmt.Errorf("digest %s is no sha256", quote(s))
	}
	return d, nil
}

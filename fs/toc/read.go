package toc

import (
	"errors"
	"fmt"
	"io"

	"github.com/opencontainers/go-digest"
)

// TailSize is how many bytes from a blob's end Read asks for at first. The compressed TOC of a layer of 15,000 files
// takes about 0.9 MB (GOROOT: 56 bytes per file), so this holds footer and TOC of most layers. At 50 MB/s it takes 20 ms, about
// one round trip: less would save little where it suffices, more costs every layer more than the second request that
// it saves a few.
const TailSize = 1 << 20

// Raw is a TOC as it lies in its blob: compressed, and nothing of it looked at but the footer.
type Raw struct {
	Format      Format
	BlobSize    int64 // bytes of the whole blob
	PayloadSize int64 // bytes of the blob before the TOC: where chunks may lie
	want        digest.Digest
	compressed  []byte
}

// Fetch reads footer and TOC from the end of the blob r of size bytes: one ReadAt of the last TailSize bytes (the whole
// blob if it is smaller), and one more for the part of the TOC before them if there is any.
//
// want is the digest that the manifest names: of the TOC's JSON, or, for zstd:chunked, of the TOC as compressed. The
// error is ErrFormat if the blob has no footer.
func Fetch(r io.ReaderAt, size int64, want digest.Digest) (*Raw, error) {
	if err := checkWanted(want); err != nil {
		return nil, err
	}
	tail := make([]byte, max(0, min(size, TailSize)))
	if err := readFull(r, tail, size-int64(len(tail))); err != nil {
		return nil, fmt.Errorf("read tail: %w", err)
	}
	f, err := findFooter(tail, size)
	if err != nil {
		return nil, err
	}
	compressed, err := f.readTOC(r, tail, size)
	if err != nil {
		return nil, fmt.Errorf("read TOC: %w", err)
	}
	return &Raw{Format: f.format, BlobSize: size, PayloadSize: f.payloadSize, want: want, compressed: compressed}, nil
}

// Read is Fetch and then TOC.
func Read(r io.ReaderAt, size int64, want digest.Digest) (*TOC, error) {
	raw, err := Fetch(r, size, want)
	if err != nil {
		return nil, err
	}
	return raw.TOC()
}

// Size is the bytes of the TOC as compressed.
func (r *Raw) Size() int64 { return int64(len(r.compressed)) }

// TOC returns all entries. The error is a *DigestError if the TOC is not the one wanted.
func (r *Raw) TOC() (*TOC, error) {
	var c collector
	if err := r.parse(c.take); err != nil {
		return nil, err
	}
	return &TOC{Format: r.Format, Digest: r.want, Entries: c.entries, BlobSize: r.BlobSize, PayloadSize: r.PayloadSize}, nil
}

// Layout does what TOC and then TOC.Layout do, in one pass that keeps no entries. The error is a *DigestError if the TOC
// is not the one wanted, else an *EntryError if it is and is refused.
func (r *Raw) Layout() (*Layout, error) {
	l := newLayouter(r.Format, r.PayloadSize)
	if err := r.parse(l.take); err != nil {
		return nil, err
	}
	return l.finish()
}

// checkWanted refuses digests that nothing could match, an empty one first of all: a TOC is never taken on trust.
func checkWanted(want digest.Digest) error {
	if want == "" {
		return errors.New("no digest to check the TOC against")
	}
	if err := want.Validate(); err != nil {
		return fmt.Errorf("TOC digest %s: %w", quote(string(want)), err)
	}
	if want.Algorithm() != digest.SHA256 {
		return fmt.Errorf("TOC digest %s: only sha256 is known", want)
	}
	return nil
}

// readTOC returns the compressed TOC, reading what of it is not in tail.
func (f footer) readTOC(r io.ReaderAt, tail []byte, size int64) ([]byte, error) {
	tailStart := size - int64(len(tail))
	if f.tocOffset >= tailStart {
		return tail[f.tocOffset-tailStart:][:f.tocSize], nil
	}
	toc := make([]byte, f.tocSize)
	head := min(tailStart-f.tocOffset, f.tocSize)
	copy(toc[head:], tail)
	return toc, readFull(r, toc[:head], f.tocOffset)
}

// readFull fills p from the byte at off on, in one call.
func readFull(r io.ReaderAt, p []byte, off int64) error {
	if len(p) == 0 {
		return nil
	}
	n, err := r.ReadAt(p, off)
	if n == len(p) {
		return nil // also with io.EOF, which a ReaderAt may give along with the last byte
	}
	if err == nil || errors.Is(err, io.EOF) {
		err = io.ErrUnexpectedEOF
	}
	return fmt.Errorf("blob gave %d of %d bytes at %d: %w", n, len(p), off, err)
}

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

// Read reads footer and TOC from the end of the blob r of size bytes: one ReadAt of the last TailSize bytes (the whole
// blob if it is smaller), and one more for the part of the TOC before them if there is any.
//
// want is the digest that the manifest names: of the TOC's JSON, or, for zstd:chunked, of the TOC as compressed. The
// error is ErrFormat if the blob has no footer, a *DigestError if its TOC is another one.
func Read(r io.ReaderAt, size int64, want digest.Digest) (*TOC, error) {
	if err := checkWanted(want); err != nil {
		return nil, err
	}
	tail, err := readRange(r, max(0, size-TailSize), size)
	if err != nil {
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
	entries, err := f.parse(compressed, want)
	if err != nil {
		return nil, err
	}
	return &TOC{Format: f.format, Digest: want, Entries: entries, BlobSize: size, PayloadSize: f.payloadSize}, nil
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
	head, err := readRange(r, f.tocOffset, min(tailStart, f.tocOffset+f.tocSize))
	if err != nil {
		return nil, err
	}
	return append(head, tail[:f.tocSize-int64(len(head))]...), nil
}

// readRange reads the bytes [from, to) in one call.
func readRange(r io.ReaderAt, from, to int64) ([]byte, error) {
	if to <= from {
		return nil, nil
	}
	p := make([]byte, to-from)
	n, err := r.ReadAt(p, from)
	if n == len(p) {
		return p, nil // also with io.EOF, which a ReaderAt may give along with the last byte
	}
	if err == nil || errors.Is(err, io.EOF) {
		err = io.ErrUnexpectedEOF
	}
	return nil, fmt.Errorf("blob gave %d of %d bytes at %d: %w", n, len(p), from, err)
}

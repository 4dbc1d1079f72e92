package toc

import (
	"errors"
	"fmt"
	"io"

	"github.com/opencontainers/go-digest"
)

// Wanted says which TOC is wanted, and what is known of where it is.
type Wanted struct {
	BlobSize int64         // bytes of the whole blob
	Digest   digest.Digest // that the manifest names: of the TOC's JSON, or, for zstd:chunked, of the TOC as compressed
	Place    Place         // as the manifest names it; one that cannot be is not used
	Whole    bool          // read all of the blob, for the contents: it is a small one
	// External gets the TOC, as compressed, of a blob whose footer says that it is not in there. Nil: Fetch's error is ErrExternal.
	External func() ([]byte, error)
}

// Raw is a TOC as it lies in its blob: compressed, and nothing of it looked at but the footer.
type Raw struct {
	Format      Format
	BlobSize    int64 // bytes of the whole blob
	PayloadSize int64 // bytes of the blob before the TOC: where chunks may lie
	Tail        Tail
	want        digest.Digest
	compressed  []byte
}

// Fetch reads the TOC from the end of the blob r. If its place is known, that is one ReadAt of nothing else. If not, it is one
// of the last bytes, TailSize at most, which have the footer, and one more for the part of the TOC before them if there is any.
//
// The error is ErrFormat if the blob has no footer.
func Fetch(r io.ReaderAt, w Wanted) (*Raw, error) {
	if err := checkWanted(w.Digest); err != nil {
		return nil, err
	}
	f, known := w.Place.footer(w.BlobSize)
	t, err := w.readTail(r, f)
	if err != nil {
		return nil, fmt.Errorf("read tail: %w", err)
	}
	if !known && endsExternally(t.Bytes) {
		return w.fetchExternal(t)
	}
	if !known {
		if f, err = findFooter(t.Bytes, w.BlobSize); err != nil {
			return nil, err
		}
	}
	compressed, err := f.readTOC(r, t)
	if err != nil {
		return nil, fmt.Errorf("read TOC: %w", err)
	}
	return &Raw{Format: f.format, BlobSize: w.BlobSize, PayloadSize: f.payloadSize, Tail: t.payload(f), want: w.Digest, compressed: compressed}, nil
}

// Read is Fetch and then TOC.
func Read(r io.ReaderAt, size int64, want digest.Digest) (*TOC, error) {
	raw, err := Fetch(r, Wanted{BlobSize: size, Digest: want})
	if err != nil {
		return nil, err
	}
	return raw.TOC()
}

// Size is the bytes of the TOC as compressed.
func (r *Raw) Size() int64 { return int64(len(r.compressed)) }

// Compressed is the TOC as compressed, for Kept; it is not changed.
func (r *Raw) Compressed() []byte { return r.compressed }

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

// readTOC returns the compressed TOC, reading what of it is not in the tail.
func (f footer) readTOC(r io.ReaderAt, t Tail) ([]byte, error) {
	if f.tocOffset >= t.Offset {
		return t.Bytes[f.tocOffset-t.Offset:][:f.tocSize], nil
	}
	toc := make([]byte, f.tocSize)
	head := min(t.Offset-f.tocOffset, f.tocSize)
	copy(toc[head:], t.Bytes)
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

package layer

import (
	"errors"
	"fmt"
	"hash"
	"io"
	"unsafe"

	"github.com/opencontainers/go-digest"

	"github.com/sluice-snapshotter/sluice/cache"
)

// blobPieces reads what a proof has to fetch of the blob, range by range, and lets other proofs go on meanwhile.
type blobPieces struct {
	p   *prover
	sum hash.Hash // of all that was fetched; nil unless that is the whole blob
	err error     // why bytes do not come

	pos, end int64 // what is to be read
	buf      []byte
	have     []byte // in buf: what comes from pos on, as far as it was fetched
}

func newBlobPieces(p *prover, whole bool) *blobPieces {
	b := &blobPieces{p: p}
	if whole {
		b.sum = p.store.Digest().Algorithm().Hash()
	}
	return b
}

// seek goes to a piece of the blob.
func (b *blobPieces) seek(off, size int64) {
	if skip := off - b.pos; skip >= 0 && skip <= int64(len(b.have)) {
		b.have = b.have[skip:]
	} else {
		b.have = nil
	}
	b.pos, b.end = off, off+size
}

// Read implements io.Reader; the end is that of the piece.
func (b *blobPieces) Read(p []byte) (int, error) {
	if b.pos == b.end {
		return 0, io.EOF
	}
	if len(b.have) == 0 {
		if b.err = b.fetch(); b.err != nil {
			return 0, b.err
		}
	}
	n := copy(p, b.have[:min(int64(len(b.have)), b.end-b.pos)])
	b.have = b.have[n:]
	b.pos += int64(n)
	return n, nil
}

// fetch fetches the next range, for pieces that follow too.
func (b *blobPieces) fetch() error {
	b.p.release()
	size := min(b.p.through(b.end)-b.pos, backgroundRange)
	ranges, place := b.p.scheduler.ranges, newHolder(Background, b.p.ref, size)
	place.blob = size
	if err := ranges.enter(b.p.ctx, place); err != nil {
		return err
	}
	err := b.load(lender{b.p.Layer.blob, ranges, place}, size)
	ranges.leave(place)
	if err != nil {
		return err
	}
	return b.p.hold()
}

func (b *blobPieces) load(from Blob, size int64) error {
	body, err := from.ReadRange(withPriority(b.p.ctx, Background), b.pos, size)
	if err != nil {
		return err
	}
	defer body.Close()
	if int64(cap(b.buf)) < size {
		b.buf = make([]byte, size)
	}
	b.have = b.buf[:size]
	if n, err := io.ReadFull(body, b.have); err != nil {
		b.have = nil
		return fmt.Errorf("%d of %d bytes at %d: %w", n, size, b.pos, err)
	}
	if b.sum != nil {
		_, _ = b.sum.Write(b.have) // never fails
	}
	return nil
}

// judge says what becomes of a proof that has ended with err. If the blob was fetched for it, what did not come of it yet comes now: bytes
// that are not the blob's prove nothing.
func (b *blobPieces) judge(err error) error {
	var broken *brokenError
	if b.sum == nil || err != nil && !errors.As(err, &broken) {
		return err
	}
	for b.end = b.p.store.Info().BlobSize; ; {
		b.pos += int64(len(b.have))
		if b.have = nil; b.pos >= b.end {
			break
		}
		if err := b.fetch(); err != nil {
			return err
		}
	}
	if got, want := digest.NewDigest(b.p.store.Digest().Algorithm(), b.sum), b.p.store.Digest(); got != want {
		return fmt.Errorf("from %q: the blob's digest is %s, should be %s", b.p.blame(), got, want)
	}
	return err
}

const (
	windowSize  = 1 << 20
	windowAlign = 4096 // for direct reads
)

// dataWindow reads the data file from front to back, in large reads, which leave nothing in the page cache that was not there.
type dataWindow struct {
	store *cache.Layer
	buf   []byte // of windowSize bytes, aligned; nil until it is needed
	off   int64  // of have, in the address space
	have  []byte // in buf
}

// forget gives the memory up.
func (d *dataWindow) forget() {
	d.off += int64(len(d.have)) // where reading goes on
	d.buf, d.have = nil, nil
}

// hash gives a chunk's bytes to write, piece by piece, with where they lie.
func (d *dataWindow) hash(c cache.Chunk, write func(p []byte, at int64) error) error {
	for off, end := c.DataOffset, c.DataOffset+c.Size; off < end; {
		if off < d.off || off >= d.off+int64(len(d.have)) {
			if err := d.load(off, end); err != nil {
				return fmt.Errorf("read data file at %d: %w", off, err)
			}
		}
		p := d.have[off-d.off:]
		p = p[:min(int64(len(p)), end-off)]
		if err := write(p, off); err != nil {
			return err
		}
		off += int64(len(p))
	}
	return nil
}

// load reads from off on: as much as there is room for if that goes on from what was read before, else not much more than up to end.
func (d *dataWindow) load(off, end int64) error {
	if d.buf == nil {
		buf := make([]byte, windowSize+windowAlign)
		skip := -uintptr(unsafe.Pointer(unsafe.SliceData(buf))) % windowAlign
		d.buf = buf[skip:][:windowSize]
	}
	start := off &^ (windowAlign - 1)
	ahead := start - (d.off + int64(len(d.have)))
	n := min(int64(windowSize), d.store.Info().DataSize-start)
	if ahead < 0 || ahead > windowSize {
		n = min(n, (end-start+windowAlign-1)&^(windowAlign-1))
	}
	d.off, d.have = start, d.buf[:n]
	got, err := d.store.ReadOnce(d.have, start)
	if int64(got) == n {
		return nil // also with io.EOF
	}
	d.have = nil
	if err == nil {
		err = io.ErrUnexpectedEOF
	}
	return err
}

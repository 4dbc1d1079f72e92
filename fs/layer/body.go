package layer

import (
	"errors"
	"fmt"
	"io"
	"time"
)

// body is a range of the blob as it comes in.
type body struct {
	f      *flight
	ranges *gate // that the flight has passed
	stats  *Range

	from   io.ReadCloser
	size   int64
	left   int64 // of size, not read from the blob
	err    error // why bytes do not come
	rushed bool  // it has yielded long enough
}

// open asks the blob for a range.
func (b *body) open(blob Blob, off, size int64) error {
	start := time.Now()
	from, err := blob.ReadRange(b.f.ctx, off, size)
	b.stats.Network += time.Since(start)
	if err != nil {
		return err
	}
	b.from, b.size, b.left, b.err = from, size, size, nil
	return nil
}

func (b *body) close() {
	_ = b.from.Close() // there is nothing left to lose
}

// Read reads from the blob, not more than the range.
func (b *body) Read(p []byte) (int, error) {
	if b.left == 0 {
		return 0, io.EOF
	}
	b.yield()
	start := time.Now()
	n, err := b.from.Read(p[:min(int64(len(p)), b.left)])
	b.stats.Network += time.Since(start)
	b.stats.Blob += int64(n)
	b.left -= int64(n)
	if errors.Is(err, io.EOF) {
		if err = nil; b.left > 0 {
			err = fmt.Errorf("%d of %d bytes: %w", b.size-b.left, b.size, io.ErrUnexpectedEOF)
		}
	}
	if err != nil {
		b.err = err
	}
	return n, err
}

// yield leaves the link to what is more urgent, by not reading on: the sender stops when the connection's buffers are
// full. It does so for one trickle a range at most, and not when a reader waits.
func (b *body) yield() {
	if b.rushed || b.f.base == Demand {
		return
	}
	calm := b.ranges.whenCalm(b.f.base)
	if calm == nil {
		return
	}
	start := time.Now()
	defer func() { b.stats.Wait += time.Since(start) }()
	enough := time.NewTimer(b.ranges.trickle)
	defer enough.Stop()
	select {
	case <-calm:
	case <-b.f.raised:
		b.rushed = true
	case <-enough.C:
		b.rushed = true
	case <-b.f.ctx.Done():
	}
}

// seek skips to byte off of the range. It never goes back.
func (b *body) seek(off int64) error {
	_, err := io.CopyN(io.Discard, b, off-(b.size-b.left))
	return err
}

// drain reads a short rest, so that the connection can be used again.
func (b *body) drain() {
	if b.left <= drain {
		_, _ = io.CopyN(io.Discard, b, b.left) // all that is wanted is here
	}
}

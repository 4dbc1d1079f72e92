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
	place  *entrant
	stats  *Range

	from    io.ReadCloser
	size    int64
	left    int64 // of size, not read from the blob
	err     error // why bytes do not come
	yielded bool
	rushed  bool // it has yielded long enough
}

// open asks the blob for a range.
func (b *body) open(blob Blob, off, size int64) error {
	start := time.Now()
	b.ranges.hush(b.place)
	from, err := blob.ReadRange(b.f.ctx, off, size)
	lent := b.ranges.heard(b.place)
	b.stats.Network += time.Since(start)
	if err != nil {
		return err
	}
	b.from, b.size, b.left, b.err = from, size, size, nil
	if lent {
		if err := b.resume(); err != nil {
			b.close()
			return err
		}
	}
	return nil
}

// resume waits for a place when the range's own was lent, because its host was silent.
func (b *body) resume() error {
	start := time.Now()
	defer func() { b.stats.Wait += time.Since(start) }()
	turn := b.f.turn(b.place.image)
	b.place.priority, b.place.raised = turn.priority, turn.raised
	return b.ranges.await(b.f.ctx, b.place)
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
	b.ranges.hush(b.place)
	n, err := b.from.Read(p[:min(int64(len(p)), b.left)])
	lent := b.ranges.heard(b.place)
	b.stats.Network += time.Since(start)
	b.stats.Blob += int64(n)
	b.left -= int64(n)
	if errors.Is(err, io.EOF) {
		if err = nil; b.left > 0 {
			err = fmt.Errorf("%d of %d bytes: %w", b.size-b.left, b.size, io.ErrUnexpectedEOF)
		}
	}
	if err == nil && lent {
		err = b.resume()
	}
	if err != nil {
		b.err = err
	}
	return n, err
}

// yield leaves the link to what is more urgent, by not reading on: the sender stops when the connection's buffers are
// full. It does so for one trickle a range at most, and not when a reader waits.
func (b *body) yield() {
	if h, ok := b.from.(*headBody); b.rushed || b.f.base == Demand || ok && h.here() {
		return
	}
	var waited time.Duration
	waited, b.rushed = b.ranges.yield(b.f.ctx, b.f.base, b.f.raised)
	b.stats.Wait += waited
	b.yielded = b.yielded || waited > 0
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

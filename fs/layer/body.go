package layer

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"time"
)

// core is a flight's turn at decoding.
type core struct {
	gate   *gate
	f      *flight
	inside bool
	as     Priority
}

func (c *core) enter() error {
	c.as = c.f.priority()
	if err := c.gate.enter(c.f.ctx, c.as, 0); err != nil {
		return err
	}
	c.inside = true
	return nil
}

func (c *core) leave() {
	if c.inside {
		c.gate.leave(c.as, 0)
		c.inside = false
	}
}

// body is a range of the blob as it comes in. Its flight gives its core up while it waits for bytes.
type body struct {
	core  core
	in    *bufio.Reader // over the body
	stats *Range

	from io.ReadCloser
	size int64
	left int64 // of size, not read from the blob
	err  error // why bytes do not come

	ranges *gate // that the range has passed
	rushed bool  // it has yielded long enough
}

// open asks the blob for a range.
func (b *body) open(blob Blob, off, size int64) error {
	b.core.leave()
	start := time.Now()
	from, err := blob.ReadRange(b.core.f.ctx, off, size)
	b.stats.Network += time.Since(start)
	if err != nil {
		return err
	}
	b.from, b.size, b.left, b.err = from, size, size, nil
	b.in.Reset(b)
	if err := b.core.enter(); err != nil {
		b.close()
		return err
	}
	return nil
}

func (b *body) close() {
	b.in.Reset(nil)
	_ = b.from.Close() // there is nothing left to lose
}

// Read reads from the blob, not more than the range.
func (b *body) Read(p []byte) (int, error) {
	if b.left == 0 {
		return 0, io.EOF
	}
	b.core.leave()
	b.yield()
	start := time.Now()
	n, err := b.from.Read(p[:min(int64(len(p)), b.left)])
	b.stats.Network += time.Since(start)
	b.stats.Blob += int64(n)
	b.left -= int64(n)
	if errors.Is(err, io.EOF) && b.left > 0 {
		err = fmt.Errorf("%d of %d bytes: %w", b.size-b.left, b.size, io.ErrUnexpectedEOF)
	}
	if err != nil && !errors.Is(err, io.EOF) {
		b.err = err
	}
	if err := b.core.enter(); err != nil {
		b.err = context.Cause(b.core.f.ctx)
		return n, b.err
	}
	return n, err
}

// yield leaves the link to demand and prefetch while there are any, by not reading on: the sender stops when the
// connection's buffers are full. It does so for one trickle a range at most, and not when a reader waits.
func (b *body) yield() {
	if b.rushed || b.core.f.base != Background {
		return
	}
	calm := b.ranges.whenCalm()
	if calm == nil {
		return
	}
	start := time.Now()
	defer func() { b.stats.Wait += time.Since(start) }()
	enough := time.NewTimer(b.ranges.trickle)
	defer enough.Stop()
	select {
	case <-calm:
	case <-b.core.f.raised:
		b.rushed = true
	case <-enough.C:
		b.rushed = true
	case <-b.core.f.ctx.Done():
	}
}

// seek skips to byte off of the range. It never goes back.
func (b *body) seek(off int64) error {
	at := b.size - b.left - int64(b.in.Buffered())
	if _, err := b.in.Discard(int(off - at)); err != nil {
		return err
	}
	return nil
}

// drain reads a short rest, so that the connection can be used again.
func (b *body) drain() {
	if b.left > 0 && b.left <= drain {
		_, _ = b.in.Discard(b.in.Buffered() + int(b.left)) // all that is wanted is here
	}
}

// section is the part of a body where one stream lies.
type section struct {
	in   *bufio.Reader
	left int64
}

func (s *section) Read(p []byte) (int, error) {
	if s.left == 0 {
		return 0, io.EOF
	}
	n, err := s.in.Read(p[:min(int64(len(p)), s.left)])
	s.left -= int64(n)
	return n, err
}

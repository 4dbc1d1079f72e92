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

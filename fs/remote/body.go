package remote

import (
	"context"
	"fmt"
	"io"
)

// A body is the bytes of one answer that were asked for. Its Read returns io.EOF after exactly left of them, and an
// *Error if they do not come.
type body struct {
	resp  *response
	from  *endpoint
	left  int64
	gauge *gauge // nil until the first read: what that brings may have come with the header
}

func (b *body) close() {
	b.resp.close()
	if b.gauge != nil {
		b.gauge.close(b.from.registry.clock.now())
	}
}

func (b *body) Read(ctx context.Context, p []byte) (int, error) {
	if b.left == 0 {
		return 0, io.EOF
	}
	n, err := b.raw(ctx, p[:min(int64(len(p)), b.left)])
	b.left -= int64(n)
	if b.left == 0 {
		return n, nil // whatever the connection came to, the bytes are here
	}
	if err == io.EOF { //nolint:errorlint // raw's own, never wrapped
		err = b.early(ctx)
	}
	return n, err
}

func (b *body) early(ctx context.Context) error {
	return b.from.explain(ctx, b.resp.dog, b.asked(), fmt.Errorf("body: %w", io.ErrUnexpectedEOF))
}

// skip throws n bytes away.
func (b *body) skip(ctx context.Context, n int64) error {
	buf := make([]byte, min(n, 256<<10))
	for n > 0 {
		m, err := b.raw(ctx, buf[:min(n, int64(len(buf)))])
		n -= int64(m)
		switch {
		case err == nil || n == 0:
		case err == io.EOF: //nolint:errorlint // raw's own, never wrapped
			return b.early(ctx)
		default:
			return err
		}
	}
	return nil
}

// raw reads without counting. Its errors are io.EOF, where the answer ends, and those of explain.
func (b *body) raw(ctx context.Context, p []byte) (n int, err error) {
	now := b.from.registry.clock.now
	start := now()
	b.resp.slot.waits(start)
	if b.gauge != nil {
		b.gauge.begin(start)
	}
	b.resp.dog.during(func() { n, err = b.resp.Body.Read(p) })
	end := now()
	b.resp.slot.lies(end)
	if b.gauge != nil {
		b.gauge.end(end, n)
	} else {
		b.gauge = &b.resp.site.gauge
		b.gauge.open(end)
	}
	b.from.registry.opts.Trace.bytes(ctx, b.from.host, n)
	if err == nil || err == io.EOF {
		return n, err
	}
	return n, b.from.explain(ctx, b.resp.dog, b.asked(), fmt.Errorf("body: %w", err))
}

// asked is what the body answers, for messages.
func (b *body) asked() request { return request{url: b.resp.Request.URL} }

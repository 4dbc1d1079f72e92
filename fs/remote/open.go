package remote

import (
	"context"
	"errors"
	"fmt"
	"net/http"
)

// open makes one attempt at a range at one host. The body may promise fewer bytes than were asked for, but not none.
func (b *Blob) open(ctx context.Context, c *candidate, off, size int64) (*body, error) {
	header := http.Header{
		"Range": {fmt.Sprintf("bytes=%d-%d", off, off+size-1)},
		// Or net/http would ask for gzip and unpack it; offsets are into the blob as it is.
		"Accept-Encoding": {"identity"},
	}
	e, order := c.endpoint, order{c.ticket, size}
	if at := b.remembered(e); at != nil {
		resp, err := e.get(ctx, request{at.url, header, order, true})
		if err == nil {
			var body *body
			if body, err = b.accept(ctx, e, resp, off, size); err == nil {
				return body, nil
			}
		}
		if errors.Is(err, errPaused) {
			return nil, err
		}
		b.forget(e, at)
		if fault, ok := errors.AsType[*Error](err); !ok || fault.temporary {
			return nil, err
		}
		// It has expired, most likely; the host knows a fresh one.
	}
	resp, err := e.get(ctx, request{url: e.url("blobs", b.subject.digest), header: header, order: order})
	if fault, ok := errors.AsType[*Error](err); ok && fault.signed != nil {
		b.remember(e, &signedURL{fault.signed}) // to ask there when the wait is over
	}
	if err != nil {
		return nil, describeRange(err, off, size)
	}
	body, err := b.accept(ctx, e, resp, off, size)
	if err == nil && resp.away {
		b.remember(e, &signedURL{resp.Request.URL})
	}
	return body, err
}

// describeRange says in an error of status 416 what was wrong with the range.
func describeRange(err error, off, size int64) error {
	fault, ok := errors.AsType[*Error](err)
	if !ok || fault.Status != http.StatusRequestedRangeNotSatisfiable {
		return err
	}
	fault.Err = fmt.Errorf("%w: %d bytes at %d", ErrRange, size, off)
	if fault.sized {
		fault.Err = fmt.Errorf("%w of %d", fault.Err, fault.size)
	}
	return fault
}

// accept checks that resp is an answer to the range, and closes it if not.
func (b *Blob) accept(ctx context.Context, e *endpoint, resp *response, off, size int64) (_ *body, err error) {
	body := &body{resp: resp, from: e, left: size}
	defer func() {
		if err != nil {
			body.close()
		}
	}()
	if resp.StatusCode == http.StatusPartialContent {
		err = b.acceptPart(body, off)
	} else {
		err = b.acceptWhole(ctx, body, off)
	}
	if err != nil {
		return nil, err
	}
	e.site.bodies.Store(resp.site)
	b.mu.Lock()
	b.last = e
	b.mu.Unlock()
	return body, nil
}

// acceptPart takes a 206. It may hold the beginning of the range only, which RFC 9110 allows.
func (b *Blob) acceptPart(body *body, off int64) error {
	resp := body.resp
	text := resp.Header.Get("Content-Range")
	got, err := parseContentRange(text)
	if err != nil || got.first != off || got.last >= off+body.left {
		return body.wrong("Content-Range is %q for bytes %d-%d", printable(text, 64), off, off+body.left-1)
	}
	body.left = got.last - got.first + 1
	if resp.ContentLength >= 0 && resp.ContentLength != body.left {
		return body.wrong("Content-Length is %d with Content-Range %s", resp.ContentLength, got)
	}
	return b.learn(body, got.total)
}

// acceptWhole takes a 200, which is the whole blob.
func (b *Blob) acceptWhole(ctx context.Context, body *body, off int64) error {
	length := body.resp.ContentLength
	if err := b.learn(body, length); err != nil {
		return err
	}
	if length >= 0 && length < off+body.left {
		fault := body.wrong("%w: %d bytes at %d of %d", ErrRange, body.left, off, length)
		fault.sized, fault.size = true, length
		return fault
	}
	if off > 0 || body.left != b.size.Load() {
		body.from.rangeless.Store(true)
	}
	return body.skip(ctx, off)
}

// learn compares the blob's size with what a host says it is; -1 is nothing said.
func (b *Blob) learn(body *body, total int64) error {
	if total < 0 || b.size.CompareAndSwap(0, total) {
		return nil
	}
	if size := b.size.Load(); size != total {
		return body.wrong("the blob has %d bytes there, and %d by its descriptor", total, size)
	}
	return nil
}

// wrong returns a permanent fault: asked again, the host would say the same.
func (b *body) wrong(format string, args ...any) *Error {
	return b.from.fault(b.resp.Request.URL, fmt.Errorf(format, args...))
}

// site returns where e will be asked for the blob.
func (b *Blob) site(e *endpoint) *site {
	if at := b.remembered(e); at != nil {
		return e.registry.site(at.url)
	}
	return e.site
}

func (b *Blob) remembered(e *endpoint) *signedURL {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.signed[e]
}

func (b *Blob) remember(e *endpoint, at *signedURL) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.signed[e] = at
}

// forget forgets at, and not what another reader has remembered since.
func (b *Blob) forget(e *endpoint, at *signedURL) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.signed[e] == at {
		delete(b.signed, e)
	}
}

package remote

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"slices"
	"sync"
	"sync/atomic"
)

// A Blob is one blob of a repository. It needs no closing.
type Blob struct {
	repo    *repository
	subject subject
	size    atomic.Int64 // 0 while unknown

	mu         sync.Mutex
	signed     map[*endpoint]*signedURL
	last       *endpoint // that answered last, which is asked first
	distrusted []string  // hosts, asked last
}

// A signedURL is a place where a host has sent us for the blob. It is told from another of the same text by its address.
type signedURL struct{ url *url.URL }

// ErrRange is wrapped by errors about bytes that the blob does not have.
var ErrRange = errors.New("range outside the blob")

// ReadRange returns a reader of the size bytes from off on. It yields exactly these or an error; a body that breaks is
// resumed where it broke, at another host if there is one. It blocks until a host has begun to answer. ctx governs the
// reader until it is closed, which the caller does, at any point.
func (b *Blob) ReadRange(ctx context.Context, off, size int64) (io.ReadCloser, error) {
	s := b.subject
	s.op = "read"
	total := b.size.Load()
	if off < 0 || size < 0 || off+size < 0 || total > 0 && off+size > total {
		return nil, s.explain(&Error{Err: fmt.Errorf("%w: %d bytes at %d of %d", ErrRange, size, off, total)})
	}
	if size == 0 {
		return http.NoBody, nil
	}
	hosts, err := b.hosts(ctx)
	if err != nil {
		return nil, s.explain(&Error{Err: err})
	}
	r := &rangeReader{ctx: ctx, blob: b, trial: b.newTrial(s, hosts, size), off: off, left: size}
	if err := r.open(); err != nil {
		return nil, err
	}
	return r, nil
}

func (b *Blob) newTrial(s subject, hosts []*endpoint, size int64) *trial {
	t := newTrial(b.repo.registry, s, hosts, size)
	t.site = b.site
	return t
}

// ReaderAt returns the blob as an io.ReaderAt: each ReadAt is one ReadRange under ctx.
func (b *Blob) ReaderAt(ctx context.Context) io.ReaderAt { return readerAt{ctx, b} }

type readerAt struct {
	ctx  context.Context // of whoever asked for this view
	blob *Blob
}

func (r readerAt) ReadAt(p []byte, off int64) (int, error) {
	size, err := r.blob.Size(r.ctx)
	if err != nil {
		return 0, err
	}
	if off >= size {
		return 0, io.EOF
	}
	n := min(int64(len(p)), size-off)
	body, err := r.blob.ReadRange(r.ctx, off, n)
	if err != nil {
		return 0, err
	}
	defer body.Close()
	read, err := io.ReadFull(body, p[:n])
	if err == nil && n < int64(len(p)) {
		err = io.EOF
	}
	return read, err
}

// Size returns the blob's size in bytes. It blocks on the network if Blob was not told and nothing was read yet.
func (b *Blob) Size(ctx context.Context) (int64, error) {
	if size := b.size.Load(); size > 0 {
		return size, nil
	}
	s := b.subject
	s.op = "size"
	hosts, err := b.hosts(ctx)
	if err != nil {
		return 0, s.explain(&Error{Err: err})
	}
	t := b.newTrial(s, hosts, 0)
	for {
		c, err := t.next(ctx)
		if err != nil {
			return 0, err
		}
		size, err := b.askSize(ctx, c)
		if err == nil {
			return size, nil
		}
		if err := t.failed(ctx, c, err); err != nil {
			return 0, err
		}
	}
}

// askSize asks for one byte, since signed URLs are good for GET and not for HEAD.
func (b *Blob) askSize(ctx context.Context, c *candidate) (int64, error) {
	body, err := b.open(ctx, c, 0, 1)
	if fault, ok := errors.AsType[*Error](err); ok && fault.sized && fault.size == 0 {
		return 0, nil // an empty blob has no first byte
	}
	if err != nil {
		return 0, err
	}
	defer body.close()
	if size := b.size.Load(); size > 0 {
		return size, nil
	}
	return 0, c.fault(body.resp.Request.URL, errors.New("the size is not told"))
}

// Host returns the host that answered last; "" if none has.
func (b *Blob) Host() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.last == nil {
		return ""
	}
	return b.last.host
}

// Distrust says that host has sent wrong bytes. From now on it is asked for this blob only when all others fail.
func (b *Blob) Distrust(host string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if !slices.Contains(b.distrusted, host) {
		b.distrusted = append(b.distrusted, host)
	}
	for e := range b.signed {
		if e.host == host {
			delete(b.signed, e) // it may be the place and not the host
		}
	}
}

// hosts returns whom to ask, best first: trusted ones, then those that can do ranges, then the one that answered last,
// and otherwise as configured.
func (b *Blob) hosts(ctx context.Context) ([]*endpoint, error) {
	list, err := b.repo.endpoints(ctx)
	if err != nil {
		return nil, err
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	for e := range b.signed {
		if !slices.Contains(list, e) {
			delete(b.signed, e) // the configuration has changed
		}
	}
	rank := func(e *endpoint) int {
		rank := 0
		if e != b.last {
			rank |= 1
		}
		if e.rangeless.Load() {
			rank |= 2
		}
		if slices.Contains(b.distrusted, e.host) {
			rank |= 4
		}
		return rank
	}
	list = slices.Clone(list)
	slices.SortStableFunc(list, func(x, y *endpoint) int { return cmp.Compare(rank(x), rank(y)) })
	return list, nil
}

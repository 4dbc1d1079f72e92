package plain

import (
	"context"
	"fmt"
	"io"
	"sync"
	"sync/atomic"
	"time"

	"github.com/sluice-snapshotter/sluice/fs/layer"
)

const (
	pieceSize = 4 << 20 // bytes of the blob in one request
	// pieces is how many of a layer are under way or waiting to be used. At 50 ms they can bring 320 MB/s.
	pieces = 4
)

// piece is a part of the blob that comes in while it is used. Two use it, each from its beginning.
type piece struct {
	buf  []byte
	home chan<- []byte // where buf goes then; it has room for all

	users atomic.Int32

	mu   sync.Mutex
	more sync.Cond // when n or err changes
	n    int       // bytes that are there
	err  error     // why there are no more
}

func newPiece(buf []byte, home chan<- []byte) *piece {
	p := &piece{buf: buf, home: home}
	p.users.Store(2)
	p.more.L = &p.mu
	return p
}

// await returns what is there behind the first n bytes, as soon as that is anything; io.EOF at the end.
func (p *piece) await(n int) ([]byte, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for p.n == n && p.err == nil && n < len(p.buf) {
		p.more.Wait()
	}
	switch {
	case p.n > n:
		return p.buf[n:p.n], nil
	case n == len(p.buf):
		return nil, io.EOF
	}
	return nil, p.err
}

// done is for a user to say.
func (p *piece) done() {
	if p.users.Add(-1) == 0 {
		p.home <- p.buf[:cap(p.buf)]
	}
}

// fill reads the piece from the blob.
func (p *piece) fill(r io.Reader) error {
	for p.n < len(p.buf) { // nobody else changes it
		n, err := r.Read(p.buf[p.n:])
		p.mu.Lock()
		p.n += n
		p.more.Broadcast()
		p.mu.Unlock()
		if err != nil && p.n < len(p.buf) {
			if err == io.EOF {
				err = io.ErrUnexpectedEOF
			}
			return err
		}
	}
	return nil
}

func (p *piece) fail(err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.err = err
	p.more.Broadcast()
}

// fetch requests the pieces of the blob one after the other, each as soon as there is room for it, and hands them to the users. It
// returns when all of them have come, or one has not.
func (s *stream) fetch(ctx context.Context) (err error) {
	defer close(s.hashed)
	defer close(s.decoded)
	var flights sync.WaitGroup
	defer flights.Wait()
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	var failed failure
	buffers := make(chan []byte, pieces) // nil for one that is still to be made
	for range pieces {
		buffers <- nil
	}
	for off := int64(0); off < s.Size; off += pieceSize {
		size := min(s.Size-off, pieceSize)
		var buf []byte
		select {
		case buf = <-buffers:
		case <-ctx.Done():
			return failed.or(context.Cause(ctx))
		}
		began := time.Now()
		place, err := s.memory.Admit(ctx)
		if err != nil {
			return failed.or(err)
		}
		waited := time.Since(began)
		if buf == nil {
			buf = make([]byte, size)
		}
		p := newPiece(buf[:size], buffers)
		s.hashed <- p // never waits: there are no more pieces than it has room for
		s.decoded <- p
		flights.Go(func() {
			defer place.Leave()
			began := time.Now()
			body := &politeBody{ctx: ctx, place: place, awaited: s.Awaited}
			err := s.bring(body, p, off)
			s.fetched(layer.Range{Blob: int64(p.n), Wait: waited + body.waited, Network: time.Since(began) - body.waited, Err: err})
			if err != nil {
				failed.set(err)
				cancel(err) // first: once the users are told, they give back buffers that others still fill
				p.fail(err)
			}
		})
	}
	flights.Wait()
	return failed.or(nil)
}

func (s *stream) bring(body *politeBody, p *piece, off int64) error {
	from, err := body.place.ReadRange(body.ctx, s.Blob, off, int64(len(p.buf)))
	if err != nil {
		return err
	}
	defer from.Close()
	body.from = from
	if err := p.fill(body); err != nil {
		return fmt.Errorf("bytes %d+%d of the blob: %w", off, len(p.buf), err)
	}
	return nil
}

// politeBody is a piece as it comes in, which gives way to readers as long as nobody waits for the layer.
type politeBody struct {
	ctx     context.Context // Read has none of its own
	place   *layer.Place
	awaited <-chan struct{}
	from    io.Reader
	waited  time.Duration
}

func (b *politeBody) Read(p []byte) (int, error) {
	b.waited += b.place.Yield(b.ctx, b.awaited)
	return b.from.Read(p)
}

// failure is the first error of several goroutines.
type failure struct {
	mu  sync.Mutex
	err error
}

func (f *failure) set(err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.err == nil {
		f.err = err
	}
}

// or returns the failure, or err if there is none.
func (f *failure) or(err error) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.err != nil {
		return f.err
	}
	return err
}

// pieceReader reads the blob from its pieces, for one of their users.
type pieceReader struct {
	from <-chan *piece
	p    *piece // that is being read; nil between two
	n    int    // bytes of p that were read
	err  error
}

// next returns the bytes that come next, as many as are there. They are good until the next call.
func (r *pieceReader) next() ([]byte, error) {
	for r.err == nil {
		if r.p == nil {
			p, ok := <-r.from
			if !ok {
				r.err = io.EOF
				break
			}
			r.p, r.n = p, 0
		}
		got, err := r.p.await(r.n)
		if err == nil {
			return got, nil
		}
		r.p.done()
		r.p = nil
		if err != io.EOF { //nolint:errorlint // await's own, never wrapped
			r.err = err
		}
	}
	return nil, r.err
}

func (r *pieceReader) Read(b []byte) (int, error) {
	got, err := r.next()
	n := copy(b, got)
	r.n += n
	return n, err
}

// close lets go of what was not read, and of what is still to come.
func (r *pieceReader) close() {
	if r.p != nil {
		r.p.done()
		r.p = nil
	}
	for p := range r.from {
		p.done()
	}
}

package layer

import (
	"context"
	"slices"
	"sync"
	"sync/atomic"
)

// flight is a range under way.
type flight struct {
	span
	base    Priority // that it was started with
	ctx     context.Context
	cancel  context.CancelFunc
	pending []*pending   // one for each of span.chunks
	waiters atomic.Int32 // readers that wait for its chunks; changes under Layer.mu
	raise   sync.Once
	raised  chan struct{} // closed by raise when the first reader waits
}

// pending is a chunk in flight. It is settled once, by its flight.
type pending struct {
	flight  *flight
	chunk   int
	readers []*read       // guarded by Layer.mu
	done    chan struct{} // closed when settled
	err     error         // why the chunk is missing; set before done is closed
}

// priority is that of the flight's work now: a reader that waits raises it, and what is left of a reader's range
// after its own chunks is only read-ahead.
func (f *flight) priority() Priority {
	if f.urgent() {
		return Demand
	}
	return min(f.base, Prefetch)
}

func (f *flight) urgent() bool { return f.waiters.Load() > 0 }

// turn is the flight's work before a gate. A reader that comes while it waits there raises it.
func (f *flight) turn(image string) *entrant {
	e := &entrant{priority: f.priority(), image: image}
	select {
	case <-f.raised: // by one who may be gone
	default:
		e.raised = f.raised
	}
	return e
}

// wait counts a reader in. Layer.mu is held.
func (f *flight) wait() {
	f.waiters.Add(1)
	f.raise.Do(func() { close(f.raised) })
}

func (p *pending) settled() bool {
	select {
	case <-p.done:
		return true
	default:
		return false
	}
}

// failed returns the first chunk that was settled with an error, once all are settled and there is one.
func (f *flight) failed() int {
	for _, p := range f.pending {
		if p.err != nil {
			return p.chunk
		}
	}
	return f.chunks[0]
}

// free returns which of chunks are neither stored nor in flight. l.mu is held.
func (l *Layer) free(chunks []int) []int {
	return slices.DeleteFunc(chunks, func(i int) bool { return l.pending[i] != nil || l.store.Has(i) })
}

// launch makes a flight of s. ctx ends with the layer's life. l.mu is held.
func (l *Layer) launch(ctx context.Context, s span, base Priority) *flight {
	f := &flight{span: s, base: base, raised: make(chan struct{})}
	f.ctx, f.cancel = context.WithCancel(context.WithValue(withPriority(ctx, base), urgencyKey{}, f))
	for _, i := range s.chunks {
		p := &pending{flight: f, chunk: i, done: make(chan struct{})}
		f.pending = append(f.pending, p)
		l.pending[i] = p
	}
	return f
}

// settle says how the fetch of a chunk ended. A chunk that is right but could not be stored has its bytes in data: then
// they are given to its readers, and only whoever comes later has to fetch it again.
func (l *Layer) settle(p *pending, data []byte, err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.forget(p)
	p.err = err
	if data != nil {
		off := l.store.Chunk(p.chunk).DataOffset
		for _, r := range p.readers {
			r.keep(p.chunk, data, off)
		}
		if len(p.readers) > 0 {
			p.err = nil
		}
	}
	close(p.done)
}

// fail settles all chunks of f that are not.
func (l *Layer) fail(f *flight, err error) {
	for _, p := range f.pending {
		if !p.settled() {
			l.settle(p, nil, err)
		}
	}
}

// forget makes the next reader of a chunk start over. l.mu is held.
func (l *Layer) forget(p *pending) {
	if l.pending[p.chunk] != p {
		return
	}
	delete(l.pending, p.chunk)
	if len(l.pending) == 0 {
		l.pending = make(map[int]*pending) // a map never shrinks, and this one may have held all chunks of the layer
	}
}

// part takes a reader from the chunks it waited for. A flight for readers only, none of whom is left, ends.
func (l *Layer) part(r *read, from []*pending) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, p := range from {
		p.readers = slices.DeleteFunc(p.readers, func(other *read) bool { return other == r })
		f := p.flight
		if f.waiters.Add(-1) > 0 || f.base != Demand || p.settled() {
			continue
		}
		f.cancel()
		for _, q := range f.pending {
			l.forget(q)
		}
	}
}

package layer

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"time"
)

// read is one ReadAt that waits.
type read struct {
	p    []byte
	off  int64
	kept keptPieces // nil unless storing went wrong
}

// keptPieces are parts of what a read asked for, by chunk.
type keptPieces map[int]piece

func (k keptPieces) has(chunk int) bool { _, ok := k[chunk]; return ok }

// piece is a part of what a read asked for that is not in the store.
type piece struct {
	bytes []byte
	at    int // in read.p
}

// keep copies what the read needs of a chunk that could not be stored. Layer.mu is held.
func (r *read) keep(chunk int, data []byte, off int64) {
	from, to := max(off, r.off), min(off+int64(len(data)), r.off+int64(len(r.p)))
	if from >= to {
		return
	}
	if r.kept == nil {
		r.kept = make(keptPieces)
	}
	r.kept[chunk] = piece{bytes: append([]byte(nil), data[from-off:to-off]...), at: int(from - r.off)}
}

// ReadAt reads the address space, with the semantics of io.ReaderAt; what no chunk covers reads as zeros. It waits for
// what is missing, and leaves with ctx's error when ctx ends. Every byte it returns was verified.
func (l *Layer) ReadAt(ctx context.Context, p []byte, off int64) (int, error) {
	return l.ReadAtOnce(ctx, p, off, func() error { return nil })
}

// ReadAtOnce is ReadAt for who has little memory: arrived is called once what was missing is there, before anything is written to p.
// If it returns an error, that is the read's.
func (l *Layer) ReadAtOnce(ctx context.Context, p []byte, off int64, arrived func() error) (int, error) {
	if err := l.begin(); err != nil {
		return 0, err
	}
	defer l.alive.RUnlock()
	if off < 0 {
		return 0, l.wrap("read", fmt.Errorf("offset %d is negative", off))
	}
	once := sync.OnceValue(arrived)
	result, kept, err := l.ready(ctx, p, off, once)
	if err != nil {
		l.observer.read(Failed)
		return 0, err
	}
	n, held, err := l.store.ReadHeld(p, off, kept.has)
	for !held { // some of it was taken away again
		result = Miss
		if kept, err = l.demandAgain(ctx, p, off, once); err != nil {
			l.observer.read(Failed)
			return 0, err
		}
		n, held, err = l.store.ReadHeld(p, off, kept.has)
	}
	if behind := l.row.read(off, int64(n)); behind.Size > 0 {
		l.store.Drop(behind.Off, behind.Size)
	}
	for _, k := range kept {
		copy(p[k.at:], k.bytes)
	}
	if n < len(p) && off+int64(n) < l.store.Info().DataSize {
		result = Failed
		err = l.wrapAt("read", off+int64(n), err)
	}
	l.observer.read(result)
	return n, err
}

// ready waits until what a read of p at off needs is in the store, or kept.
func (l *Layer) ready(ctx context.Context, p []byte, off int64, arrived func() error) (result Result, kept keptPieces, err error) {
	first, end, present := l.chunksOf(off, int64(len(p)))
	if present {
		if end > first {
			l.follow(Extent{off, int64(len(p))}, first, end, false)
			l.scheduler.reads()
		}
		return Hit, nil, nil
	}
	if kept, err = l.demand(ctx, p, off, first, end); err == nil {
		err = arrived()
	}
	return Miss, kept, err
}

// demandAgain is demand for a read whose chunks were there a moment ago.
func (l *Layer) demandAgain(ctx context.Context, p []byte, off int64, arrived func() error) (keptPieces, error) {
	first, end, present := l.chunksOf(off, int64(len(p)))
	if present {
		return nil, nil
	}
	kept, err := l.demand(ctx, p, off, first, end)
	if err == nil {
		err = arrived()
	}
	return kept, err
}

// chunksOf returns which chunks have bytes of [off, off+n), and whether all of them are in the store.
func (l *Layer) chunksOf(off, n int64) (first, end int, present bool) {
	if l.store.Complete() {
		return 0, 0, true // without a look at the chunk table
	}
	first, present = l.store.Find(off), true
	for end = first; end < l.store.NumChunks(); end++ {
		if l.store.Chunk(end).DataOffset-off >= n {
			break
		}
		present = present && l.store.Has(end)
	}
	return first, end, present
}

// demand waits until chunks [first, end), of a read of p at off, are in the store. It returns what could not be put there.
func (l *Layer) demand(ctx context.Context, p []byte, off int64, first, end int) (keptPieces, error) {
	start := time.Now()
	r := &read{p: p, off: off}
	chunk, err := l.obtain(ctx, r, first, end)
	l.observer.readWait(time.Since(start))
	switch {
	case err == nil:
		return r.kept, nil
	case ctx.Err() != nil, l.life.Err() != nil:
		return nil, l.wrap("read", err)
	default:
		return nil, l.wrapAt("read", max(off, l.store.Chunk(chunk).DataOffset), err)
	}
}

// obtain waits until chunks [first, end) are in the store or kept in r. It returns the chunk that an error is about.
func (l *Layer) obtain(ctx context.Context, r *read, first, end int) (int, error) {
	follow := sync.OnceFunc(func() { l.follow(Extent{r.off, int64(len(r.p))}, first, end, true) })
	for i := first; i < end; i++ {
		for l.missing(r, i) {
			waits := l.join(r, i, end)
			follow() // when what is waited for is on its way
			chunk, err := l.await(ctx, waits)
			l.part(r, waits)
			if err != nil {
				return chunk, err
			}
		}
	}
	return 0, nil
}

func (l *Layer) missing(r *read, chunk int) bool {
	return !r.kept.has(chunk) && !l.store.Has(chunk)
}

// join registers r with all chunks of [first, end) that are missing, and starts the flights that this takes.
func (l *Layer) join(r *read, first, end int) []*pending {
	chunks := l.wanted(first, end) // without the lock: it may have to hash what was stored before a reboot
	local := l.locals(chunks)
	l.mu.Lock()
	defer l.mu.Unlock()
	chunks = slices.DeleteFunc(l.free(chunks), r.kept.has)
	here, chunks := split(chunks, local)
	l.copyAround(here, first, end)
	for _, s := range l.spans(chunks, bounds{demandRange, bridgeBeside(here)}) {
		if s.chunks[0] >= end || s.chunks[len(s.chunks)-1] < first {
			continue // what was asked for is in flight already, and read-ahead alone is no reason for a range
		}
		f := l.launch(l.life, s, Demand)
		l.flights.Go(func() { l.fly(f) })
	}
	var waits []*pending
	for i := first; i < end; i++ {
		p := l.pending[i]
		if p == nil || !l.missing(r, i) {
			continue
		}
		p.readers = append(p.readers, r)
		p.flight.wait()
		waits = append(waits, p)
	}
	return waits
}

// await waits for chunks. The failure of a flight that was not begun for readers is not theirs: they try on their own.
func (l *Layer) await(ctx context.Context, waits []*pending) (int, error) {
	for _, p := range waits {
		select {
		case <-p.done:
			if p.err != nil && p.flight.base == Demand {
				return p.chunk, p.err
			}
		case <-ctx.Done():
			return p.chunk, ctx.Err()
		case <-l.life.Done():
			return p.chunk, ErrClosed
		}
	}
	return 0, nil
}

// fly takes a flight through its whole life.
func (l *Layer) fly(f *flight) {
	place, start := &entrant{priority: f.base, bytes: l.memory(f.span), image: l.ref, raised: f.raised}, time.Now()
	if err := l.scheduler.ranges.enter(f.ctx, place); err != nil {
		l.fail(f, err)
		f.cancel()
		return
	}
	defer l.scheduler.ranges.leave(place)
	_ = l.fetch(f, place, time.Since(start)) // its readers have the error
}

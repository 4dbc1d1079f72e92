package layer

import (
	"context"
	"errors"
	"runtime"
	"slices"

	"golang.org/x/sync/errgroup"

	"github.com/sluice-snapshotter/sluice/cache"
)

const (
	// copyRange is how many bytes of chunks make a flight that copies them: it takes some 20 ms.
	copyRange = 4 << 20

	// copyShare is which part of the memory limit, beside it, chunks may take that are copied at one moment.
	copyShare = 8

	// maxUncopied is how many chunks are remembered that could not be copied though they seemed to be there. A layer with more has
	// all of its chunks fetched: the disk has lost much.
	maxUncopied = 4096
)

// A chunk that another layer of the store has is copied from there, in a flight of its own kind: it has no range and no place among those
// that have, and its chunks are settled like others. One that could not be copied after all is not tried again; who wants it has it fetched. So
// ranges are made of what no other layer has.

// locals returns which of chunks, in order, other layers of the store seem to have. It is called without l.mu: it looks at their files.
func (l *Layer) locals(chunks []int) (local []int) {
	if len(chunks) == 0 || l.store.Complete() {
		return nil
	}
	from := l.store.Sources()
	defer l.endCopies(from)
	for _, i := range chunks {
		if l.copies(from, i) {
			local = append(local, i)
		}
	}
	return local
}

// copies reports whether a chunk that is missing is to be copied.
func (l *Layer) copies(from *cache.Sources, chunk int) bool {
	return from.Any() && from.Has(chunk) && l.copyable(chunk)
}

func (l *Layer) copyable(chunk int) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return !l.uncopied[chunk] && len(l.uncopied) < maxUncopied
}

func (l *Layer) endCopies(from *cache.Sources) {
	if err := from.Close(); err != nil {
		l.observer.error(l.wrap("copy chunks to", err))
	}
}

// split divides chunks into those that are local and the others.
func split(chunks, local []int) (here, missing []int) {
	if len(local) == 0 {
		return nil, chunks
	}
	for _, i := range chunks {
		if _, ok := slices.BinarySearch(local, i); ok {
			here = append(here, i)
		} else {
			missing = append(missing, i)
		}
	}
	return here, missing
}

// bridgeBeside is the bridge of ranges that lie among chunks which are copied.
func bridgeBeside(local []int) int64 {
	if len(local) > 0 {
		return copyBridge
	}
	return bridge
}

// batch returns how many of chunks make one flight that copies them.
func (l *Layer) batch(chunks []int) (n int) {
	for size := int64(0); n < len(chunks); n++ {
		if size += l.store.Chunk(chunks[n]).Size; n > 0 && size > copyRange {
			break
		}
	}
	return n
}

// copyFor has chunks copied, which are free, that somebody waits for, or expects. l.mu is held.
func (l *Layer) copyFor(chunks []int, priority Priority) {
	for len(chunks) > 0 {
		n := l.batch(chunks)
		f := l.launch(l.life, span{chunks: chunks[:n]}, Prefetch) // their errors are no reader's
		chunks = chunks[n:]
		if priority == Demand {
			f.wait()
		}
		l.flights.Go(func() {
			rest, _ := l.carry(f) // who waits has the error
			l.mu.Lock()
			defer l.mu.Unlock()
			l.bring(rest, nil, priority)
		})
	}
}

// copyAround has chunks copied for a reader of chunks [first, end): those first, and what is read ahead. What comes before them in their
// streams nobody wants. l.mu is held.
func (l *Layer) copyAround(chunks []int, first, end int) {
	from, _ := slices.BinarySearch(chunks, first)
	to, _ := slices.BinarySearch(chunks, end)
	l.copyFor(chunks[from:to], Prefetch) // the reader raises them
	l.copyFor(chunks[to:], Prefetch)
}

// carry copies the chunks of f, and settles all of them. It returns those that have to be fetched after all. The error is that of storing, or
// that f has ended.
func (l *Layer) carry(f *flight) (rest []int, err error) {
	defer f.cancel()
	defer l.store.Trim()
	from := l.store.Sources()
	defer l.endCopies(from)
	for _, p := range f.pending {
		why := l.copyChunk(f, p, from)
		switch {
		case why == nil:
			l.settle(p, nil, nil)
			continue
		case errors.Is(why, cache.ErrNoCopy):
			l.giveUpCopying(p.chunk)
			l.settle(p, nil, why)
			rest = append(rest, p.chunk)
			continue
		}
		err = why
		if f.ctx.Err() != nil || l.release(f.pending...) {
			break
		}
	}
	l.fail(f, err)
	if err != nil && f.ctx.Err() == nil {
		l.mu.Lock()
		l.lastErr = err
		l.mu.Unlock()
	}
	return rest, err
}

func (l *Layer) giveUpCopying(chunk int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.uncopied[chunk] = true
}

// copyChunk copies a chunk when there is memory for it, and a core. Where the disk fails, its readers are served from memory.
func (l *Layer) copyChunk(f *flight, p *pending, from *cache.Sources) error {
	size := l.store.Chunk(p.chunk).Size
	room := f.turn(l.ref)
	room.bytes = bufferSize(size)
	if err := l.scheduler.copying.enter(f.ctx, room); err != nil {
		return err
	}
	defer l.scheduler.copying.leave(room)
	l.scheduler.heap.begin()
	defer l.scheduler.heap.end(room.bytes)
	turn := f.turn(l.ref)
	if err := l.scheduler.cores.enter(f.ctx, turn); err != nil {
		return err
	}
	defer l.scheduler.cores.leave(turn)
	buf := l.scheduler.buffers.get(size)
	defer l.scheduler.buffers.put(buf)
	share := false
	select {
	case <-l.stored: // nobody but flights stores chunks any more
		share = true
	default:
	}
	err := from.Copy(p.chunk, *buf, share)
	if errors.Is(err, cache.ErrNotStored) {
		l.settle(p, (*buf)[:size], err)
	}
	if err == nil {
		l.observer.copied(size)
	}
	return err
}

// copy copies what other layers have, in flights of b's priority. A flight begins when it is its turn: what it is to bring no reader can have
// another bring.
func (b *bulk) copy(ctx, going context.Context) error {
	var g errgroup.Group
	g.SetLimit(runtime.GOMAXPROCS(0))
	for local := b.local; len(local) > 0 && going.Err() == nil && b.failures.wait(going) == nil; {
		n := b.l.batch(local)
		batch := local[:n:n]
		local = local[n:]
		g.Go(func() error {
			b.l.mu.Lock()
			batch := b.l.free(slices.Clone(batch))
			if len(batch) == 0 {
				b.l.mu.Unlock()
				return nil
			}
			f := b.l.launch(ctx, span{chunks: batch}, b.priority)
			b.l.mu.Unlock()
			return b.copied(ctx, f)
		})
	}
	return g.Wait()
}

// copies reports whether a chunk is copied in this pass.
func (b *bulk) copies(chunk int) bool {
	_, ok := slices.BinarySearch(b.local, chunk)
	return ok
}

// copied copies by one flight. What goes wrong is an error only if it is not tried again.
func (b *bulk) copied(ctx context.Context, f *flight) error {
	_, err := b.l.carry(f) // what is left is for the next pass
	if err == nil {
		b.tell()
		return nil
	}
	return b.failed(ctx, f, err)
}

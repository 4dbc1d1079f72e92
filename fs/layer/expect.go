package layer

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"

	"github.com/sluice-snapshotter/sluice/cache"
)

// Extent is some bytes of the address space.
type Extent struct{ Off, Size int64 }

// Expect begins to fetch what is missing of extents, which somebody is about to read. It does not wait. With the priority Demand that is
// as if somebody did read them, with Prefetch it gives way to those who do. What begins before the address space, or has no bytes, is passed
// over. A layer that is closed fetches nothing.
func (l *Layer) Expect(extents []Extent, priority Priority) {
	if l.begin() != nil {
		return
	}
	defer l.alive.RUnlock()
	l.expect(extents, priority)
}

// ReadExpected is ReadAt for one who is not a reader, but looks for what readers will want: it waits for what Expect would fetch,
// and nothing is read ahead of it.
func (l *Layer) ReadExpected(ctx context.Context, p []byte, off int64) (int, error) {
	if err := l.begin(); err != nil {
		return 0, err
	}
	defer l.alive.RUnlock()
	if off < 0 || off > l.store.Info().DataSize {
		return 0, io.EOF
	}
	for _, chunk := range l.expect([]Extent{{off, int64(len(p))}}, Demand) {
		select {
		case <-chunk.done:
			if chunk.err != nil {
				return 0, l.wrap("read what is expected of", chunk.err)
			}
			if !l.store.Has(chunk.chunk) { // only who reads it was given it
				return 0, l.wrap("read what is expected of", fmt.Errorf("chunk %d: %w", chunk.chunk, cache.ErrNotStored))
			}
		case <-ctx.Done():
			return 0, ctx.Err()
		case <-l.life.Done():
			return 0, l.wrap("read what is expected of", ErrClosed)
		}
	}
	n, err := l.store.ReadAt(p, off)
	if err != nil && !errors.Is(err, io.EOF) {
		err = l.wrapAt("read", off+int64(n), err)
	}
	return n, err
}

// expect returns the chunks of extents that are in flight then: all that are missing.
func (l *Layer) expect(extents []Extent, priority Priority) []*pending {
	var chunks []int
	for _, e := range extents {
		if e.Off < 0 || e.Size <= 0 {
			continue
		}
		first, end, present := l.chunksOf(e.Off, e.Size)
		for i := first; i < end && !present; i++ {
			if !l.store.Has(i) {
				chunks = append(chunks, i)
			}
		}
	}
	slices.Sort(chunks)
	chunks = slices.Compact(chunks)
	l.mu.Lock()
	defer l.mu.Unlock()
	l.bring(slices.Clone(chunks), priority)
	var waits []*pending
	for _, i := range chunks {
		p := l.pending[i]
		if p == nil {
			continue
		}
		waits = append(waits, p)
		if priority == Demand {
			p.flight.wait() // for good: it goes on, and before others, whether readers come or go
		}
	}
	return waits
}

// bring begins to fetch those of chunks, in order, that are neither there nor under way, in ranges for which nobody waits yet.
// l.mu is held.
func (l *Layer) bring(chunks []int, priority Priority) {
	for _, s := range l.spans(l.free(chunks), bounds{aheadRange, bridge}) {
		f := l.launch(l.life, s, priority)
		l.flights.Go(func() { l.fly(f) })
	}
}

package layer

import (
	"context"
	"errors"
	"io"
	"slices"
	"time"

	"github.com/sluice-snapshotter/sluice/cache"
)

// maxExpected is how many chunks are expected at a time: those of a GiB, where they have 256 KiB.
const maxExpected = 4096

// Extent is some bytes of the address space.
type Extent struct{ Off, Size int64 }

// Within returns about how many bytes of the address space come in d; 0 if nothing is known of the link yet.
func (l *Layer) Within(d time.Duration) int64 {
	info := l.store.Info()
	if info.BlobSize <= 0 {
		return 0
	}
	return int64(l.blob.Link().Rate * d.Seconds() * float64(info.DataSize) / float64(info.BlobSize))
}

// Expect begins to fetch what is missing of extents, which somebody is about to read. It does not wait. With the priority Demand that is as
// urgent as if somebody did read them, with Prefetch it gives way to those who do. What is on its way stays as urgent as it is. What begins
// before the address space, or has no bytes, is passed over, and so is what a prefetch list leaves out of the files that it has: who recorded it
// knew better. A layer that is closed fetches nothing.
func (l *Layer) Expect(extents []Extent, priority Priority) {
	if l.begin() != nil {
		return
	}
	defer l.alive.RUnlock()
	chunks := slices.DeleteFunc(l.chunks(extents), func(i int) bool {
		return !l.listed.Has(i) || l.store.Claimed(i) // nobody waits, so nothing is hashed
	})
	l.expect(chunks, priority, nil)
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
	for again := true; again; {
		var err error
		if again, err = l.awaitExpected(ctx, Extent{off, int64(len(p))}); err != nil {
			return 0, err
		}
	}
	n, held, err := l.store.ReadHeld(p, off, keptPieces(nil).has)
	if !held { // only who reads it was given it, or it was taken away again
		return 0, l.wrap("read what is expected of", cache.ErrNotStored)
	}
	if err != nil && !errors.Is(err, io.EOF) {
		err = l.wrapAt("read", off+int64(n), err)
	}
	return n, err
}

// awaitExpected waits for what Expect would fetch. again says that some of it could not be copied, and has to be fetched.
func (l *Layer) awaitExpected(ctx context.Context, e Extent) (again bool, err error) {
	r := new(read) // which needs nothing that is not stored
	waits := l.expect(l.chunks([]Extent{e}), Demand, r)
	defer l.part(r, waits)
	for _, chunk := range waits {
		select {
		case <-chunk.done:
			if errors.Is(chunk.err, cache.ErrNoCopy) {
				again = true
				continue
			}
			if chunk.err != nil {
				return false, l.wrap("read what is expected of", chunk.err)
			}
		case <-ctx.Done():
			return false, ctx.Err()
		case <-l.life.Done():
			return false, l.wrap("read what is expected of", ErrClosed)
		}
	}
	return again, nil
}

// chunks lists those of extents, in order.
func (l *Layer) chunks(extents []Extent) (chunks []int) {
	for _, e := range extents {
		if e.Off < 0 || e.Size <= 0 {
			continue
		}
		for i := l.store.Find(e.Off); i < l.store.NumChunks() && len(chunks) < maxExpected; i++ {
			if l.store.Chunk(i).DataOffset-e.Off >= e.Size {
				break
			}
			chunks = append(chunks, i)
		}
	}
	slices.Sort(chunks)
	return slices.Compact(chunks)
}

// expect begins to fetch those of chunks that are missing, and returns those that are in flight then. If r is not nil, it waits for them until
// it parts.
func (l *Layer) expect(chunks []int, priority Priority, r *read) []*pending {
	chunks = slices.DeleteFunc(chunks, l.store.Has) // without the lock: it may have to hash them
	local := l.locals(chunks)
	l.mu.Lock()
	defer l.mu.Unlock()
	l.bring(slices.Clone(chunks), local, priority)
	var waits []*pending
	for _, i := range chunks {
		p := l.pending[i]
		if p == nil {
			continue
		}
		waits = append(waits, p)
		if r != nil {
			p.flight.wait()
		}
	}
	return waits
}

// bring begins to fetch those of chunks, in order, that are neither there nor under way. Ranges of the priority Demand go before others as
// if a reader waited, whether one comes or not, but none has to put up with their errors. Those that are local are copied. l.mu is held.
func (l *Layer) bring(chunks, local []int, priority Priority) {
	here, missing := split(l.free(chunks), local)
	l.copyFor(here, priority)
	for _, s := range l.spans(missing, bounds{aheadRange, bridgeBeside(here)}) {
		f := l.launch(l.life, s, Prefetch)
		if priority == Demand {
			f.wait()
		}
		l.flights.Go(func() { l.fly(f) })
	}
}

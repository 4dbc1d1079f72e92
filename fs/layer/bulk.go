package layer

import (
	"context"
	"math"
	"runtime"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/sluice-snapshotter/sluice/cache"
	"github.com/sluice-snapshotter/sluice/fs/toc"
)

// prefetchRanges is into how many ranges at least a prefetch list is split, if they are not too small: one for each core
// if that is more. Four ranges hide a round trip of 50 ms.
const prefetchRanges = 4

// The rest of a layer without a prefetch list that comes in so many seconds is what a program that starts from it will read next, if
// anything is. Measured at 10 ms and 100 MB/s: python starts in 0.70 s with background, in 0.79 s without; with a list in 0.56 s where
// background goes on in the pauses, in 0.48 s where it does not.
const (
	momentSeconds = 0.7
	unknownMoment = 32 << 20 // bytes, as long as the link is not known
)

// bulk fetches chunks [0, end), or those of them that are listed, in order, in large ranges. What to fetch next is chosen when the scheduler admits it, so
// what came otherwise meanwhile is passed over.
type bulk struct {
	l        *Layer
	op       string // for errors
	priority Priority
	end      int
	listed   toc.Listed // which of them
	bounds   bounds     // of a range
	failures *failures  // nil: the first one ends it
	soon     int        // when chunks [0, soon) are in the store, first is called
	first    func()     // once; nil if nobody wants to know
	told     atomic.Bool

	next    int   // chunks before it were seen to
	local   []int // those that are copied, in order
	patient bool  // in lulls, as the scheduler knows them
}

// Prefetch fetches the layer's prefetch list. It returns when all of it is in the store, or with the first error. If not nil,
// first is called as soon as the list's first so many compressed bytes are there, and in any case before Prefetch returns.
func (l *Layer) Prefetch(ctx context.Context, soon int64, first func()) error {
	b := &bulk{l: l, op: "prefetch", priority: Prefetch, end: l.store.Info().PrefetchChunks, listed: l.listed}
	if first != nil {
		b.first = sync.OnceFunc(first)
		defer b.first()
		b.soon = b.within(soon)
	}
	return l.bulk(ctx, b)
}

// within returns how many chunks it takes for the first so many compressed bytes of what is to be fetched.
func (b *bulk) within(limit int64) (n int) {
	stream := int64(-1)
	for ; n < b.end; n++ {
		if c := b.l.store.Chunk(n); b.listed.Has(n) && c.BlobOffset != stream {
			if limit -= c.BlobSize; limit < 0 {
				break
			}
			stream = c.BlobOffset
		}
	}
	return n
}

// Fill fetches the whole layer, and returns nil when all of it is in the store, or when some was taken away again for want of room, after which
// only what is read is fetched. It waits while the store is crowded. It goes on through errors, which the
// Observer gets, trying again at intervals of a second growing to a minute, until ctx ends.
func (l *Layer) Fill(ctx context.Context) error {
	b := &bulk{l: l, op: "fill", priority: Background, end: l.store.NumChunks(), failures: &failures{}}
	return l.bulk(ctx, b)
}

func (l *Layer) bulk(ctx context.Context, b *bulk) error {
	if err := l.begin(); err != nil {
		return err
	}
	defer l.alive.RUnlock()
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	defer context.AfterFunc(l.life, func() { cancel(ErrClosed) })()
	return l.pursue(ctx, b)
}

// pursue is bulk for who keeps the layer from being closed, until ctx ends.
func (l *Layer) pursue(ctx context.Context, b *bulk) error {
	for b.wanted() && b.measure(ctx) {
		if err := b.pass(ctx); err != nil {
			return err
		}
		if err := b.others(ctx); err != nil {
			return err
		}
	}
	if ctx.Err() != nil {
		return l.wrap(b.op, context.Cause(ctx))
	}
	return nil
}

// wanted says whether there is a point in going on: what nobody waits for would only be taken away again, of a layer of which something was.
func (b *bulk) wanted() bool { return b.priority != Background || !b.l.store.HasShed() }

// room waits until there is some for what nobody waits for.
func (b *bulk) room(ctx context.Context) error {
	if b.priority != Background {
		return nil
	}
	return b.l.store.AwaitRoom(ctx)
}

// measure begins a pass: it finds where, chooses the size of ranges, and reports whether anything is missing. After a
// reboot this is where what was stored before is hashed.
func (b *bulk) measure(ctx context.Context) bool {
	defer b.l.store.Trim() // it may be long until there is a place for the first range
	var sum, gaps int64    // of what is wanted, and of what lies in between and would be read over
	var last cache.Chunk
	first := b.end
	from := b.l.store.Sources()
	defer b.l.endCopies(from)
	b.local = nil
	for i := range b.end {
		if !b.listed.Has(i) {
			continue
		}
		has, err := b.l.look(ctx, i, b.priority)
		if err != nil {
			return false // bulk asks ctx
		}
		if has {
			continue
		}
		first = min(first, i)
		if b.l.copies(from, i) {
			b.local = append(b.local, i)
			continue
		}
		if c := b.l.store.Chunk(i); sum == 0 || c.BlobOffset != last.BlobOffset {
			if gap := c.BlobOffset - last.BlobOffset - last.BlobSize; sum > 0 && gap <= smallPrefetchBridge {
				gaps += gap
			}
			sum += c.BlobSize
			last = c
		}
	}
	b.next = first
	b.bounds = bounds{backgroundRange, bridge}
	if b.l.listed != nil { // of what came by the list there is much to read over
		b.bounds.bridge = b.l.prefetchBridge()
	}
	b.patient = b.l.store.Info().PrefetchChunks > 0 || sum > b.l.moment()
	if b.priority == Prefetch {
		size := sum / int64(max(prefetchRanges, runtime.GOMAXPROCS(0)))
		b.bounds = bounds{min(max(size, prefetchRangeMin), prefetchRange), b.l.prefetchBridge()}
		if sum <= prefetchRangeMin && gaps <= sum {
			b.bounds.bridge = smallPrefetchBridge
		}
	}
	if len(b.local) > 0 {
		b.bounds.bridge = copyBridge
	}
	return first < b.end
}

// Foreseen tells that what a program reads of the layer will be fetched ahead of it: from now on the rest waits for the pauses of its start, the
// pull before it among them, however little it is.
func (l *Layer) Foreseen() { l.foreseen.Store(true) }

// moment returns how many bytes come so soon that fetching all of them is the best reading ahead for a program that starts.
func (l *Layer) moment() int64 {
	if link := l.blob.Link(); link.Rate > 0 {
		return int64(link.Rate * momentSeconds)
	}
	return unknownMoment
}

// pass goes once over the chunks. It has at most one range wait for its turn, so that images are treated alike however many
// layers they have, and after an error only waits for what is under way if nothing may be tried again.
func (b *bulk) pass(ctx context.Context) error {
	g, going := errgroup.WithContext(ctx)
	if len(b.local) > 0 {
		g.Go(func() error { return b.copy(ctx, going) })
	}
	for going.Err() == nil {
		if b.failures.wait(going) != nil || b.room(going) != nil || !b.wanted() {
			break
		}
		f, place, waited := b.launch(ctx, going)
		if place == nil {
			break
		}
		if f == nil {
			b.l.scheduler.ranges.leave(place)
			continue
		}
		g.Go(func() error {
			defer b.l.scheduler.ranges.leave(place)
			return b.one(ctx, f, place, waited)
		})
	}
	err := g.Wait()
	if err == nil && ctx.Err() != nil {
		return b.l.wrap(b.op, context.Cause(ctx))
	}
	return err
}

// launch waits for a place for the next range, until going ends, and launches it. There is no place if there is nothing to fetch,
// and no flight if what there was has come otherwise meanwhile.
func (b *bulk) launch(ctx, going context.Context) (_ *flight, place *entrant, waited time.Duration) {
	s := b.ahead(math.MaxInt64)
	if len(s.chunks) == 0 {
		return nil, nil, 0
	}
	start := time.Now()
	place = &entrant{priority: b.priority, bytes: b.l.memory(s), image: b.l.ref, blob: s.size, patient: b.patient || b.l.foreseen.Load()}
	if err := b.l.scheduler.ranges.enter(going, place); err != nil {
		return nil, nil, 0
	}
	f := b.pick(ctx, place.bytes)
	b.settle(place, f)
	return f, place, time.Since(start)
}

// one fetches one range. What goes wrong is an error only if it is not tried again.
func (b *bulk) one(ctx context.Context, f *flight, place *entrant, waited time.Duration) error {
	err := b.l.fetch(f, place, waited)
	if err == nil {
		b.failures.reset()
		b.tell()
		return nil
	}
	return b.failed(ctx, f, err)
}

// failed sees to a flight that has ended with an error, and returns it if it is not tried again.
func (b *bulk) failed(ctx context.Context, f *flight, err error) error {
	if ctx.Err() != nil {
		return b.l.wrap(b.op, context.Cause(ctx))
	}
	err = b.l.wrapAt(b.op, b.l.store.Chunk(f.failed()).DataOffset, err)
	if b.failures == nil {
		return err
	}
	b.failures.add()
	b.l.observer.error(err)
	return nil
}

// tell calls first when it is time.
func (b *bulk) tell() {
	if b.first == nil || b.told.Load() {
		return
	}
	for i := range b.soon {
		if b.listed.Has(i) && !b.l.store.Has(i) {
			return
		}
	}
	b.told.Store(true)
	b.first()
}

// settle tells the scheduler what is fetched in a place, where that is not what the place was asked for.
func (b *bulk) settle(place *entrant, f *flight) {
	var size int64
	if f != nil {
		size = f.size
	}
	if size != place.blob {
		b.l.scheduler.ranges.fetches(place, size)
	}
}

// pick launches the next range, if there is one that takes at most so much memory.
func (b *bulk) pick(ctx context.Context, memory int64) *flight {
	s := b.ahead(memory)
	b.l.mu.Lock()
	defer b.l.mu.Unlock()
	spans := b.l.spans(b.l.free(s.chunks), b.bounds)
	if len(spans) == 0 {
		return nil
	}
	b.next = spans[0].chunks[len(spans[0].chunks)-1] + 1
	return b.l.launch(ctx, spans[0], b.priority)
}

// ahead returns the chunks that are to be fetched next.
func (b *bulk) ahead(memory int64) (s span) {
	for b.next < b.end && (!b.listed.Has(b.next) || b.l.store.Has(b.next) || b.copies(b.next) || b.l.inFlight(b.next) != nil) {
		b.next++
	}
	for i := b.next; i < b.end; i++ {
		if !b.listed.Has(i) || b.l.store.Has(i) || b.copies(i) {
			continue
		}
		longer := s
		if !longer.add(i, b.l.store.Chunk(i), b.bounds) || b.l.memory(longer) > memory {
			break
		}
		s = longer
	}
	return s
}

// others waits for what is in flight on behalf of others.
func (b *bulk) others(ctx context.Context) error {
	for i := range b.end {
		p := b.l.inFlight(i)
		if p == nil || !b.listed.Has(i) {
			continue
		}
		select {
		case <-p.done:
		case <-ctx.Done():
			return b.l.wrap(b.op, context.Cause(ctx))
		}
	}
	return nil
}

func (l *Layer) inFlight(chunk int) *pending {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.pending[chunk]
}

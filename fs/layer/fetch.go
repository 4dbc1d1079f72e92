package layer

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"sync"
	"time"

	"github.com/sluice-snapshotter/sluice/cache"
)

const (
	refetches = 4        // of a chunk that came wrong, alone, before its readers get the error
	drain     = 64 << 10 // at most so many bytes are read for nothing so that their connection can be used again
)

// worker brings the chunks of one flight: one goroutine reads the range, and hands each job, some streams of it, to one
// of its own that decodes it.
type worker struct {
	*Layer
	f     *flight
	body  body
	slots chan struct{} // one for each job
	jobs  sync.WaitGroup

	noting sync.Mutex // guards what follows while there are jobs
	bad    []bad
	err    error // why the flight cannot go on
	unkept error // why a chunk could not be stored
	stats  Range
	busy   time.Duration // of all jobs together, storing included
	disk   time.Duration // of that
}

// bad is a chunk that came wrong.
type bad struct {
	*pending
	why error
}

// fetch brings the chunks of f, and settles all of them. It returns why one is still not in the store. f was admitted
// to the scheduler, in place, after it had waited there.
func (l *Layer) fetch(f *flight, place *entrant, waited time.Duration) error {
	defer f.cancel()
	defer l.store.Trim()
	l.scheduler.heap.begin()
	defer l.scheduler.heap.end(l.memory(f.span) + chunkOverhead*int64(len(f.chunks)))
	start := time.Now()
	w := worker{Layer: l, f: f, slots: make(chan struct{}, l.jobs(f.span)), stats: Range{Priority: f.base, Wait: waited}}
	w.body = body{f: f, ranges: l.scheduler.ranges, place: place, stats: &w.stats}
	place.held = w.holds
	err := w.run()
	if f.ctx.Err() != nil && err != nil {
		err = context.Cause(f.ctx)
	}
	l.fail(f, err)
	if f.ctx.Err() == nil { // else nobody wanted it any more
		l.mu.Lock()
		l.lastErr = err
		l.mu.Unlock()
	}
	w.stats.Err = err
	w.share(time.Since(start) - w.stats.Network - (w.stats.Wait - waited))
	l.observer.fetched(w.stats)
	l.scheduler.landed(w.stats, w.body.yielded, l.blob.Link().Requests)
	return err
}

// share divides the time that was neither spent on the network nor waiting between what the jobs have done in it.
func (w *worker) share(rest time.Duration) {
	if w.busy > 0 {
		w.stats.Disk = time.Duration(float64(rest) * float64(w.disk) / float64(w.busy))
	}
	w.stats.Decompress = rest - w.stats.Disk
}

func (w *worker) run() error {
	if err := w.bring(w.f.off, w.f.size, w.f.pending); err != nil {
		return err
	}
	if err := w.refetch(); err != nil {
		return err
	}
	return w.unkept
}

// bring fetches size bytes from off on and stores the chunks of want, which are in there in this order. What comes wrong
// is added to w.bad; the error is one that leaves the rest unfetched.
func (w *worker) bring(off, size int64, want []*pending) error {
	if err := w.body.open(w.blob, off, size); err != nil {
		return err
	}
	defer w.body.close()
	if !w.f.whole() {
		return w.bringStreams(off, want)
	}
	err := w.bringJobs(off, want)
	w.jobs.Wait()
	return cmp.Or(err, w.err)
}

// bringJobs reads the range, and starts its jobs.
func (w *worker) bringJobs(off int64, want []*pending) error {
	for len(want) > 0 {
		j := w.cut(want)
		want = want[len(j.want):]
		select {
		case w.slots <- struct{}{}:
		case <-w.f.ctx.Done():
			return context.Cause(w.f.ctx)
		}
		if err := w.load(&j, off); err != nil {
			<-w.slots
			return err
		}
		w.jobs.Go(func() {
			w.note(w.do(j))
			w.scheduler.buffers.put(j.buf)
			<-w.slots
		})
		if err := w.failed(); err != nil {
			return err
		}
	}
	w.body.drain()
	return nil
}

// load reads a job's bytes from the body of a range that begins at off.
func (w *worker) load(j *job, off int64) error {
	if err := w.body.seek(j.off - off); err != nil {
		return err
	}
	j.buf = w.scheduler.buffers.get(j.size)
	if _, err := io.ReadFull(&w.body, (*j.buf)[:j.size]); err != nil {
		w.scheduler.buffers.put(j.buf)
		return err
	}
	return nil
}

// note keeps the first error that ends the flight.
func (w *worker) note(err error) {
	w.noting.Lock()
	defer w.noting.Unlock()
	w.err = cmp.Or(w.err, err)
}

func (w *worker) failed() error {
	w.noting.Lock()
	defer w.noting.Unlock()
	return w.err
}

// reject takes note of chunks that could not be decoded, because their bytes are wrong.
func (w *worker) reject(want []*pending, err error) {
	host := w.blame()
	w.noting.Lock()
	defer w.noting.Unlock()
	for _, p := range want {
		w.bad = append(w.bad, bad{p, fmt.Errorf("chunk %d from %q: decompress: %w", p.chunk, host, err)})
	}
}

// keep stores a chunk. Where the disk fails, readers are served from memory, and what nobody waits for is given up.
func (w *worker) keep(p *pending, c cache.Chunk, data []byte) error {
	start := time.Now()
	err := w.store.Put(p.chunk, data)
	var wrong *cache.DigestError
	switch {
	case err == nil:
		w.settle(p, nil, nil)
		w.noting.Lock()
		defer w.noting.Unlock()
		w.disk += time.Since(start)
		w.stats.Chunks++
		w.stats.Bytes += c.Size
		return nil
	case errors.As(err, &wrong):
		host := w.blame()
		w.noting.Lock()
		defer w.noting.Unlock()
		w.bad = append(w.bad, bad{p, fmt.Errorf("from %q: %w", host, err)})
		return nil
	}
	w.settle(p, data, err)
	w.noting.Lock()
	w.unkept = err
	w.noting.Unlock()
	if w.release(w.f.pending...) {
		return err
	}
	return nil
}

// refetch fetches each chunk that came wrong again, alone, first those that readers wait for. When one stays wrong, the others
// are only tried for readers.
func (w *worker) refetch() error {
	var hopeless error
	slices.SortFunc(w.bad, func(a, b bad) int { return cmp.Compare(a.chunk, b.chunk) }) // jobs end in any order
	slices.SortStableFunc(w.bad, func(a, b bad) int { return cmp.Compare(w.readers(b.pending), w.readers(a.pending)) })
	for _, b := range w.bad {
		if hopeless != nil && w.release(b.pending) {
			w.settle(b.pending, nil, b.why)
			continue
		}
		c := w.store.Chunk(b.chunk)
		for try := 0; try < refetches && !b.settled(); try++ {
			w.bad = nil
			if err := w.bring(c.BlobOffset, c.BlobSize, []*pending{b.pending}); err != nil {
				return err
			}
			for _, again := range w.bad {
				b.why = again.why
			}
		}
		if !b.settled() {
			hopeless = b.why
			w.settle(b.pending, nil, b.why)
		}
	}
	return hopeless
}

// release gives chunks up unless a reader waits for one of them. Who comes from now on starts anew.
func (l *Layer) release(chunks ...*pending) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, p := range chunks {
		if len(p.readers) > 0 && !p.settled() {
			return false
		}
	}
	for _, p := range chunks {
		l.forget(p)
	}
	return true
}

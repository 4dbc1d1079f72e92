package layer

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/sluice-snapshotter/sluice/cache"
)

const (
	refetches = 2        // of a chunk that came wrong, alone, before its readers get the error
	drain     = 64 << 10 // at most so many bytes are read for nothing so that their connection can be used again
)

// worker brings the chunks of one flight. It belongs to one goroutine.
type worker struct {
	*Layer
	f      *flight
	body   body
	buf    []byte // the chunk that is being decoded
	bad    []bad
	unkept error // why a chunk could not be stored
	stats  Range
}

// bad is a chunk that came wrong.
type bad struct {
	*pending
	why error
}

// fetch brings the chunks of f, and settles all of them. It returns why one is still not in the store. f was admitted
// to the scheduler, after it had waited there.
func (l *Layer) fetch(f *flight, waited time.Duration) error {
	defer f.cancel()
	defer l.store.Trim()
	l.scheduler.heap.begin()
	defer l.scheduler.heap.end(l.memory(f.span) + chunkOverhead*int64(len(f.chunks)))
	start := time.Now()
	w := worker{Layer: l, f: f, stats: Range{Priority: f.base, Wait: waited}}
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
	w.stats.Decompress = time.Since(start) - w.stats.Network - w.stats.Disk - (w.stats.Wait - waited)
	l.observer.fetched(w.stats)
	return err
}

func (w *worker) run() error {
	buf := w.scheduler.buffers.get(w.f.largest)
	defer w.scheduler.buffers.put(buf)
	w.buf = *buf
	in := w.scheduler.buffers.readers.Get().(*bufio.Reader)
	defer w.scheduler.buffers.readers.Put(in)
	w.body = body{core: core{gate: w.scheduler.cores, f: w.f}, in: in, stats: &w.stats, ranges: w.scheduler.ranges}
	defer w.body.core.leave()

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
	for len(want) > 0 {
		c := w.store.Chunk(want[0].chunk)
		n := 1
		for n < len(want) && w.store.Chunk(want[n].chunk).BlobOffset == c.BlobOffset {
			n++
		}
		if err := w.body.seek(c.BlobOffset - off); err != nil {
			return err
		}
		if err := w.stream(c.BlobSize, want[:n]); err != nil {
			return err
		}
		want = want[n:]
	}
	w.body.drain()
	return nil
}

// stream decodes the stream that begins here, and is at most size bytes long, as far as the chunks of want.
func (w *worker) stream(size int64, want []*pending) error {
	r, err := w.format.NewReader(&section{in: w.body.in, left: size})
	if err != nil {
		return w.reject(want, err)
	}
	defer r.Close()
	pos := int64(0)
	for i, p := range want {
		if w.f.ctx.Err() != nil {
			return context.Cause(w.f.ctx)
		}
		c := w.store.Chunk(p.chunk)
		if _, err := io.CopyN(io.Discard, r, c.InnerOffset-pos); err != nil {
			return w.reject(want[i:], err)
		}
		data := w.buf[:c.Size] // and not a byte more, whatever the stream holds
		if _, err := io.ReadFull(r, data); err != nil {
			return w.reject(want[i:], err)
		}
		pos = c.InnerOffset + c.Size
		if err := w.keep(p, c, data); err != nil {
			return err
		}
	}
	return nil
}

// reject takes note of chunks that could not be decoded, because their bytes are wrong or did not come.
func (w *worker) reject(want []*pending, err error) error {
	if w.body.err != nil {
		return w.body.err
	}
	host := w.blame()
	for _, p := range want {
		w.bad = append(w.bad, bad{p, fmt.Errorf("chunk %d from %q: decompress: %w", p.chunk, host, err)})
	}
	return nil
}

// keep stores a chunk. Where the disk fails, readers are served from memory, and what nobody waits for is given up.
func (w *worker) keep(p *pending, c cache.Chunk, data []byte) error {
	start := time.Now()
	err := w.store.Put(p.chunk, data)
	w.stats.Disk += time.Since(start)
	var wrong *cache.DigestError
	switch {
	case err == nil:
		w.stats.Chunks++
		w.stats.Bytes += c.Size
		w.settle(p, nil, nil)
		return nil
	case errors.As(err, &wrong):
		host := w.blame()
		w.bad = append(w.bad, bad{p, fmt.Errorf("from %q: %w", host, err)})
		return nil
	}
	w.settle(p, data, err)
	w.unkept = err
	if w.release(w.f.pending...) {
		return err
	}
	return nil
}

// refetch fetches each chunk that came wrong again, alone. When one stays wrong, the others are only tried for readers.
func (w *worker) refetch() error {
	var hopeless error
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

package layer

import (
	"bufio"
	"context"
	"io"
	"time"

	"github.com/sluice-snapshotter/sluice/cache"
	"github.com/sluice-snapshotter/sluice/fs/toc"
)

const (
	// jobsAtOnce is how many jobs of a flight there are at most: one comes in while two are decoded.
	jobsAtOnce = 3

	// jobSize is how many compressed bytes make a job of streams that are smaller: enough that what a job costs by itself, some
	// microseconds, does not show.
	jobSize = 64 << 10

	// A stream that is not longer than wholeStream and does not decompress to more than wholeData, as far as it is wanted,
	// is read as a whole before it is decoded. Others are decoded as they come, in memory that does not grow with them.
	wholeStream = 16 << 20
	wholeData   = 64 << 20

	// decodeRoom is what most streams decompress to besides their chunks (toc.Format.Room).
	decodeRoom = 4 << 10

	// smallData is how much a stream may decompress to in any case, without being counted in the least.
	smallData = 128 << 10

	// zstdWindow is the most history that fs/toc lets a zstd frame have.
	zstdWindow = 32 << 20
)

// job is some streams of a flight that are decoded one after another.
type job struct {
	want []*pending
	off  int64 // in the blob
	size int64
	buf  *[]byte
}

// whole reports whether the span is fetched by jobs.
func (s *span) whole() bool { return s.longest <= wholeStream && s.deepest <= wholeData }

// jobMemory returns the bytes that a job of the span holds at most. Of a span that is not fetched by jobs it is what the largest could.
func (s *span) jobMemory() int64 {
	stream := min(max(min(s.size, jobSize), s.longest), wholeStream)
	return bufferSize(stream) + bufferSize(max(min(s.deepest, wholeData)+decodeRoom, smallData))
}

// jobs returns how many jobs of a flight over the span there may be at once: one of many takes a quarter of the memory limit at most.
func (l *Layer) jobs(s span) int64 {
	return min(max(l.scheduler.limit/4/s.jobMemory(), 1), jobsAtOnce, s.size/jobSize+1)
}

// memory returns the bytes that a flight over the span holds at most. No part of the span that begins with it takes more: who has been
// given so much for the span may fetch what is still missing of it.
func (l *Layer) memory(s span) int64 {
	job := s.jobMemory()
	n := min(min(jobsAtOnce, s.size/jobSize+1)*job, max(l.scheduler.limit/4, job))
	if s.whole() {
		return n
	}
	stream := bufferSize(s.largest) + rangeOverhead
	if l.format == toc.ZstdChunked {
		stream += min(s.deepest, zstdWindow) // the decoder's history
	}
	return max(n, stream)
}

// cut takes the next job from want. It ends with a stream that a reader waits for, who is not to wait for more.
func (w *worker) cut(want []*pending) job {
	first := w.store.Chunk(want[0].chunk)
	j := job{want: want, off: first.BlobOffset, size: first.BlobSize}
	awaited := w.readers(want[0]) > 0
	for i, p := range want[1:] {
		c := w.store.Chunk(p.chunk)
		if c.BlobOffset != first.BlobOffset {
			size := c.BlobOffset + c.BlobSize - j.off
			if size > jobSize || awaited {
				j.want = want[:i+1]
				break
			}
			j.size, first = size, c
		}
		awaited = awaited || w.readers(p) > 0
	}
	return j
}

// holds returns how many of the flight's bytes are in memory: those of its jobs, or all of them where streams are decoded as they come.
func (w *worker) holds() int64 {
	jobs := int64(len(w.slots))
	if jobs > 0 && !w.f.whole() {
		return w.body.place.bytes
	}
	return jobs * w.f.jobMemory()
}

// readers returns how many readers wait for a chunk.
func (w *worker) readers(p *pending) int {
	if w.f.waiters.Load() == 0 {
		return 0
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	return len(p.readers)
}

// do decodes a job when it is its turn, and stores its chunks.
func (w *worker) do(j job) error {
	turn := w.f.turn(w.ref)
	if err := w.scheduler.cores.enter(w.f.ctx, turn); err != nil {
		return err
	}
	defer w.scheduler.cores.leave(turn)
	start := time.Now()
	defer func() {
		w.noting.Lock()
		defer w.noting.Unlock()
		w.busy += time.Since(start)
	}()
	data := (*j.buf)[:j.size]
	kept := pieces{l: w.Layer}
	defer kept.flush()
	left := len(j.want)
	return w.streams(j.want, func(first cache.Chunk, want []*pending) error {
		left -= len(want)
		kept.last = left == 0
		return w.decode(data[first.BlobOffset-j.off:][:first.BlobSize], want, &kept)
	})
}

// decode decodes the stream src, once for all chunks of want, and stores them. What else is in there goes to kept.
func (w *worker) decode(src []byte, want []*pending, kept *pieces) error {
	chunks := make([]int, len(want))
	for i, p := range want {
		chunks[i] = p.chunk
	}
	n, why, err := w.unpack(src, chunks, kept, func(i int, data []byte) error {
		if w.f.ctx.Err() != nil {
			return context.Cause(w.f.ctx)
		}
		return w.keep(want[i], w.store.Chunk(chunks[i]), data)
	})
	if why != nil {
		w.reject(want[n:], why)
	}
	return err
}

// unpack decodes the stream src and gives the bytes of chunks, which follow each other in it, to take, whose error ends it. It
// returns how many it could decode, and why not more. What else the stream has goes to kept, before its chunks do.
func (l *Layer) unpack(src []byte, chunks []int, kept *pieces, take func(i int, data []byte) error) (n int, why, err error) {
	last := l.store.Chunk(chunks[len(chunks)-1])
	least := int(last.InnerOffset + last.Size)
	room := min(l.format.Room(src, least), max(least+decodeRoom, smallData)) // which is what counts as taken
	if l.skeleton {
		room = max(room, least+decodeRoom)
	}
	buf := l.scheduler.buffers.get(int64(room))
	defer l.scheduler.buffers.put(buf)
	have, why := kept.decode(*buf, src, least, chunks[len(chunks)-1])
	for i, chunk := range chunks {
		c := l.store.Chunk(chunk)
		if c.InnerOffset+c.Size > int64(have) {
			return i, why, nil
		}
		if err := take(i, (*buf)[c.InnerOffset:][:c.Size]); err != nil {
			return i, nil, err
		}
	}
	return len(chunks), nil, nil
}

// bringStreams decodes streams as they come in, one after another.
func (w *worker) bringStreams(off int64, want []*pending) error {
	w.slots <- struct{}{} // see holds
	defer func() { <-w.slots }()
	buf := w.scheduler.buffers.get(w.f.largest)
	defer w.scheduler.buffers.put(buf)
	in := w.scheduler.buffers.readers.Get().(*bufio.Reader)
	defer w.scheduler.buffers.readers.Put(in)
	defer in.Reset(nil)
	c := &core{gate: w.scheduler.cores, f: w.f, image: w.ref, body: &w.body}
	defer c.leave()
	start, network := time.Now(), w.stats.Network+w.stats.Wait
	defer func() { w.busy += time.Since(start) - (w.stats.Network + w.stats.Wait - network) }()
	return w.streams(want, func(first cache.Chunk, want []*pending) error {
		c.leave()
		if err := w.body.seek(first.BlobOffset - off); err != nil {
			return err
		}
		end := w.body.left - first.BlobSize
		in.Reset(io.LimitReader(c, first.BlobSize))
		rest, why, err := w.stream(in, want, *buf)
		switch {
		case w.body.err != nil:
			return w.body.err
		case w.f.ctx.Err() != nil:
			return context.Cause(w.f.ctx)
		case why != nil:
			w.reject(rest, why)
		}
		c.leave()
		if err == nil && w.body.left > end { // what the decoder has not asked for
			_, err = io.CopyN(io.Discard, &w.body, w.body.left-end)
		}
		return err
	})
}

// streams calls do for each stream that chunks of want are in, with its first chunk and all that are wanted of it.
func (w *worker) streams(want []*pending, do func(first cache.Chunk, want []*pending) error) error {
	for len(want) > 0 {
		first := w.store.Chunk(want[0].chunk)
		n := 1
		for n < len(want) && w.store.Chunk(want[n].chunk).BlobOffset == first.BlobOffset {
			n++
		}
		if err := do(first, want[:n]); err != nil {
			return err
		}
		want = want[n:]
	}
	return nil
}

// stream decodes the stream that begins here as far as the chunks of want, and stores them. It returns those it could not
// decode, and why; the error is one that ends the flight.
func (w *worker) stream(from io.Reader, want []*pending, buf []byte) (rest []*pending, why, err error) {
	r, err := w.format.NewReader(from)
	if err != nil {
		return want, err, nil
	}
	defer r.Close()
	pos := int64(0)
	for i, p := range want {
		if w.f.ctx.Err() != nil {
			return nil, nil, context.Cause(w.f.ctx)
		}
		c := w.store.Chunk(p.chunk)
		if _, err := io.CopyN(io.Discard, r, c.InnerOffset-pos); err != nil {
			return want[i:], err, nil
		}
		data := buf[:c.Size] // and not a byte more, whatever the stream holds
		if _, err := io.ReadFull(r, data); err != nil {
			return want[i:], err, nil
		}
		pos = c.InnerOffset + c.Size
		if err := w.keep(p, c, data); err != nil {
			return nil, nil, err
		}
	}
	return nil, nil, nil
}

// core is a body that is decoded as it comes: its flight gives its turn at decoding up while it waits for bytes.
type core struct {
	gate  *gate
	f     *flight
	image string
	body  *body
	turn  *entrant // nil outside
}

func (c *core) Read(p []byte) (int, error) {
	c.leave()
	n, err := c.body.Read(p)
	turn := c.f.turn(c.image)
	if err := c.gate.enter(c.f.ctx, turn); err != nil {
		return n, err
	}
	c.turn = turn
	return n, err
}

func (c *core) leave() {
	if c.turn != nil {
		c.gate.leave(c.turn)
		c.turn = nil
	}
}

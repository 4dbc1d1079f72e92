package layer

import (
	"bytes"
	"context"
	"errors"
	"io"
	"sync"

	"github.com/sluice-snapshotter/sluice/cache"
	"github.com/sluice-snapshotter/sluice/fs/toc"
)

// tailChunk is the largest chunk that is taken from a tail: others are fetched, within the limits that flights have.
const tailChunk = 8 << 20

// tail is the end of a layer's blob, which came along with the TOC. It is kept until its contents are in the store, and stands before
// the blob meanwhile: what lies in it is not asked for again.
type tail struct {
	Blob
	offset int64 // of the first byte, in the blob
	chunks []int // whose streams begin there, in the order of the table
	buffer int64 // bytes of the largest of them

	mu    sync.Mutex
	bytes []byte // nil once they are no longer needed, or not trusted
}

// tailBudget bounds the memory of all tails.
type tailBudget struct {
	mu   sync.Mutex
	left int64
}

func (b *tailBudget) take(n int64) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	if n > b.left {
		return false
	}
	b.left -= n
	return true
}

func (b *tailBudget) give(n int64) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.left += n
}

// see takes note of chunk i of the table if it lies in the tail.
func (t *tail) see(i int, c *toc.Chunk) {
	if c.BlobOffset >= t.offset && c.Size <= tailChunk {
		t.chunks = append(t.chunks, i)
		t.buffer = max(t.buffer, c.Size)
	}
}

// memory is what the tail and storing it take.
func (t *tail) memory() int64 { return int64(cap(t.bytes)) + bufferSize(t.buffer) }

// ReadRange gives what it has, and asks the blob for all else.
func (t *tail) ReadRange(ctx context.Context, off, size int64) (io.ReadCloser, error) {
	if p := t.find(off, size); p != nil {
		return io.NopCloser(bytes.NewReader(p)), nil
	}
	return t.Blob.ReadRange(ctx, off, size)
}

// find returns bytes of the blob, nil if not all of them are here.
func (t *tail) find(off, size int64) []byte {
	t.mu.Lock()
	defer t.mu.Unlock()
	if at := off - t.offset; at >= 0 && size > 0 && size <= int64(len(t.bytes))-at {
		return t.bytes[at:][:size]
	}
	return nil
}

// Distrust also forgets the tail, which may be what was wrong.
func (t *tail) Distrust(host string) {
	t.forget()
	t.Blob.Distrust(host)
}

func (t *tail) forget() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.bytes = nil
}

// TailStored is closed when what the read of the TOC has brought besides is in the store, or is given up: at once for a layer that
// was in the store before.
func (l *Layer) TailStored() <-chan struct{} { return l.tail }

// keepTail puts what the layer's tail holds into the store, in the background, if there is memory for it.
func (l *Layer) keepTail(t *tail) {
	if t == nil || len(t.chunks) == 0 || !l.scheduler.tails.take(t.memory()) {
		close(l.tail)
		return
	}
	memory := t.memory()
	l.blob = t
	l.scheduler.heap.begin()
	l.flights.Go(func() {
		defer close(l.tail)
		defer l.scheduler.heap.end(memory)
		defer l.scheduler.tails.give(memory)
		defer t.forget()
		l.storeTail(t)
	})
}

// storeTail stores chunks until one of them is wrong, or cannot be stored: then whoever needs the rest fetches it, and gets
// the error if it stays.
func (l *Layer) storeTail(t *tail) {
	defer l.store.Trim()
	buf := l.scheduler.buffers.get(t.buffer)
	defer l.scheduler.buffers.put(buf)
	for rest := t.chunks; len(rest) > 0; {
		n := 1
		for n < len(rest) && follows(l.store.Chunk(rest[n-1]), l.store.Chunk(rest[n])) {
			n++
		}
		if err := l.scheduler.leisurely(l.life, func() error { return l.storeStream(t, rest[:n], *buf) }); err != nil {
			return
		}
		rest = rest[n:]
	}
}

// leisurely calls f when no TOC is waiting to be laid out, which a pull waits for, and background may decode.
func (s *Scheduler) leisurely(ctx context.Context, f func() error) error {
	if err := s.layouts.enter(ctx, Background, 0); err != nil {
		return err
	}
	defer s.layouts.leave(Background, 0)
	if err := s.cores.enter(ctx, Background, 0); err != nil {
		return err
	}
	defer s.cores.leave(Background, 0)
	return f()
}

// follows reports whether b comes after a in the same stream.
func follows(a, b cache.Chunk) bool {
	return a.BlobOffset == b.BlobOffset && a.InnerOffset+a.Size <= b.InnerOffset
}

var errForgotten = errors.New("the tail is not trusted")

// storeStream stores chunks that follow each other in one stream.
func (l *Layer) storeStream(t *tail, chunks []int, buf []byte) error {
	c := l.store.Chunk(chunks[0])
	p := t.find(c.BlobOffset, c.BlobSize)
	if p == nil {
		return errForgotten
	}
	r, err := l.format.NewReader(bytes.NewReader(p))
	if err != nil {
		return err
	}
	defer r.Close()
	for pos := int64(0); len(chunks) > 0; chunks = chunks[1:] {
		c = l.store.Chunk(chunks[0])
		if l.store.Has(chunks[0]) {
			continue
		}
		if _, err := io.CopyN(io.Discard, r, c.InnerOffset-pos); err != nil {
			return err
		}
		if err := l.storeChunk(r, chunks[0], buf[:c.Size]); err != nil {
			return err
		}
		pos = c.InnerOffset + c.Size
	}
	return nil
}

// storeChunk reads and stores a chunk.
func (l *Layer) storeChunk(r io.Reader, i int, p []byte) error {
	if _, err := io.ReadFull(r, p); err != nil {
		return err
	}
	err := l.store.Put(i, p)
	if wrong := (*cache.DigestError)(nil); errors.As(err, &wrong) {
		l.blame()
	}
	return err
}

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

// tailChunk is how far into a decompressed stream a chunk may reach to be taken from a tail: others are fetched, within the limits
// that flights have.
const tailChunk = 8 << 20

// tail is the end of a layer's blob, which came along with the TOC. It is kept until its contents are in the store, and stands before
// the blob meanwhile: what lies in it is not asked for again.
type tail struct {
	Blob
	offset int64 // of the first byte, in the blob
	chunks []int // whose streams begin there, in the order of the table
	buffer int64 // bytes that the longest of them is decompressed to

	mu    sync.Mutex
	bytes []byte // nil once they are no longer needed, or not trusted
}

// budget bounds the memory of all tails, or of all heads.
type budget struct {
	mu   sync.Mutex
	left int64
}

func (b *budget) take(n int64) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	if n > b.left {
		return false
	}
	b.left -= n
	return true
}

func (b *budget) give(n int64) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.left += n
}

// see takes note of chunk i of the table if it lies in the tail.
func (t *tail) see(i int, c *toc.Chunk) {
	if end := c.InnerOffset + c.Size; c.BlobOffset >= t.offset && end <= tailChunk {
		t.chunks = append(t.chunks, i)
		t.buffer = max(t.buffer, end+decodeRoom)
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

// fits reports whether there is something in the tail, and memory for it, which it takes. t may be nil.
func (t *tail) fits(s *Scheduler) bool {
	return t != nil && len(t.chunks) > 0 && s.tails.take(t.memory())
}

// keepTail has what the layer's tail holds stored.
func (l *Layer) keepTail(t *tail) {
	memory := t.memory()
	l.scheduler.heap.begin()
	l.storing.Go(func() {
		defer l.scheduler.heap.end(memory)
		defer l.scheduler.tails.give(memory)
		defer t.forget()
		l.storeTail(t)
		l.followUp(t)
	})
}

// storeTail stores chunks until one of them is wrong, or cannot be stored: then whoever needs the rest fetches it, and gets
// the error if it stays.
func (l *Layer) storeTail(t *tail) {
	defer l.store.Trim()
	for rest := t.chunks; len(rest) > 0; {
		n := 1
		for n < len(rest) && follows(l.store.Chunk(rest[n-1]), l.store.Chunk(rest[n])) {
			n++
		}
		if l.leisurely(func() error { return l.storeStream(t, rest[:n]) }) != nil {
			return
		}
		rest = rest[n:]
	}
}

// followUp waits for those who found a chunk missing before it was stored, and would ask the registry for it.
func (l *Layer) followUp(t *tail) {
	for _, i := range t.chunks {
		p := l.inFlight(i)
		if p == nil {
			continue
		}
		select {
		case <-p.done:
		case <-l.life.Done():
			return
		}
	}
}

// leisurely calls f when no TOC is waiting to be laid out, which a pull waits for, and background may decode.
func (l *Layer) leisurely(f func() error) error {
	for _, g := range []*gate{l.scheduler.cores, l.scheduler.layouts} { // in this order: nobody inside of layouts waits for a core
		turn := &entrant{priority: Background, image: l.ref}
		if err := g.enter(l.life, turn); err != nil {
			return err
		}
		defer g.leave(turn)
	}
	return f()
}

// follows reports whether b comes after a in the same stream.
func follows(a, b cache.Chunk) bool {
	return a.BlobOffset == b.BlobOffset && a.InnerOffset+a.Size <= b.InnerOffset
}

var errForgotten = errors.New("the tail is not trusted")

// storeStream stores chunks that follow each other in one stream.
func (l *Layer) storeStream(t *tail, chunks []int) error {
	c := l.store.Chunk(chunks[0])
	src := t.find(c.BlobOffset, c.BlobSize)
	if src == nil {
		return errForgotten
	}
	kept := pieces{l: l, last: true}
	_, why, err := l.unpack(src, chunks, &kept, func(i int, data []byte) error {
		if l.store.Has(chunks[i]) {
			return nil
		}
		err := l.store.Put(chunks[i], data)
		if wrong := (*cache.DigestError)(nil); errors.As(err, &wrong) {
			l.blame()
		}
		return err
	})
	return errors.Join(why, err)
}

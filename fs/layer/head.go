package layer

import (
	"context"
	"io"
	"sync"

	"github.com/sluice-snapshotter/sluice/fs/toc"
)

const (
	// headMemory bounds the memory of all heads that there are at one moment, and with it how long the TOCs that come at the same time can be
	// delayed by them.
	headMemory = 4 << 20

	// headStep is how many bytes of a head are read at a time.
	headStep = 64 << 10
)

// head is the beginning of a layer's blob, with the prefetch list, which is asked for at the same time as the TOC that says what lies there.
// It is kept until the list is in the store, and stands before the blob meanwhile. It has no place in Scheduler.ranges: who waits for it may
// have one.
type head struct {
	Blob
	size      int64
	scheduler *Scheduler
	ctx       context.Context
	cancel    context.CancelFunc
	once      sync.Once
	ended     chan struct{} // closed when nothing is read any more

	mu      sync.Mutex
	bytes   []byte // size of them; nil once they are no longer needed, or not trusted
	come    int64  // how many there are
	over    bool   // no more come
	more    chan struct{}
	waiting map[*headBody]struct{}
}

// newHead is a layer's head, which start asks for, or nil: there is none, or no memory for it. The caller stops it, or gives it to keepHead. What
// ends ctx does not end it.
func newHead(ctx context.Context, o Options) *head {
	size := o.PrefetchSize
	if size <= 0 || size > o.BlobSize || o.Whole || o.BlobSize <= toc.MinTailSize || !o.Scheduler.heads.take(size) {
		return nil
	}
	h := &head{
		Blob: o.Blob, size: size, scheduler: o.Scheduler, ended: make(chan struct{}),
		more: make(chan struct{}), waiting: make(map[*headBody]struct{}),
	}
	ctx, h.cancel = context.WithCancel(context.WithoutCancel(ctx))
	h.ctx = context.WithValue(withPriority(ctx, Prefetch), urgencyKey{}, h)
	h.scheduler.heap.begin()
	return h
}

// start asks for the head, once. h may be nil.
func (h *head) start() {
	if h == nil {
		return
	}
	h.once.Do(func() {
		h.bytes = make([]byte, h.size)
		go h.fetch(h.Blob, h.bytes)
	})
}

// fetch reads the head until it is there, its blob fails, or h.ctx ends.
func (h *head) fetch(blob Blob, bytes []byte) {
	defer close(h.ended)
	defer h.end()
	body, err := blob.ReadRange(h.ctx, 0, h.size)
	if err != nil {
		return
	}
	defer body.Close()
	for at := int64(0); at < h.size && err == nil; {
		var n int
		n, err = io.ReadAtLeast(body, bytes[at:min(at+headStep, h.size)], 1)
		at += int64(n)
		h.reach(at)
	}
}

// reach says that so many bytes are there.
func (h *head) reach(come int64) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.come = come
	h.changed()
}

// end says that no more bytes come.
func (h *head) end() {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.over = true
	h.changed()
}

// changed wakes who waits. h.mu is held.
func (h *head) changed() {
	close(h.more)
	h.more = make(chan struct{})
}

// at returns what there is of the head in [off, end). Where that is nothing, more is closed when it may have changed; it is nil if it will not.
func (h *head) at(off, end int64) (p []byte, more <-chan struct{}) {
	h.mu.Lock()
	defer h.mu.Unlock()
	switch {
	case h.bytes == nil:
		return nil, nil
	case off < h.come:
		return h.bytes[off:min(end, h.come)], nil
	case h.over:
		return nil, nil
	}
	return nil, h.more
}

// ReadRange gives what lies in the head as it comes, and asks the blob for all else. A reader's own range waits for nothing here: the head may
// be slower than a request for what the reader needs.
func (h *head) ReadRange(ctx context.Context, off, size int64) (io.ReadCloser, error) {
	if off < 0 || size <= 0 || size > h.size-off {
		return h.Blob.ReadRange(ctx, off, size)
	}
	if p, _ := h.at(off, off+size); PriorityFrom(ctx) == Demand && int64(len(p)) < size {
		return h.Blob.ReadRange(ctx, off, size)
	}
	b := &headBody{head: h, ctx: ctx, off: off, end: off + size}
	if p, err := b.wait(); p == nil {
		return b.rest, err
	}
	return b, nil
}

// Distrust also forgets the head, which may be what was wrong.
func (h *head) Distrust(host string) {
	h.forget()
	h.Blob.Distrust(host)
}

// forget has readers ask the blob, and ends the request, which nobody needs then. h may be nil.
func (h *head) forget() {
	if h == nil {
		return
	}
	h.cancel()
	h.mu.Lock()
	defer h.mu.Unlock()
	h.bytes = nil
	h.changed()
}

// stop ends the request, waits for that, and gives the memory back. h may be nil.
func (h *head) stop() {
	if h == nil {
		return
	}
	h.forget()
	h.once.Do(func() { close(h.ended) })
	<-h.ended
	h.scheduler.heads.give(h.size)
	h.scheduler.heap.end(h.size)
}

// urgent says whether a reader waits for the head.
func (h *head) urgent() bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	for b := range h.waiting {
		if UrgencyFrom(b.ctx) == Demand {
			return true
		}
	}
	return false
}

// headBody is a range in a head. What does not come that way is asked of the blob.
type headBody struct {
	head     *head
	ctx      context.Context
	off, end int64
	rest     io.ReadCloser // of the blob; nil while it has not been asked
}

// wait returns bytes once there are some, and none if the blob has been asked for the rest, or could not be.
func (b *headBody) wait() ([]byte, error) {
	p, more := b.head.at(b.off, b.end)
	for p == nil && more != nil {
		b.head.await(b, true)
		select {
		case <-more:
		case <-b.ctx.Done():
		}
		b.head.await(b, false)
		if b.ctx.Err() != nil {
			return nil, context.Cause(b.ctx)
		}
		p, more = b.head.at(b.off, b.end)
	}
	if p != nil {
		return p, nil
	}
	var err error
	b.rest, err = b.head.Blob.ReadRange(b.ctx, b.off, b.end-b.off)
	return nil, err
}

// await says whether b waits.
func (h *head) await(b *headBody, waits bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if waits {
		h.waiting[b] = struct{}{}
	} else {
		delete(h.waiting, b)
	}
}

// here says whether there are bytes that need not be waited for.
func (b *headBody) here() bool {
	p, _ := b.head.at(b.off, b.end)
	return b.rest == nil && p != nil
}

func (b *headBody) Read(p []byte) (int, error) {
	if b.rest == nil && b.off == b.end {
		return 0, io.EOF
	}
	if b.rest == nil {
		have, err := b.wait()
		if err != nil {
			return 0, err
		}
		if have != nil {
			n := copy(p, have)
			b.off += int64(n)
			return n, nil
		}
	}
	return b.rest.Read(p)
}

func (b *headBody) Close() error {
	if b.rest != nil {
		return b.rest.Close()
	}
	return nil
}

// keepHead has the layer's head stored.
func (l *Layer) keepHead(h *head) {
	l.storing.Go(func() {
		defer h.stop()
		l.storeHead(h)
	})
}

// storeHead stores what of the prefetch list lies in the head.
func (l *Layer) storeHead(h *head) {
	b := &bulk{l: l, op: "prefetch", priority: Prefetch, listed: l.listed}
	for b.end < l.store.Info().PrefetchChunks {
		if c := l.store.Chunk(b.end); c.BlobOffset+c.BlobSize > h.size {
			break
		}
		b.end++
	}
	// Who mounts the layer prefetches what is missing then, and is told of errors.
	_ = l.pursue(l.life, b)
}

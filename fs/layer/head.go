package layer

import (
	"context"
	"io"
	"sync"
)

const (
	// headMemory bounds the memory of all heads, and so what they put on the link before the TOCs that are fetched meanwhile.
	headMemory = 4 << 20

	// headStep is how many bytes of a head are read at a time.
	headStep = 64 << 10
)

// head is the beginning of a layer's blob, with the prefetch list, which is asked for at the same time as the TOC that says what lies there.
// It is kept until the list is in the store, and stands before the blob meanwhile.
type head struct {
	Blob
	size      int64
	scheduler *Scheduler
	cancel    context.CancelFunc
	ended     chan struct{} // closed when nothing is read any more

	mu    sync.Mutex
	bytes []byte        // those that have come; nil once they are no longer needed, or not trusted
	more  chan struct{} // closed when there are more of them, or nothing more comes
	over  bool          // nothing more comes
}

// newHead asks for a layer's head, or returns nil: there is none, or no memory for it. The caller stops it, or gives it to keepHead. What ends ctx
// does not end it.
func newHead(ctx context.Context, o Options) *head {
	size := o.PrefetchSize
	if size <= 0 || size > min(headMemory, o.BlobSize) || o.Whole || !o.Scheduler.heads.take(size) {
		return nil
	}
	ctx, cancel := context.WithCancel(context.WithoutCancel(ctx))
	h := &head{
		Blob: o.Blob, size: size, scheduler: o.Scheduler, cancel: cancel, ended: make(chan struct{}),
		bytes: make([]byte, 0, size), more: make(chan struct{}),
	}
	h.scheduler.heap.begin()
	// A reader who finds that its chunk is on its way here waits for this request.
	go h.fetch(withPriority(ctx, Demand), o.Blob)
	return h
}

// fetch reads the head until it is there, its blob fails, or ctx ends.
func (h *head) fetch(ctx context.Context, blob Blob) {
	defer close(h.ended)
	defer h.grow(nil, true)
	body, err := blob.ReadRange(ctx, 0, h.size)
	if err != nil {
		return
	}
	defer body.Close()
	p := make([]byte, min(headStep, h.size))
	for left := h.size; left > 0; {
		n, err := io.ReadFull(body, p[:min(headStep, left)])
		if err != nil || !h.grow(p[:n], false) {
			return
		}
		left -= int64(n)
	}
}

// grow adds bytes, and reports false if nobody wants them.
func (h *head) grow(p []byte, over bool) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	close(h.more)
	h.more = make(chan struct{})
	h.over = h.over || over
	if h.bytes == nil {
		return false
	}
	h.bytes = append(h.bytes, p...)
	return true
}

// at returns what there is of the head from off on. Where that is nothing, more is closed when it may have changed, and nil if it will not.
func (h *head) at(off int64) (p []byte, more <-chan struct{}) {
	h.mu.Lock()
	defer h.mu.Unlock()
	switch {
	case off < int64(len(h.bytes)):
		return h.bytes[off:], nil
	case h.bytes == nil || h.over:
		return nil, nil
	}
	return nil, h.more
}

// ReadRange gives what lies in the head as it comes, and asks the blob for all else.
func (h *head) ReadRange(ctx context.Context, off, size int64) (io.ReadCloser, error) {
	if off < 0 || size <= 0 || size > h.size-off {
		return h.Blob.ReadRange(ctx, off, size)
	}
	b := &headBody{head: h, ctx: ctx, off: off, end: off + size}
	if p, err := b.wait(); p == nil { // the request may fail, and readers are told so by ReadRange
		return b.rest, err
	}
	return b, nil
}

// Distrust also forgets the head, which may be what was wrong.
func (h *head) Distrust(host string) {
	h.forget()
	h.Blob.Distrust(host)
}

func (h *head) forget() {
	h.grow(nil, true)
	h.mu.Lock()
	defer h.mu.Unlock()
	h.bytes = nil
}

// stop ends the request, waits for that, and gives the memory back. h may be nil.
func (h *head) stop() {
	if h == nil {
		return
	}
	h.cancel()
	<-h.ended
	h.forget()
	h.scheduler.heads.give(h.size)
	h.scheduler.heap.end(h.size)
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
	for {
		p, more := b.head.at(b.off)
		if p != nil {
			return p[:min(int64(len(p)), b.end-b.off)], nil
		}
		if more == nil {
			var err error
			b.rest, err = b.head.Blob.ReadRange(b.ctx, b.off, b.end-b.off)
			return nil, err
		}
		select {
		case <-more:
		case <-b.ctx.Done():
			return nil, context.Cause(b.ctx)
		}
	}
}

func (b *headBody) Read(p []byte) (int, error) {
	if b.rest != nil {
		return b.rest.Read(p)
	}
	if b.off == b.end {
		return 0, io.EOF
	}
	have, err := b.wait()
	switch {
	case err != nil:
		return 0, err
	case have == nil:
		return b.rest.Read(p)
	}
	n := copy(p, have)
	b.off += int64(n)
	return n, nil
}

func (b *headBody) Close() error {
	if b.rest != nil {
		return b.rest.Close()
	}
	return nil
}

// keepHead has the layer's head stored.
func (l *Layer) keepHead(h *head) {
	if h == nil {
		return
	}
	h.Blob = l.blob // what lies in the tail too is not asked for
	l.blob = h
	l.storing.Go(func() {
		defer h.stop()
		defer context.AfterFunc(l.life, h.cancel)()
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

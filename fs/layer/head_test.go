package layer

import (
	"bytes"
	"context"
	"errors"
	"io"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/sluice-snapshotter/sluice/fs/toc"
)

// listedSize is how many of the blob's first bytes have all of its prefetch list.
func (f fixture) listedSize(t *testing.T) int64 {
	t.Helper()
	h := open(t, f, nil)
	c := h.Store().Chunk(h.Store().Info().PrefetchChunks - 1)
	return c.BlobOffset + c.BlobSize
}

type serve = func(ctx context.Context, n int, q request) (io.ReadCloser, error)

// headOptions are those of f with its head, whose requests how answers, if it is not nil.
func headOptions(t *testing.T, f fixture, how func(b *fake) serve) Options {
	t.Helper()
	o := f.options(t, newStore(t))
	o.PrefetchSize = f.listedSize(t)
	b := o.Blob.(*fake)
	if how != nil {
		answer := how(b)
		b.answer(func(ctx context.Context, n int, q request) (io.ReadCloser, error) {
			if q.off > 0 {
				return b.plain(q), nil
			}
			return answer(ctx, n, q)
		})
	}
	t.Cleanup(func() {
		if left := o.Scheduler.heads.left; left != headMemory {
			t.Errorf("%d bytes of the budget were not given back", headMemory-left)
		}
	})
	return o
}

// openHead opens f with headOptions, and does not forget the requests.
func openHead(t *testing.T, f fixture, how func(b *fake) serve) *harness {
	t.Helper()
	return openWith(t, f, headOptions(t, f, how))
}

// asked counts the requests from an offset on.
func (b *fake) asked(off int64) (n int) {
	for _, q := range b.seen() {
		if q.off == off {
			n++
		}
	}
	return n
}

// flying waits until a chunk is on its way to the store, or there.
func (h *harness) flying(chunk int) {
	for h.inFlight(chunk) == nil && !h.Store().Has(chunk) && h.t.Context().Err() == nil {
		runtime.Gosched()
	}
}

// waited waits until a reader waits for a chunk that is on its way.
func (h *harness) waited(chunk int) {
	for h.t.Context().Err() == nil {
		h.mu.Lock()
		p := h.pending[chunk]
		waits := p != nil && len(p.readers) > 0
		h.mu.Unlock()
		if waits {
			return
		}
		runtime.Gosched()
	}
}

// mustHaveList says whether the prefetch list is in the store.
func (h *harness) mustHaveList() {
	h.t.Helper()
	for i := range h.Store().Info().PrefetchChunks {
		if !h.Store().Has(i) {
			h.t.Errorf("chunk %d is missing", i)
		}
	}
}

// TestHead: what came along with the TOC is in the store without being asked for again, and right.
func TestHead(t *testing.T) {
	for name, f := range formats {
		t.Run(name, func(t *testing.T) {
			h := openHead(t, f(), nil)
			<-h.ExtrasStored()
			h.mustHaveList()
			if err := h.Prefetch(t.Context(), 1, nil); err != nil {
				t.Error(err)
			}
			off, _ := h.place(hotFile)
			h.mustCheck(off, len(h.fix.files[hotFile]))
			if seen := h.blob.seen(); len(seen) != 2 || h.blob.asked(0) != 1 {
				t.Errorf("requests: %+v", seen)
			}
			if err := h.Fill(t.Context()); err != nil {
				t.Error(err)
			}
			h.mustCheck(0, len(h.want))
		})
	}
}

// TestHeadWithTOC: neither waits for the other.
func TestHeadWithTOC(t *testing.T) {
	o := headOptions(t, testLayer(), nil)
	b := o.Blob.(*fake)
	asked := make(chan struct{})
	b.answer(func(ctx context.Context, _ int, q request) (io.ReadCloser, error) {
		if q.off == 0 {
			close(asked)
			return b.plain(q), nil
		}
		select { // the TOC comes once the head is asked for
		case <-asked:
			return b.plain(q), nil
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		}
	})
	l, err := Open(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	if err := l.Close(); err != nil {
		t.Error(err)
	}
}

// TestHeadJoined: who prefetches the list, or reads from it, while the head comes, waits for that and asks for nothing.
func TestHeadJoined(t *testing.T) {
	ready := make(chan struct{})
	h := openHead(t, testLayer(), func(b *fake) serve {
		return func(ctx context.Context, _ int, q request) (io.ReadCloser, error) {
			half := q.size / 2
			return b.body(io.MultiReader(bytes.NewReader(b.data[:half]), until{ctx, ready, bytes.NewReader(b.data[half:q.size])})), nil
		}
	})
	off, first := h.place(hotFile)
	h.flying(first)
	h.mustCheck(off, 1) // which is in the first half
	end := len(h.fix.files[hotFile]) - 1
	last := first + end/testChunk
	h.flying(last)
	ended := make(chan error, 2)
	go func() { ended <- h.Prefetch(t.Context(), 1, nil) }()
	go func() { ended <- h.check(t.Context(), off+int64(end), 1) }()
	h.waited(last)
	if !h.blob.urgent() {
		t.Error("the head's request does not know that a reader waits for it")
	}
	select {
	case err := <-ended:
		t.Fatalf("one did not wait: %v", err)
	default:
	}
	close(ready)
	for range cap(ended) {
		if err := <-ended; err != nil {
			t.Error(err)
		}
	}
	if seen := h.blob.seen(); len(seen) != 2 {
		t.Errorf("requests: %+v", seen)
	}
}

// TestHeadIsNotWaitedFor by those who read something else that lies there.
func TestHeadIsNotWaitedFor(t *testing.T) {
	o := headOptions(t, testLayer(), func(b *fake) serve {
		return func(ctx context.Context, _ int, q request) (io.ReadCloser, error) {
			if b.asked(0) > 1 {
				return b.plain(q), nil
			}
			return b.stalled(ctx, q, nil), nil
		}
	})
	list := o.PrefetchSize
	o.PrefetchSize = o.BlobSize * 3 / 4
	h := openWith(t, testLayer(), o)
	chunk := h.Store().Info().PrefetchChunks + 1
	if c := h.Store().Chunk(chunk); c.BlobOffset < list || c.BlobOffset+c.BlobSize > o.PrefetchSize {
		t.Fatalf("chunk %d, at %d, is not between the list and the head's end", chunk, c.BlobOffset)
	}
	h.mustCheck(h.Store().Chunk(chunk).DataOffset, 1)
	h.close()
}

// TestHeadDoesNotYield: what is there is stored at once, whoever wants the link.
func TestHeadDoesNotYield(t *testing.T) {
	var waited atomic.Int64
	o := headOptions(t, testLayer(), nil)
	o.Observer.Fetched = func(r Range) { waited.Add(int64(r.Wait)) }
	ready := make(chan struct{})
	b := o.Blob.(*fake)
	b.answer(func(ctx context.Context, _ int, q request) (io.ReadCloser, error) { // the TOC comes last
		if q.off == 0 {
			defer close(ready)
			return b.plain(q), nil
		}
		return b.stalled(ctx, q, ready), nil
	})
	ranges, reader := o.Scheduler.ranges, &entrant{priority: Demand}
	if err := ranges.enter(t.Context(), reader); err != nil {
		t.Fatal(err)
	}
	defer ranges.leave(reader)
	l, err := Open(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	<-l.ExtrasStored()
	if err := l.Close(); err != nil {
		t.Error(err)
	}
	if got := time.Duration(waited.Load()); got > backgroundTrickle/2 {
		t.Errorf("it waited %v", got)
	}
}

// TestHeadAndTail: the one may be wrong while the other is stored.
func TestHeadAndTail(t *testing.T) {
	o := headOptions(t, storedLayer(), nil)
	o.Scheduler = NewScheduler(SchedulerOptions{})
	var tails atomic.Int32
	b := o.Blob.(*fake)
	b.answer(func(_ context.Context, _ int, q request) (io.ReadCloser, error) {
		p := bytes.Clone(b.data[q.off:q.end()])
		if q.off > 0 && tails.Add(1) == 1 {
			for i := 0; i < len(p)/3; i += 100 {
				p[i] ^= 0xff
			}
		}
		return b.body(bytes.NewReader(p)), nil
	})
	h := openWith(t, storedLayer(), o)
	<-h.ExtrasStored()
	h.mustHaveList()
	h.blob.answer(nil)
	h.mustCheck(0, len(h.want))
}

// TestHeadFromElsewhere: the host that is distrusted for its TOC is the one that sent it, whoever has answered since.
func TestHeadFromElsewhere(t *testing.T) {
	var tocs atomic.Int32
	reading, answered := make(chan struct{}), make(chan struct{})
	o := headOptions(t, testLayer(), nil)
	b := o.Blob.(*fake)
	b.answer(func(ctx context.Context, _ int, q request) (io.ReadCloser, error) {
		switch {
		case q.off == 0 && b.asked(0) == 1:
			<-reading
			b.from("b")
			close(answered)
		case q.off > 0 && tocs.Add(1) == 1:
			b.from("a")
			wrong := bytes.Clone(b.data[q.off:q.end()])
			clear(wrong[len(wrong)/2:])
			rest := until{ctx, answered, bytes.NewReader(wrong)}
			first := sync.OnceFunc(func() { close(reading) })
			return b.body(readerFunc(func(p []byte) (int, error) {
				first()
				return rest.Read(p)
			})), nil
		}
		return b.plain(q), nil
	})
	h := openWith(t, testLayer(), o)
	if len(b.distrusted) == 0 || b.distrusted[0] != "a" {
		t.Errorf("distrusted: %v", b.distrusted)
	}
	<-h.ExtrasStored()
	h.mustHaveList()
}

type readerFunc func(p []byte) (int, error)

func (f readerFunc) Read(p []byte) (int, error) { return f(p) }

// TestHeadFails: a head that does not come, not all of it, or damaged costs another request, and nothing else.
func TestHeadFails(t *testing.T) {
	for name, how := range map[string]func(b *fake) serve{
		"refused": func(b *fake) serve {
			return func(_ context.Context, _ int, q request) (io.ReadCloser, error) {
				if b.asked(0) > 1 {
					return b.plain(q), nil
				}
				return nil, errReset
			}
		},
		"cut off": func(b *fake) serve {
			return func(_ context.Context, _ int, q request) (io.ReadCloser, error) {
				if b.asked(0) > 1 {
					return b.plain(q), nil
				}
				return b.body(broken(b.data[:q.size/2], errReset)), nil
			}
		},
		"damaged": func(b *fake) serve {
			return func(_ context.Context, _ int, q request) (io.ReadCloser, error) {
				p := bytes.Clone(b.data[:q.end()])
				if b.asked(0) == 1 {
					p[len(p)/2] ^= 0xff
				}
				return b.body(bytes.NewReader(p)), nil
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			h := openHead(t, testLayer(), how)
			<-h.ExtrasStored()
			h.mustHaveList()
			h.mustCheck(0, len(h.want))
		})
	}
}

// TestHeadIsGivenUpByClose: though its registry sends nothing, and a reader waits.
func TestHeadIsGivenUpByClose(t *testing.T) {
	h := openHead(t, testLayer(), func(b *fake) serve {
		return func(ctx context.Context, _ int, q request) (io.ReadCloser, error) { return b.stalled(ctx, q, nil), nil }
	})
	off, chunk := h.place(hotFile)
	h.flying(chunk)
	ended := make(chan error)
	go func() { ended <- h.check(t.Context(), off, 1) }()
	h.waited(chunk)
	h.close()
	if err := <-ended; !errors.Is(err, ErrClosed) {
		t.Errorf("the reader: %v", err)
	}
	<-h.ExtrasStored()
}

// TestHeadWithoutTOC: a layer that cannot be opened leaves no head behind.
func TestHeadWithoutTOC(t *testing.T) {
	o := headOptions(t, testLayer(), func(b *fake) serve {
		return func(ctx context.Context, _ int, q request) (io.ReadCloser, error) { return b.stalled(ctx, q, nil), nil }
	})
	o.TOCDigest = digest.FromString("another")
	if _, err := Open(t.Context(), o); err == nil {
		t.Error("no error")
	}
	if n := o.Blob.(*fake).open; n != 0 {
		t.Errorf("%d bodies are open", n)
	}
}

// TestNoHead: none is asked for where it cannot be, or would be too much.
func TestNoHead(t *testing.T) {
	f := testLayer()
	for name, change := range map[string]func(*Options){
		"not known":           func(o *Options) { o.PrefetchSize = 0 },
		"negative":            func(o *Options) { o.PrefetchSize = -1 },
		"longer than a blob":  func(o *Options) { o.PrefetchSize = o.BlobSize + 1 },
		"no memory":           func(o *Options) { o.Scheduler.heads.left = o.PrefetchSize - 1 },
		"more than any takes": func(o *Options) { o.PrefetchSize, o.BlobSize = headMemory+1, headMemory+1 },
		"comes with the TOC":  func(o *Options) { o.Whole = true },
		"as any small blob":   func(o *Options) { o.BlobSize, o.PrefetchSize = toc.MinTailSize, 1000 },
	} {
		t.Run(name, func(t *testing.T) {
			o := headOptions(t, f, nil)
			change(&o)
			if h := newHead(t.Context(), o); h != nil {
				t.Error("one was asked for")
				h.stop()
			}
			o.Scheduler.heads.left = headMemory
		})
	}
}

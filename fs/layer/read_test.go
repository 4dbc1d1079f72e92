package layer

import (
	"bytes"
	"context"
	"errors"
	"io"
	"math/rand/v2"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

func TestReadAll(t *testing.T) {
	for name, fix := range formats {
		t.Run(name, func(t *testing.T) {
			h := open(t, fix(), nil)
			h.mustCheck(0, len(h.want))
			if !h.Store().Complete() {
				t.Error("a chunk is missing after everything was read")
			}
			noOverlap(t, h.blob.seen())
			h.blob.answer(refuse)
			h.mustCheck(0, len(h.want))
			h.mustCheck(4097, 70<<10)
		})
	}
}

func refuse(context.Context, int, request) (io.ReadCloser, error) {
	return nil, errors.New("connection refused")
}

// noOverlap checks that no byte was asked for twice.
func noOverlap(t *testing.T, seen []request) {
	t.Helper()
	for i, a := range seen {
		for _, b := range seen[:i] {
			if a.off < b.end() && b.off < a.end() {
				t.Errorf("ranges %+v and %+v overlap", b, a)
			}
		}
	}
}

func TestReadAtEdges(t *testing.T) {
	h := open(t, testLayer(), nil)
	size := int64(len(h.want))
	for _, tt := range []struct {
		name string
		off  int64
		n    int
		want int
		err  error
	}{
		{"nothing", 0, 0, 0, nil},
		{"over the end", size - 10, 20, 10, io.EOF},
		{"at the end", size, 1, 0, io.EOF},
		{"far behind the end", 1 << 60, 1, 0, io.EOF},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if n, err := h.ReadAt(t.Context(), make([]byte, tt.n), tt.off); n != tt.want || !errors.Is(err, tt.err) {
				t.Errorf("got %d, %v, want %d, %v", n, err, tt.want, tt.err)
			}
		})
	}
	if _, err := h.ReadAt(t.Context(), make([]byte, 1), -1); err == nil {
		t.Error("no error at a negative offset")
	}
}

// Who wants to know is told when what was missing is there, and can still leave.
func TestReadAtOnce(t *testing.T) {
	h := open(t, testLayer(), nil)
	told, left := 0, errors.New("left")
	p := make([]byte, 10)
	if n, err := h.ReadAtOnce(t.Context(), p, 0, func() error { told++; return left }); n != 0 || !errors.Is(err, left) || told != 1 {
		t.Errorf("%d bytes, %v, told %d times", n, err, told)
	}
	if !bytes.Equal(p, make([]byte, 10)) {
		t.Errorf("%x was written by a read that left", p)
	}
	if n, err := h.ReadAtOnce(t.Context(), p, 0, func() error { return left }); n != 10 || err != nil || !bytes.Equal(p, h.want[:10]) {
		t.Errorf("what was there: %d bytes, %v", n, err)
	}
}

// A reader gets its chunk as soon as that is there, even though the read-ahead of its range does not come.
func TestReadBeforeRangeEnds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := open(t, testLayer(), nil)
		off, chunk := h.place(bigFile)
		first := h.Store().Chunk(chunk)
		stop := make(chan struct{})
		h.blob.answer(func(ctx context.Context, _ int, q request) (io.ReadCloser, error) {
			if q.priority != Demand { // further ahead, because the second one goes on where the first one ended
				return h.blob.plain(q), nil
			}
			if q.off != first.BlobOffset || q.size <= first.BlobSize {
				t.Errorf("range is %+v, want %d+ and a read-ahead", q, first.BlobOffset)
			}
			head := h.blob.data[q.off:][:first.BlobSize]
			rest := h.blob.data[q.off:q.end()][first.BlobSize:]
			return h.blob.body(io.MultiReader(byteReader(head), until{ctx, stop, byteReader(rest)})), nil
		})
		h.mustCheck(off, int(first.Size))
		if h.Store().Has(chunk + 1) {
			t.Error("the next chunk is there before its bytes came")
		}
		// One that waits for the read-ahead shares the range.
		second := make(chan error)
		go func() { second <- h.check(t.Context(), off+testChunk, testChunk) }()
		synctest.Wait()
		close(stop)
		if err := <-second; err != nil {
			t.Error(err)
		}
		if n := h.blob.demands(); n != 1 {
			t.Errorf("%d requests, want 1", n)
		}
		noOverlap(t, h.blob.seen())
		h.close()
	})
}

func TestCoalesce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := open(t, testLayer(), nil)
		off, _ := h.place(bigFile)
		ready := make(chan struct{})
		h.blob.answer(func(ctx context.Context, _ int, q request) (io.ReadCloser, error) {
			return h.blob.stalled(ctx, q, ready), nil
		})
		var wg sync.WaitGroup
		for i := range 32 {
			wg.Go(func() { h.mustCheck(off+int64(i), 3*testChunk) })
		}
		synctest.Wait() // all 32 wait
		if n := h.blob.demands(); n != 1 {
			t.Errorf("%d requests for 32 readers, want 1", n)
		}
		close(ready)
		wg.Wait()
		h.close()
	})
}

func TestReaderLeaves(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := open(t, testLayer(), nil)
		off, _ := h.place(bigFile)
		ready := make(chan struct{})
		dropped := make(chan struct{}, 10)
		h.blob.answer(func(ctx context.Context, _ int, q request) (io.ReadCloser, error) {
			context.AfterFunc(ctx, func() { dropped <- struct{}{} })
			return h.blob.stalled(ctx, q, ready), nil
		})
		first, leave := context.WithCancel(t.Context())
		errs := make(chan error)
		go func() { errs <- h.check(first, off, 100) }()
		synctest.Wait()
		second := make(chan error)
		go func() { second <- h.check(t.Context(), off, 100) }()
		synctest.Wait()

		leave()
		if err := <-errs; !errors.Is(err, context.Canceled) {
			t.Errorf("the first reader got %v", err)
		}
		synctest.Wait()
		if len(dropped) != 0 {
			t.Error("the fetch ended while a reader waited for it")
		}
		close(ready)
		if err := <-second; err != nil {
			t.Errorf("the second reader got %v", err)
		}
		if n := len(h.blob.seen()); n != 1 {
			t.Errorf("%d requests, want 1", n)
		}
		h.close()
	})
}

// A fetch that nobody waits for any more is dropped, whether it was admitted or still waited for its turn, and the next
// reader starts anew.
func TestLastReaderLeaves(t *testing.T) {
	for name, concurrency := range map[string]int{"under way": 0, "one under way, one waiting": 1} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				h := open(t, testLayer(), func(o *Options) {
					o.Scheduler = NewScheduler(SchedulerOptions{Concurrency: concurrency, TailMemory: -1})
				})
				a, _ := h.place(bigFile)
				b, _ := h.place("lib/zeros")
				h.blob.answer(func(ctx context.Context, _ int, q request) (io.ReadCloser, error) {
					return h.blob.stalled(ctx, q, nil), nil
				})
				ctx, leave := context.WithTimeout(t.Context(), time.Minute)
				defer leave()
				errs := make(chan error)
				for _, off := range []int64{max(a, b), min(a, b)} { // going back, which nothing is fetched ahead of
					go func() { errs <- h.check(ctx, off, 100) }()
					synctest.Wait()
				}
				for range 2 {
					if err := <-errs; !errors.Is(err, context.DeadlineExceeded) {
						t.Errorf("a reader got %v", err)
					}
				}
				synctest.Wait()
				if n := h.scheduler.Inflight(); n != 0 {
					t.Errorf("%d bytes in flight for nobody", n)
				}
				h.blob.answer(nil)
				h.mustCheck(max(a, b), 100)
				h.mustCheck(min(a, b), 100)
				h.close()
			})
		})
	}
}

func TestCloseDuringReads(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := open(t, testLayer(), nil)
		h.blob.answer(func(ctx context.Context, _ int, q request) (io.ReadCloser, error) {
			return h.blob.stalled(ctx, q, nil), nil
		})
		errs := make(chan error)
		for name := range h.fix.files {
			if off, _ := h.place(name); name != "lib/empty" {
				go func() { errs <- h.check(t.Context(), off, 1) }()
			}
		}
		go func() { errs <- h.Fill(t.Context()) }()
		go func() { errs <- h.Prefetch(t.Context(), 0, nil) }()
		synctest.Wait()
		h.close()
		for range len(h.fix.files) - 1 + 2 {
			if err := <-errs; !errors.Is(err, ErrClosed) {
				t.Errorf("got %v, want ErrClosed", err)
			}
		}
		if _, err := h.ReadAt(t.Context(), make([]byte, 1), 0); !errors.Is(err, ErrClosed) {
			t.Errorf("read after Close: %v", err)
		}
		if s := h.Status(); !errors.Is(s.Err, ErrClosed) || s.Digest != h.fix.digest {
			t.Errorf("status after Close: %+v", s)
		}
	})
}

// Many readers, a filler and faults of every kind at once: every byte that is read is right.
func TestConcurrentReaders(t *testing.T) {
	for name, fix := range formats {
		t.Run(name, func(t *testing.T) {
			const limit = 2 << 20
			h := open(t, fix(), func(o *Options) {
				o.Scheduler = NewScheduler(SchedulerOptions{MemoryLimit: limit, Concurrency: 6})
			})
			h.blob.answer(func(ctx context.Context, n int, q request) (io.ReadCloser, error) {
				if got := h.scheduler.Inflight(); got > limit || got <= 0 {
					t.Errorf("%d bytes in flight, the limit is %d", got, limit)
				}
				return h.blob.faulty(n, q)
			})
			filled := make(chan error)
			go func() { filled <- h.Fill(t.Context()) }()
			var wg sync.WaitGroup
			for seed := range uint64(32) {
				wg.Go(func() { h.readRandomly(seed) })
			}
			wg.Wait()
			h.blob.answer(nil)
			if err := <-filled; err != nil {
				t.Error(err)
			}
			h.blob.answer(refuse)
			h.mustCheck(0, len(h.want))
		})
	}
}

func (h *harness) readRandomly(seed uint64) {
	rng := rand.New(rand.NewPCG(seed, 0))
	for range 40 {
		off := rng.IntN(len(h.want) - 1)
		n := 1 + rng.IntN(min(len(h.want)-off, 256<<10))
		var err error
		for range 50 {
			if err = h.check(h.t.Context(), int64(off), n); err == nil {
				break
			}
		}
		if err != nil {
			h.t.Errorf("50 attempts: %v", err)
		}
	}
}

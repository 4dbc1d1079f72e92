package layer

import (
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/containerd/stargz-snapshotter/estargz"
)

func TestPrefetch(t *testing.T) {
	for name, fix := range formats {
		t.Run(name, func(t *testing.T) {
			h := open(t, fix(), nil)
			list := h.Store().Info().PrefetchChunks
			if list == 0 {
				t.Fatal("the layer has no prefetch list")
			}
			if err := h.Prefetch(t.Context(), 0, nil); err != nil {
				t.Fatal(err)
			}
			for i := range h.Store().NumChunks() {
				if i < list && !h.Store().Has(i) {
					t.Errorf("chunk %d of the list of %d is missing", i, list)
				}
			}
			if h.Store().Complete() {
				t.Error("it fetched the whole layer")
			}
			for _, q := range h.blob.seen() {
				if q.priority != Prefetch {
					t.Errorf("range %+v is not of prefetch priority", q)
				}
			}
			h.blob.answer(refuse)
			off, _ := h.place(hotFile)
			h.mustCheck(off, len(h.fix.files[hotFile]))
			if err := h.Prefetch(t.Context(), 0, nil); err != nil {
				t.Errorf("again, with nothing to do: %v", err)
			}
		})
	}
}

// Whoever waits for the beginning of a list is told when that is there, and not later.
func TestPrefetchSoon(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		files := testFiles()
		files[hotFile] = benchBytes(8 << 20)
		h := open(t, build(files, estargz.WithCompressionLevel(gzip.NoCompression)), nil)
		rest := make(chan struct{})
		h.blob.answer(func(ctx context.Context, n int, q request) (io.ReadCloser, error) {
			if q.off > h.Store().Chunk(0).BlobOffset {
				return h.blob.stalled(ctx, q, rest), nil
			}
			return h.blob.plain(q), nil
		})
		told := make(chan struct{})
		done := make(chan error)
		go func() { done <- h.Prefetch(t.Context(), 1<<20, func() { close(told) }) }()
		synctest.Wait()
		select {
		case <-told:
		default:
			t.Error("not told, though the beginning is there")
		}
		if !h.Store().Has(0) || h.Store().Has(h.Store().Info().PrefetchChunks-1) {
			t.Error("want the beginning of the list, and not its end")
		}
		close(rest)
		if err := <-done; err != nil {
			t.Error(err)
		}
		h.close()
	})
	h := open(t, testLayer(), nil)
	h.blob.answer(refuse)
	told := 0
	if err := h.Prefetch(t.Context(), 1<<20, func() { told++ }); err == nil || told != 1 {
		t.Errorf("told %d times of a list that fails, error %v", told, err)
	}
}

func TestPrefetchFails(t *testing.T) {
	h := open(t, testLayer(), nil)
	h.blob.answer(refuse)
	if err := h.Prefetch(t.Context(), 0, nil); err == nil || !strings.Contains(err.Error(), h.fix.digest.String()) {
		t.Errorf("got %v", err)
	}
	h.blob.answer(nil)
	if err := h.Prefetch(t.Context(), 0, nil); err != nil {
		t.Error(err)
	}
}

// Two prefetches and a reader of the same chunks are one fetch.
func TestPrefetchCoalesces(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := open(t, testLayer(), nil)
		ready := make(chan struct{})
		h.blob.answer(func(ctx context.Context, _ int, q request) (io.ReadCloser, error) {
			return h.blob.stalled(ctx, q, ready), nil
		})
		var wg sync.WaitGroup
		for range 2 {
			wg.Go(func() {
				if err := h.Prefetch(t.Context(), 0, nil); err != nil {
					t.Error(err)
				}
			})
		}
		synctest.Wait()
		off, _ := h.place(hotFile)
		wg.Go(func() { h.mustCheck(off, 10) })
		synctest.Wait()
		close(ready)
		wg.Wait()
		noOverlap(t, h.blob.seen())
		h.close()
	})
}

func TestFill(t *testing.T) {
	for name, fix := range formats {
		t.Run(name, func(t *testing.T) {
			var ranges []Range
			var mu sync.Mutex
			h := open(t, fix(), func(o *Options) {
				o.Observer.Fetched = func(r Range) {
					mu.Lock()
					defer mu.Unlock()
					ranges = append(ranges, r)
				}
			})
			off, _ := h.place("etc/small042")
			h.mustCheck(off, 10) // is not fetched again
			h.flights.Wait()     // nor its read-ahead
			if err := h.Fill(t.Context()); err != nil {
				t.Fatal(err)
			}
			s := h.Status()
			if !s.Complete || s.Fetched != s.Size || s.Err != nil || s.Format == "" {
				t.Errorf("status %+v", s)
			}
			noOverlap(t, h.blob.seen())
			var bytes int64
			for _, r := range ranges {
				bytes += r.Bytes
			}
			if bytes != s.Size || ranges[0].Priority != Demand || ranges[len(ranges)-1].Priority != Background {
				t.Errorf("observed %d of %d bytes in %+v", bytes, s.Size, ranges)
			}
			h.blob.answer(refuse)
			h.mustCheck(0, len(h.want))
		})
	}
}

// The rest of a small layer comes at once, unless it is known what a program will read of it.
func TestFillForeseen(t *testing.T) {
	files := testFiles()
	delete(files, hotFile) // no prefetch list, which would be as much
	for _, foreseen := range []bool{false, true} {
		t.Run(fmt.Sprint(foreseen), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				h := open(t, build(files), nil)
				time.Sleep(lullTime) // opening it was urgent
				if foreseen {
					h.Foreseen()
				}
				off, _ := h.place("etc/small042")
				h.mustCheck(off, 10)
				h.flights.Wait()
				filled := make(chan error, 1)
				go func() { filled <- h.Fill(t.Context()) }()
				time.Sleep(lullTime - 1)
				synctest.Wait()
				if h.Store().Complete() == foreseen {
					t.Errorf("complete in the lull: %v", !foreseen)
				}
				if err := <-filled; err != nil {
					t.Error(err)
				}
			})
		})
	}
}

// Readers come while Fill is under way and while it waits for the next range.
func TestFillWithDemand(t *testing.T) {
	h := open(t, testLayer(), nil)
	h.blob.answer(func(ctx context.Context, n int, q request) (io.ReadCloser, error) {
		if q.priority == Background {
			for i := range h.Store().NumChunks() { // a chunk behind this range
				if c := h.Store().Chunk(i); c.BlobOffset >= q.end() {
					h.mustCheck(c.DataOffset, 10)
					break
				}
			}
		}
		return h.blob.plain(q), nil
	})
	if err := h.Fill(t.Context()); err != nil {
		t.Fatal(err)
	}
	noOverlap(t, h.blob.seen())
	h.mustCheck(0, len(h.want))
}

// Fill outlives an outage, backing off, and tells of its errors.
func TestFillThroughOutage(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const outage = 10 * time.Minute
		start := time.Now()
		var told []error
		var mu sync.Mutex
		h := open(t, testLayer(), func(o *Options) {
			o.Observer.Error = func(err error) {
				mu.Lock()
				defer mu.Unlock()
				told = append(told, err)
			}
		})
		h.blob.answer(func(_ context.Context, _ int, q request) (io.ReadCloser, error) {
			if time.Since(start) < outage {
				return nil, errReset
			}
			return h.blob.plain(q), nil
		})
		if err := h.Fill(t.Context()); err != nil {
			t.Fatal(err)
		}
		if d := time.Since(start); d > outage+2*lastRetry {
			t.Errorf("took %v after an outage of %v", d, outage)
		}
		if n := len(told); n < 5 || n > 40*h.scheduler.ranges.steered || !errors.Is(told[0], errReset) {
			t.Errorf("told of %d errors: %v", n, told)
		}
		h.close()
	})
}

// One chunk that stays wrong does not keep Fill from the others.
func TestFillAroundBadChunk(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := open(t, testLayer(), nil)
		_, chunk := h.place(bigFile)
		h.blob.answer(h.blob.corrupt(h.Store().Chunk(chunk)))
		ctx, cancel := context.WithTimeout(t.Context(), time.Hour)
		defer cancel()
		if err := h.Fill(ctx); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("got %v", err)
		}
		if n, _ := h.Store().Present(); n != h.Store().NumChunks()-1 {
			t.Errorf("%d of %d chunks are stored, all but one can be", n, h.Store().NumChunks())
		}
		if n := len(h.blob.seen()); n > 400 {
			t.Errorf("%d requests in an hour for one bad chunk", n)
		}
		h.close()
	})
}

// A reader that joined a background range which fails fetches for itself.
func TestDemandSurvivesFill(t *testing.T) {
	for name, lose := range map[string]func(stop func(), fail chan struct{}){
		"the range fails": func(_ func(), fail chan struct{}) { close(fail) },
		"Fill is stopped": func(stop func(), _ chan struct{}) { stop() },
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				h := open(t, testLayer(), nil)
				time.Sleep(lullTime) // opening it was urgent
				fail := make(chan struct{})
				h.blob.answer(func(ctx context.Context, _ int, q request) (io.ReadCloser, error) {
					if q.priority == Demand {
						return h.blob.plain(q), nil
					}
					return h.blob.body(until{ctx, fail, errorReader{errReset}}), nil
				})
				ctx, stop := context.WithCancel(t.Context())
				filled := make(chan error, 1)
				go func() { filled <- h.Fill(ctx) }()
				synctest.Wait()
				off, _ := h.place(hotFile)
				read := make(chan error)
				go func() { read <- h.check(t.Context(), off, 10) }()
				synctest.Wait()
				for _, q := range h.blob.seen() {
					if q.priority == Demand {
						t.Error("the reader did not join the range under way")
					}
				}
				lose(stop, fail)
				if err := <-read; err != nil {
					t.Error(err)
				}
				stop()
				if err := <-filled; !errors.Is(err, context.Canceled) {
					t.Errorf("Fill returned %v", err)
				}
				h.close()
			})
		})
	}
}

// What tells that the beginning is there looks for it no more once it has.
func TestTellOnce(t *testing.T) {
	h := open(t, testLayer(), nil)
	told := 0
	b := &bulk{l: h.Layer, soon: h.Store().Info().PrefetchChunks, first: func() { told++ }}
	if b.tell(); told != 0 {
		t.Error("told before it is there")
	}
	if err := h.Prefetch(t.Context(), 0, nil); err != nil {
		t.Fatal(err)
	}
	b.tell()
	b.l = nil // a look would be a panic
	if b.tell(); told != 1 {
		t.Errorf("told %d times", told)
	}
}

// A range that a reader comes to wait for is urgent from then on, to those who queue requests.
func TestUrgencyFrom(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := open(t, testLayer(), nil)
		off, chunk := h.place(hotFile)
		at := h.Store().Chunk(chunk).BlobOffset
		asked, end := make(chan context.Context, 1), make(chan struct{})
		h.blob.answer(func(ctx context.Context, _ int, q request) (io.ReadCloser, error) {
			if q.off <= at && at < q.end() {
				asked <- ctx
			}
			return h.blob.stalled(ctx, q, end), nil
		})
		filled := make(chan error, 1)
		go func() { filled <- h.Fill(t.Context()) }()
		ctx := <-asked
		synctest.Wait()
		if u := UrgencyFrom(ctx); u != Background {
			t.Errorf("it begins as %s", u)
		}
		read := make(chan error)
		go func() { read <- h.check(t.Context(), off, 10) }()
		synctest.Wait()
		if u, p := UrgencyFrom(ctx), PriorityFrom(ctx); u != Demand || p != Background {
			t.Errorf("with a reader it is %s, and was begun as %s", u, p)
		}
		close(end)
		if err := errors.Join(<-read, <-filled); err != nil {
			t.Error(err)
		}
		if u := UrgencyFrom(t.Context()); u != Demand {
			t.Errorf("what is asked for elsewhere is %s", u)
		}
		h.close()
	})
}

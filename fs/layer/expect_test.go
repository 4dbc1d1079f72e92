package layer

import (
	"bytes"
	"context"
	"errors"
	"io"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/sys/unix"

	"github.com/sluice-snapshotter/sluice/cache"
)

// stored are the chunks of bigFile that are in the store, by their places in it.
func (h *harness) stored(name string) (out []int) {
	_, first := h.place(name)
	for i := range len(h.fix.files[name]) / testChunk {
		if h.Store().Has(first + i) {
			out = append(out, i)
		}
	}
	return out
}

// TestExpect: what is expected comes, each chunk once and nothing else, in ranges whose errors are nobody's.
func TestExpect(t *testing.T) {
	for name, fix := range map[string]func() fixture{"estargz": testLayer, "zstd:chunked": formats["zstd:chunked"]} {
		for _, priority := range []Priority{Prefetch, Demand} {
			t.Run(name+", "+priority.String(), func(t *testing.T) {
				h := open(t, fix(), nil)
				off, _ := h.place(bigFile)
				h.mustCheck(int64(len(h.want))-1, 1) // which is far from it, and makes no difference
				h.flights.Wait()
				h.blob.answer(nil)
				before := h.stored(bigFile)
				h.Expect([]Extent{
					{off + 40*testChunk + 5, 10}, {off + 10*testChunk, 2 * testChunk}, {off, 1}, // in any order
					{off + 11*testChunk, testChunk}, {off + 10*testChunk, 1}, // overlapping
				}, priority)
				h.flights.Wait()
				if got := h.stored(bigFile); len(before) > 0 || !slices.Equal(got, []int{0, 10, 11, 40}) {
					t.Errorf("there are %v, were %v", got, before)
				}
				seen := h.blob.seen()
				noOverlap(t, seen)
				if len(seen) != 3 || slices.ContainsFunc(seen, func(q request) bool { return q.priority != Prefetch }) {
					t.Errorf("requests are %+v", seen)
				}
				h.Expect([]Extent{{off, 1}, {off + 10*testChunk, testChunk}}, priority) // they are there
				h.flights.Wait()
				if more := h.blob.seen(); len(more) != len(seen) {
					t.Errorf("asked for what is there: %+v", more)
				}
			})
		}
	}
}

// TestExpectNothing: what there is not is not fetched.
func TestExpectNothing(t *testing.T) {
	h := open(t, testLayer(), nil)
	size := int64(len(h.want))
	h.Expect(nil, Demand)
	h.Expect([]Extent{{size, 100}, {1 << 60, 1 << 60}, {0, 0}, {100, 0}, {100, -1}, {-100, 50}}, Demand)
	h.flights.Wait()
	if q := h.blob.seen(); len(q) > 0 {
		t.Errorf("asked for %+v", q)
	}
	h.Expect([]Extent{{size - 1, 1 << 40}}, Demand)
	h.flights.Wait()
	if n, _ := h.Store().Present(); n != 1 {
		t.Errorf("%d chunks are there, want the last one", n)
	}
}

// TestExpectJoins: what is on its way is not asked for again, and comes even if the reader that it was for leaves.
func TestExpectJoins(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := open(t, testLayer(), nil)
		off, _ := h.place(bigFile)
		ready := make(chan struct{})
		h.blob.answer(func(ctx context.Context, _ int, q request) (io.ReadCloser, error) {
			return h.blob.stalled(ctx, q, ready), nil
		})
		ctx, leave := context.WithCancel(t.Context())
		read := make(chan error)
		go func() { read <- h.check(ctx, off, 100) }()
		synctest.Wait()
		h.Expect([]Extent{{off, 100}}, Demand)
		expected := make(chan error)
		go func() { expected <- h.checkExpected(off, 200) }()
		synctest.Wait()
		leave()
		if err := <-read; !errors.Is(err, context.Canceled) {
			t.Errorf("the reader: %v", err)
		}
		close(ready)
		if err := <-expected; err != nil {
			t.Error(err)
		}
		if n := len(h.blob.seen()); n != 1 {
			t.Errorf("%d requests", n)
		}
		h.close()
	})
}

// TestExpectUrgency: what is expected is as urgent as was said, and what is on its way for others stays as it is, unless somebody waits.
func TestExpectUrgency(t *testing.T) {
	for _, priority := range []Priority{Prefetch, Demand} {
		t.Run(priority.String(), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				h := open(t, testLayer(), nil)
				urgency := make(chan func() Priority, 100)
				ready := make(chan struct{})
				h.blob.answer(func(ctx context.Context, _ int, q request) (io.ReadCloser, error) {
					urgency <- func() Priority { return UrgencyFrom(ctx) }
					return h.blob.stalled(ctx, q, ready), nil
				})
				last := h.Store().Chunk(h.Store().NumChunks() - 1)
				h.Expect([]Extent{{last.DataOffset, 1}}, priority)
				if got := (<-urgency)(); got != priority {
					t.Errorf("a range for what is expected is %s, want %s", got, priority)
				}
				filled := make(chan error)
				go func() { filled <- h.Fill(t.Context()) }()
				synctest.Wait()
				time.Sleep(2 * backgroundTrickle) // of the test's own clock
				synctest.Wait()
				first := <-urgency
				off := h.Store().Chunk(0).DataOffset
				h.Expect([]Extent{{off, 1}}, priority)
				if got := first(); got != Background {
					t.Errorf("a range for nobody became %s", got)
				}
				expected := make(chan error)
				go func() { expected <- h.checkExpected(off, 1) }()
				synctest.Wait()
				if got := first(); got != Demand {
					t.Errorf("a range that somebody waits for is %s", got)
				}
				close(ready)
				if err := errors.Join(<-expected, <-filled); err != nil {
					t.Error(err)
				}
				h.close()
			})
		})
	}
}

// checkExpected is check with ReadExpected.
func (h *harness) checkExpected(off int64, n int) error {
	p := make([]byte, n)
	got, err := h.ReadExpected(h.t.Context(), p, off)
	if err == nil && (got != n || !bytes.Equal(p, h.want[off:off+int64(n)])) {
		h.t.Errorf("read %d+%d: wrong bytes", off, n)
	}
	return err
}

// TestReadExpected: the bytes are right, and nothing is fetched but what they lie in: no read-ahead, and nobody is followed.
func TestReadExpected(t *testing.T) {
	h := open(t, longLayer(), nil)
	var sum int64
	for i := range h.Store().NumChunks() / 2 {
		c := h.Store().Chunk(i)
		if err := h.checkExpected(c.DataOffset+100, int(c.Size)-100); err != nil {
			t.Fatal(err)
		}
		sum += c.BlobSize
	}
	h.flights.Wait()
	var brought int64
	for _, q := range h.blob.seen() {
		brought += q.size
		if q.priority != Prefetch {
			t.Errorf("%+v for one who looks ahead", q)
		}
	}
	if brought != sum {
		t.Errorf("%d bytes were brought for %d", brought, sum)
	}
	noOverlap(t, h.blob.seen())
}

func TestReadExpectedAtEdges(t *testing.T) {
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
		{"before the beginning", -1, 1, 0, io.EOF},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if n, err := h.ReadExpected(t.Context(), make([]byte, tt.n), tt.off); n != tt.want || !errors.Is(err, tt.err) {
				t.Errorf("got %d, %v, want %d, %v", n, err, tt.want, tt.err)
			}
		})
	}
}

// TestReadExpectedFails: an error of the blob is that of the call, and the next one tries again.
func TestReadExpectedFails(t *testing.T) {
	h := open(t, testLayer(), nil)
	off, _ := h.place(bigFile)
	h.blob.answer(refuse)
	if err := h.checkExpected(off, 3*testChunk); err == nil {
		t.Error("there is no error")
	}
	h.Expect([]Extent{{off, testChunk}}, Demand)
	h.flights.Wait()
	h.blob.answer(nil)
	if err := h.checkExpected(off, 3*testChunk); err != nil {
		t.Error(err)
	}
}

// TestReadExpectedLeaves: who leaves does so at once, and what it waited for comes.
func TestReadExpectedLeaves(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := open(t, testLayer(), nil)
		off, _ := h.place(bigFile)
		ready := make(chan struct{})
		h.blob.answer(func(ctx context.Context, _ int, q request) (io.ReadCloser, error) {
			return h.blob.stalled(ctx, q, ready), nil
		})
		ctx, leave := context.WithCancel(t.Context())
		left := make(chan error)
		go func() {
			_, err := h.ReadExpected(ctx, make([]byte, 10), off)
			left <- err
		}()
		synctest.Wait()
		leave()
		if err := <-left; !errors.Is(err, context.Canceled) {
			t.Errorf("got %v", err)
		}
		close(ready)
		h.flights.Wait()
		if got := h.stored(bigFile); !slices.Equal(got, []int{0}) {
			t.Errorf("there are %v", got)
		}
		h.close()
	})
}

// TestExpectClosed: a layer that is closed ends what is expected of it, and fetches nothing more.
func TestExpectClosed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := open(t, testLayer(), nil)
		off, _ := h.place(bigFile)
		h.blob.answer(func(ctx context.Context, _ int, q request) (io.ReadCloser, error) {
			return h.blob.stalled(ctx, q, nil), nil
		})
		ended := make(chan error)
		go func() { ended <- h.checkExpected(off, 10) }()
		synctest.Wait()
		h.close()
		if err := <-ended; !errors.Is(err, ErrClosed) {
			t.Errorf("what was under way: %v", err)
		}
		before := len(h.blob.seen())
		h.Expect([]Extent{{off + 20*testChunk, 10}}, Demand)
		if err := h.checkExpected(off, 10); !errors.Is(err, ErrClosed) {
			t.Errorf("after Close: %v", err)
		}
		if n := len(h.blob.seen()); n != before {
			t.Errorf("%d requests after Close", n-before)
		}
	})
}

// TestReadExpectedUnwritable: while the disk takes no writes a reader is served from memory, but who looks ahead is told, and not given
// what is on disk instead.
func TestReadExpectedUnwritable(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := open(t, testLayer(), nil)
		readOnly := must(os.Open(filepath.Join(filepath.Dir(h.Store().MetadataPath()), "data")))
		defer readOnly.Close()
		must(0, unix.Dup3(int(readOnly.Fd()), int(h.Store().File().Fd()), unix.O_CLOEXEC))
		off, _ := h.place(bigFile)
		ready := make(chan struct{})
		h.blob.answer(func(ctx context.Context, _ int, q request) (io.ReadCloser, error) {
			return h.blob.stalled(ctx, q, ready), nil
		})
		read, expected := make(chan error), make(chan error)
		go func() { read <- h.check(t.Context(), off, 100) }()
		synctest.Wait()
		go func() { expected <- h.checkExpected(off, 100) }()
		synctest.Wait()
		close(ready)
		if err := <-read; err != nil {
			t.Errorf("the reader: %v", err)
		}
		if err := <-expected; !errors.Is(err, cache.ErrNotStored) {
			t.Errorf("who looks ahead: %v", err)
		}
		h.close()
	})
}

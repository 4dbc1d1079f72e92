package layer

import (
	"context"
	"errors"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/sluice-snapshotter/sluice/fs/toc"
)

func TestHeapIsFreedOncePerBurst(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var frees atomic.Int32
		h := &heap{free: func() { frees.Add(1) }}
		wait := func(d time.Duration, want int32) {
			t.Helper()
			time.Sleep(d) // the bubble's time
			synctest.Wait()
			if got := frees.Load(); got != want {
				t.Errorf("freed %d times, want %d", got, want)
			}
		}
		h.begin()
		h.begin()
		h.end(burst)
		wait(2*idle, 0) // one is under way
		h.end(burst)
		wait(idle/2, 0)
		h.begin()
		wait(2*idle, 0)
		h.end(0)
		wait(idle+1, 1)
		wait(2*idle, 1)
		h.begin()
		h.end(burst - 1)
		wait(2*idle, 1) // not worth it
		h.begin()
		h.end(1)
		wait(idle/2, 1) // but together they are
		wait(idle, 2)
	})
}

// TestLayoutsAreBounded opens layers at once while there is room for one: the others wait, and those who stop waiting
// leave no trace.
func TestLayoutsAreBounded(t *testing.T) {
	f := testLayer()
	o := f.options(t, newStore(t))
	g := o.Scheduler.layouts
	for p := range g.bytes {
		g.bytes[p] = 1
	}
	turn := &entrant{priority: Demand, bytes: 1}
	if err := g.enter(t.Context(), turn); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if l, err := Open(ctx, o); !errors.Is(err, context.DeadlineExceeded) {
		t.Fatalf("opened %v, %v while there was no room", l, err)
	}
	if b := o.Blob.(*fake); len(b.distrusted) != 0 {
		t.Errorf("distrusted %q, who has done nothing wrong", b.distrusted)
	}
	var wg sync.WaitGroup
	for range 3 {
		wg.Go(func() {
			l, err := Open(t.Context(), o)
			if err != nil {
				t.Error(err)
				return
			}
			if err := l.Close(); err != nil {
				t.Error(err)
			}
		})
	}
	g.leave(turn)
	wg.Wait()
	if n := g.holding(); n != 0 || o.Scheduler.heap.underWay != 0 {
		t.Errorf("%d bytes and %d pieces of work are left", n, o.Scheduler.heap.underWay)
	}
}

// TestRefusedTOC has a TOC with the right digest that says something impossible: asking again would bring the same.
func TestRefusedTOC(t *testing.T) {
	f := build(map[string][]byte{strings.Repeat("n", 300): []byte("x")})
	o := f.options(t, newStore(t))
	_, err := Open(t.Context(), o)
	var refused *toc.EntryError
	if !errors.As(err, &refused) {
		t.Fatalf("got %v", err)
	}
	if b := o.Blob.(*fake); len(b.seen()) != 1 || len(b.distrusted) != 0 {
		t.Errorf("%d requests, distrusted %q", len(b.seen()), b.distrusted)
	}
	if n := o.Scheduler.layouts.holding(); n != 0 || o.Scheduler.heap.underWay != 0 {
		t.Errorf("%d bytes and %d pieces of work are left", n, o.Scheduler.heap.underWay)
	}
}

package layer

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/sluice-snapshotter/sluice/fs/toc"
)

const hungImage = "hung.test/app:1"

// lendAll has so many of a registry enter one after another, and be silent until they lend their places.
func (l *line) lendAll(p Priority, image string, n int, bytes int64) (lent []*entrant) {
	l.t.Helper()
	for range n {
		e := &entrant{priority: p, image: image, bytes: bytes}
		if err := l.enter(l.t.Context(), e); err != nil {
			l.t.Fatal(err)
		}
		l.hush(e)
		lent = append(lent, e)
	}
	time.Sleep(silentGrace)
	synctest.Wait()
	return lent
}

// silent has one inside wait for its registry until it lends its place.
func (l *line) silent(e *entrant) {
	l.hush(e)
	time.Sleep(silentGrace)
	synctest.Wait()
}

// back has one that was silent go on.
func (l *line) back(ctx context.Context, name string, e *entrant) {
	go func() {
		if l.heard(e) && l.await(ctx, e) != nil {
			name = "!" + name
		}
		l.mu.Lock()
		defer l.mu.Unlock()
		l.entered = append(l.entered, name)
	}()
	synctest.Wait()
}

// empty checks that nothing is left of anybody.
func (l *line) empty() {
	l.t.Helper()
	g := l.gate
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.inside != [priorities]int{} || g.held != 0 || len(g.images)+len(g.silent) > 0 {
		l.t.Errorf("left: %v inside, %d bytes, images %v, silent %v", g.inside, g.held, g.images, g.silent)
	}
}

// Who waits for a silent registry keeps no place and no bytes, and needs them again to go on.
func TestLend(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLine(t, SchedulerOptions{Concurrency: 2, MemoryLimit: 1000})
		lent := l.lendAll(Demand, hungImage, 2, 500)
		if n := l.holding(); n != 0 {
			t.Errorf("%d bytes held", n)
		}
		l.queue(t.Context(), "one", Demand, 500)
		l.queue(t.Context(), "two", Demand, 400)
		l.queue(t.Context(), "three", Demand, 100)
		l.expect("one", "two")
		l.back(t.Context(), "back", lent[0])
		l.leaves(Demand)
		l.expect("back") // before who was not inside yet
		l.leave(lent[0])
		l.expect("three")
		l.leaves(Demand)
		l.leaves(Demand)
		l.leave(lent[1]) // without having come back
		l.heard(lent[1])
		l.empty()
	})
}

// Hosts that are merely slow lend nothing, and a late timer takes no place.
func TestLendGrace(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLine(t, SchedulerOptions{Concurrency: 1})
		e := &entrant{priority: Demand, image: hungImage}
		l.add(t.Context(), "first", e)
		for range 3 {
			l.hush(e)
			time.Sleep(silentGrace - 1)
			l.back(t.Context(), "first", e)
			l.lend(e)
		}
		l.queue(t.Context(), "second", Demand, 1)
		l.expect("first", "first", "first", "first")
		l.leave(e)
		l.expect("second")
		l.leave(l.inside[1])
		l.empty()
	})
}

// A silent registry gets no more than so many ranges, of Background fewest, and others are not in its way.
func TestLendBounded(t *testing.T) {
	for p, most := range map[Priority]int{Background: pilotStart, Prefetch: 14, Demand: 16} {
		t.Run(p.String(), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				l := newLine(t, SchedulerOptions{})
				lent := l.lendAll(p, hungImage, most, 1)
				ctx, stop := context.WithCancel(t.Context())
				l.add(ctx, "same registry", &entrant{priority: p, image: "hung.test/other:2"})
				l.add(t.Context(), "other", &entrant{priority: p, image: "registry.test/app:1"})
				l.expect("other")
				l.leave(lent[0])
				l.expect("same registry")
				for _, e := range append(lent[1:], l.inside...) {
					l.leave(e)
				}
				stop()
				l.empty()
			})
		})
	}
	t.Run("bytes", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			l := newLine(t, SchedulerOptions{MemoryLimit: 1000})
			e := newHolder(Demand, hungImage, 501)
			l.add(t.Context(), "first", e)
			l.silent(e)
			l.add(t.Context(), "same registry", &entrant{priority: Demand, image: hungImage})
			l.add(t.Context(), "other", &entrant{priority: Demand, image: "registry.test/app:1", bytes: 499})
			l.expect("first", "other")
			l.back(t.Context(), "back", e) // at once: it takes nothing
			slices.Sort(l.entered)
			l.expect("back", "same registry")
			for _, e := range l.inside {
				l.leave(e)
			}
			l.empty()
		})
	})
}

// Who is silent does not make background wait, neither before it begins nor in the middle of a range.
func TestLendCalms(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLine(t, SchedulerOptions{})
		l.queue(t.Context(), "read", Demand, 1)
		calm := l.whenCalm(Background)
		l.queue(t.Context(), "fill", Background, 1)
		e := l.inside[0]
		l.silent(e)
		l.expect("read", "fill")
		select {
		case <-calm:
		default:
			t.Error("not calm")
		}
		l.back(t.Context(), "back", e)
		if l.expect("back"); l.whenCalm(Background) == nil {
			t.Error("calm, though a reader gets its bytes")
		}
		for _, e := range l.inside {
			l.leave(e)
		}
		l.empty()
	})
}

// No lull begins because a registry is silent, however often: patient background waits for readers that get their bytes.
func TestLendLull(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLine(t, SchedulerOptions{})
		e := &entrant{priority: Demand, image: hungImage, bytes: 1}
		l.add(t.Context(), "read", e)
		l.expect("read")
		for range 3 {
			l.add(t.Context(), "patient", &entrant{priority: Background, bytes: 1, patient: true})
			l.silent(e)
			l.expect("patient")
			l.leaves(Background)
			l.back(t.Context(), "back", e)
			l.expect("back")
		}
		l.add(t.Context(), "patient", &entrant{priority: Background, bytes: 1, patient: true})
		if l.leaves(Demand); l.lull.spent > 0 {
			t.Errorf("%v in lulls", l.lull.spent)
		}
		time.Sleep(lullTime - 1)
		l.expect()
		time.Sleep(time.Nanosecond)
		l.expect("patient")
		l.leaves(Background)
		l.empty()
	})
}

// Who comes back does so with the priority that it has by then, and is not charged again, nor held by the brake.
func TestLendBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLine(t, SchedulerOptions{Concurrency: 1, BackgroundLimit: 100})
		e := &entrant{priority: Background, image: hungImage, bytes: 1, blob: 1000}
		l.add(t.Context(), "first", e)
		l.silent(e)
		l.back(t.Context(), "back", e)
		l.expect("first", "back")
		if want := 10*time.Second - silentGrace - brakeSlack; l.brake.hold() != want {
			t.Errorf("held for %v, want %v", l.brake.hold(), want)
		}
		l.silent(e)
		l.queue(t.Context(), "reader", Demand, 1)
		l.queue(t.Context(), "prefetch", Prefetch, 1)
		raised := make(chan struct{})
		e.raised = raised
		l.back(t.Context(), "raised", e)
		l.expect("reader")
		close(raised)
		synctest.Wait()
		l.leave(l.inside[1])
		l.expect("raised")
		l.leave(e)
		l.expect("prefetch")
		l.leaves(Prefetch)
		l.empty()
	})
}

// Who gives up, silent or when it waits to come back, leaves nothing.
func TestLendGivenUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLine(t, SchedulerOptions{Concurrency: 1, MemoryLimit: 100})
		ctx, stop := context.WithCancel(t.Context())
		e := &entrant{priority: Demand, image: hungImage, bytes: 50, held: func() int64 { return 20 }}
		l.add(ctx, "first", e)
		l.silent(e)
		if l.holding() != 20 {
			t.Errorf("%d bytes held", l.holding())
		}
		l.queue(t.Context(), "other", Demand, 60)
		l.back(ctx, "back", e)
		l.expect("first", "other")
		stop()
		l.expect("!back")
		l.back(ctx, "again", e)
		l.expect("!again")
		l.leave(e)
		l.leave(l.inside[1])
		l.empty()
	})
}

// hang has a blob answer no request until ready is closed.
func hang(b *fake, ready <-chan struct{}) {
	b.answer(func(ctx context.Context, _ int, q request) (io.ReadCloser, error) {
		select {
		case <-ready:
			return b.plain(q), nil
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	})
}

// readAtOnce opens a layer of a registry that answers, and reads of it: nobody who waits for another registry is in the way. The caller
// closes it.
func readAtOnce(t *testing.T, f fixture, s *Scheduler) *harness {
	t.Helper()
	start := time.Now()
	h := open(t, f, withScheduler(s))
	h.mustCheck(0, 10)
	if d := time.Since(start); d > 0 {
		t.Errorf("the other registry's layer took %v", d)
	}
	return h
}

// silentAfter has a blob send so many bytes of each range, and the rest when ready is closed.
func silentAfter(n int64) func(b *fake, ready <-chan struct{}) {
	return func(b *fake, ready <-chan struct{}) {
		b.answer(func(ctx context.Context, _ int, q request) (io.ReadCloser, error) {
			first := min(n, q.size)
			head, rest := b.data[q.off:][:first], b.data[q.off+first:q.end()]
			return b.body(io.MultiReader(bytes.NewReader(head), until{ctx, ready, bytes.NewReader(rest)})), nil
		})
	}
}

// A registry that hangs, before its answers or in the middle of them, keeps nobody from reading a layer of another one, from opening,
// filling or prefetching it. When it goes on, its readers get their bytes.
func TestHungRegistry(t *testing.T) {
	for name, silent := range map[string]func(*fake, <-chan struct{}){"no answer": hang, "no more": silentAfter(1000)} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) { testHung(t, testLayer(), silent) })
		})
	}
}

func testHung(t *testing.T, f fixture, silent func(*fake, <-chan struct{})) {
	s := NewScheduler(SchedulerOptions{TailMemory: -1, Concurrency: 4, MemoryLimit: 8 << 20})
	var hung []*harness
	var readers sync.WaitGroup
	filling, stop := context.WithCancel(t.Context())
	ready := make(chan struct{})
	for i := range 8 { // more than there are places
		hung = append(hung, open(t, f, func(o *Options) { o.Scheduler, o.Ref = s, fmt.Sprintf("hung.test/app%d:1", i) }))
	}
	for _, h := range hung {
		silent(h.blob, ready)
		readers.Go(func() { h.mustCheck(0, 10) })
		readers.Go(func() { _ = h.Fill(filling) })
	}
	synctest.Wait()
	time.Sleep(3 * silentGrace)
	synctest.Wait()
	requests := 0
	for _, h := range hung {
		requests += len(h.blob.seen())
	}
	if requests < 4 || requests > 2*4 {
		t.Errorf("%d requests at the silent registry", requests)
	}
	start := time.Now()
	h := open(t, f, withScheduler(s))
	h.mustCheck(0, 10)
	if err := h.Prefetch(t.Context(), 0, nil); err != nil {
		t.Error(err)
	}
	if err := h.Fill(t.Context()); err != nil {
		t.Error(err)
	}
	if d := time.Since(start); d > lullTime { // which filling waits for
		t.Errorf("the other registry's layer took %v", d)
	}
	must(0, h.Close())
	stop()
	close(ready)
	readers.Wait()
	for _, h := range hung {
		must(0, h.Close())
	}
	(&line{t: t, gate: s.ranges}).empty()
}

// Readers of a registry that hangs may go, whatever their ranges wait for.
func TestHungReadersLeave(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := NewScheduler(SchedulerOptions{TailMemory: -1, Concurrency: 2})
		ready := make(chan struct{})
		var readers sync.WaitGroup
		var hung []*harness
		ctx, leave := context.WithCancel(t.Context())
		for i := range 6 {
			hung = append(hung, open(t, testLayer(), func(o *Options) { o.Scheduler, o.Ref = s, fmt.Sprintf("hung.test/app%d:1", i) }))
		}
		for _, h := range hung {
			hang(h.blob, ready)
			readers.Go(func() {
				if err := h.check(ctx, 0, 10); !errors.Is(err, context.Canceled) {
					t.Errorf("got %v", err)
				}
			})
		}
		time.Sleep(silentGrace)
		synctest.Wait()
		var busy []*entrant
		for range 2 {
			e := &entrant{priority: Demand}
			must(0, s.ranges.enter(t.Context(), e))
			busy = append(busy, e)
		}
		close(ready) // some are lent, and have to wait for a place now
		synctest.Wait()
		if n := len(s.ranges.waiting[Demand].back) + s.ranges.waiting[Demand].len(); n != 6 {
			t.Errorf("%d wait", n)
		}
		leave()
		readers.Wait()
		for _, h := range hung {
			must(0, h.Close())
		}
		for _, e := range busy {
			s.ranges.leave(e)
		}
		(&line{t: t, gate: s.ranges}).empty()
	})
}

// Nor does a TOC that does not come keep others waiting.
func TestHungTOC(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := NewScheduler(SchedulerOptions{TailMemory: -1, Concurrency: 1})
		ready := make(chan struct{})
		var opening sync.WaitGroup
		for _, external := range []bool{false, true} {
			o := testLayer().options(t, newStore(t))
			o.Scheduler, o.Ref = s, hungImage
			hang(o.Blob.(*fake), ready)
			if external {
				o.BlobSize, o.TOCPlace = int64(len(o.Blob.(*fake).data)), toc.Place{}
				o.External = func(ctx context.Context) ([]byte, error) {
					<-ready
					return nil, errors.New("no such image")
				}
			}
			opening.Go(func() {
				l, err := Open(t.Context(), o)
				if err != nil {
					t.Error(err)
					return
				}
				must(0, l.Close())
			})
		}
		time.Sleep(silentGrace)
		synctest.Wait()
		h := readAtOnce(t, testLayer(), s)
		must(0, h.Close())
		close(ready)
		opening.Wait()
		(&line{t: t, gate: s.ranges}).empty()
	})
}

// A place for a range of a plain layer is lent, and it is back without one: who uses ranges in order needs it before those that come later.
func TestHungPlace(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := NewScheduler(SchedulerOptions{Concurrency: 1})
		ready := make(chan struct{})
		b := &fake{t: t, data: bytes.Repeat([]byte("x"), 100)}
		silentAfter(10)(b, ready)
		memory, other := must(s.Reserve(t.Context(), hungImage, 100)), must(s.Reserve(t.Context(), "registry.test/app:1", 100))
		first := must(memory.Admit(t.Context()))
		body := must(first.ReadRange(t.Context(), b, 0, 100))
		if got, want := b.seen(), (request{0, 100, Prefetch}); len(got) != 1 || got[0] != want {
			t.Errorf("asked for %v, want %v", got, want)
		}
		read := make(chan []byte)
		go func() { read <- must(io.ReadAll(body)) }()
		time.Sleep(silentGrace)
		synctest.Wait()
		if s.Inflight() != 200 {
			t.Errorf("%d bytes held", s.Inflight())
		}
		second := must(other.Admit(t.Context()))
		close(ready)
		if got := <-read; !slices.Equal(got, b.data) {
			t.Errorf("got %q", got)
		}
		must(0, body.Close())
		first.Leave()
		second.Leave()
		memory.Release()
		other.Release()
		(&line{t: t, gate: s.ranges}).empty()
	})
}

package layer

import (
	"context"
	"errors"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// reserve has a reservation made, or waited for, in a synctest bubble.
func reserve(t *testing.T, s *Scheduler, bytes int64) <-chan *Reservation {
	out := make(chan *Reservation, 1)
	go func() {
		r, err := s.Reserve(t.Context(), "image", bytes)
		if err != nil {
			t.Error(err)
		}
		out <- r
	}()
	synctest.Wait()
	return out
}

// now returns what has come, nil if that is nothing yet.
func now(r <-chan *Reservation) *Reservation {
	synctest.Wait()
	select {
	case got := <-r:
		return got
	default:
		return nil
	}
}

func TestReserve(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := NewScheduler(SchedulerOptions{MemoryLimit: 1000})
		first, second := now(reserve(t, s, 400)), now(reserve(t, s, 350))
		third := reserve(t, s, 100)
		if first == nil || second == nil || now(third) != nil || s.Inflight() != 750 {
			t.Fatalf("%v, %v and not the third; %d bytes", first, second, s.Inflight())
		}
		l := &line{t: t, gate: s.ranges}
		l.queue(t.Context(), "fill", Background, 10)
		l.queue(t.Context(), "no room", Background, 10)
		l.queue(t.Context(), "list", Prefetch, 100)
		l.queue(t.Context(), "read", Demand, 100)
		l.expect("fill", "list", "read") // "fill" has found the gate empty
		place, err := first.Admit(t.Context())
		if err != nil || s.Inflight() != 960 {
			t.Errorf("a range of it: %v, %d bytes", err, s.Inflight())
		}
		place.Leave()
		place.Leave()
		for _, p := range []Priority{Demand, Prefetch, Background} {
			l.leaves(p)
		}
		second.Release()
		synctest.Wait()
		if now(third) == nil {
			t.Error("there is room")
		}
		l.expect("no room")
		l.leaves(Background)
		if s.Inflight() != 500 {
			t.Errorf("%d bytes", s.Inflight())
		}
	})
}

// TestReserveGrow: two that both need more than there is do not wait for each other.
func TestReserveGrow(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := NewScheduler(SchedulerOptions{MemoryLimit: 1000})
		old, young := now(reserve(t, s, 300)), now(reserve(t, s, 300))
		next := reserve(t, s, 300)
		var mu sync.Mutex
		grown := ""
		grow := func(name string, r *Reservation) {
			go func() {
				if err := r.Grow(t.Context(), 500); err != nil {
					t.Error(err)
				}
				mu.Lock()
				defer mu.Unlock()
				grown += name
			}()
			synctest.Wait()
		}
		grow("y", young)
		grow("o", old)
		if grown != "o" || now(next) != nil || s.Inflight() != 1100 {
			t.Errorf("%q have grown, %d bytes", grown, s.Inflight())
		}
		old.Release()
		synctest.Wait()
		if grown != "oy" || now(next) != nil || s.Inflight() != 800 {
			t.Errorf("%q have grown, %d bytes", grown, s.Inflight())
		}
		young.Release()
		last := now(next)
		if last == nil {
			t.Fatal("the last one still waits")
		}
		last.Release()
		if s.Inflight() != 0 {
			t.Errorf("%d bytes at the end", s.Inflight())
		}
	})
}

// TestReserveAlone: what exceeds the limit is in alone, ranges do not keep it out, and it does not keep them out.
func TestReserveAlone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := NewScheduler(SchedulerOptions{MemoryLimit: 1000})
		l := &line{t: t, gate: s.ranges}
		l.queue(t.Context(), "list 1", Prefetch, 100)
		big := reserve(t, s, 5000)
		l.queue(t.Context(), "list 2", Prefetch, 100)
		l.queue(t.Context(), "fill", Background, 100)
		l.queue(t.Context(), "read", Demand, 100)
		l.expect("list 1", "read")
		if now(big) != nil {
			t.Error("it is not alone")
		}
		l.leaves(Demand)
		l.leaves(Prefetch)
		r := now(big)
		if r == nil {
			t.Fatal("it is alone now")
		}
		l.expect("list 2")
		for range 3 { // whatever is held, one at a time is
			l.queue(t.Context(), "read", Demand, 100)
			l.leaves(l.inside[0].priority)
			l.expect("read")
		}
		for range 3 { // its own ranges take no memory
			place, err := r.Admit(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			defer place.Leave()
		}
		r.Release()
		l.leaves(Demand)
		time.Sleep(2 * backgroundTrickle)
		l.expect("fill")
	})
}

func TestReserveCancel(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := NewScheduler(SchedulerOptions{MemoryLimit: 1000})
		first := now(reserve(t, s, 500))
		cause := errors.New("stop")
		ctx, cancel := context.WithCancelCause(t.Context())
		result := make(chan error)
		go func() {
			_, err := s.Reserve(ctx, "image", 500)
			result <- err
		}()
		synctest.Wait()
		second := reserve(t, s, 200)
		if now(second) != nil {
			t.Error("it has overtaken")
		}
		cancel(cause)
		if err := <-result; !errors.Is(err, cause) {
			t.Errorf("got %v", err)
		}
		if now(second) == nil || s.Inflight() != 700 {
			t.Errorf("%d bytes", s.Inflight())
		}
		if err := first.Grow(ctx, 1); !errors.Is(err, cause) {
			t.Errorf("with a context that had ended: %v", err)
		}
	})
}

// TestPlaceYields: a range that is fetched elsewhere gives way to readers, until they are served, its patience ends, or it is waited for.
func TestPlaceYields(t *testing.T) {
	for name, c := range map[string]struct {
		end    func(g *gate, read *entrant, awaited chan struct{})
		rushed bool
	}{
		"calm":     {func(g *gate, read *entrant, _ chan struct{}) { g.leave(read) }, false},
		"patience": {func(*gate, *entrant, chan struct{}) { time.Sleep(backgroundTrickle) }, true},
		"awaited":  {func(_ *gate, _ *entrant, awaited chan struct{}) { close(awaited) }, true},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := NewScheduler(SchedulerOptions{})
				place, err := now(reserve(t, s, 1)).Admit(t.Context())
				if err != nil {
					t.Fatal(err)
				}
				awaited := make(chan struct{})
				if waited := place.Yield(t.Context(), awaited); waited != 0 {
					t.Errorf("waited %s for nobody", waited)
				}
				read := &entrant{priority: Demand}
				if err := s.ranges.enter(t.Context(), read); err != nil {
					t.Fatal(err)
				}
				done := make(chan time.Duration, 1)
				go func() { done <- place.Yield(t.Context(), awaited) }()
				synctest.Wait()
				if len(done) > 0 {
					t.Error("it reads on")
				}
				c.end(s.ranges, read, awaited)
				<-done
				if !c.rushed {
					read = &entrant{priority: Demand}
					if err := s.ranges.enter(t.Context(), read); err != nil {
						t.Fatal(err)
					}
				}
				if waited := place.Yield(t.Context(), nil); (waited == 0) != c.rushed {
					t.Errorf("then it waited %s", waited)
				}
			})
		})
	}
}

// TestReserveBesideSilent: what ranges keep that wait for a silent registry is not in the way of who needs all of the memory, and those
// that have begun go on while it waits.
func TestReserveBesideSilent(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := NewScheduler(SchedulerOptions{MemoryLimit: 1000})
		l := &line{t: t, gate: s.ranges}
		hung := &entrant{priority: Background, image: hungImage, bytes: 300, held: func() int64 { return 100 }}
		l.add(t.Context(), "hung", hung)
		l.silent(hung)
		l.queue(t.Context(), "fill", Background, 10)
		r := reserve(t, s, 2000)
		l.queue(t.Context(), "next", Background, 10)
		l.back(t.Context(), "back", hung)
		l.expect("hung", "fill", "back")
		l.silent(hung)
		if now(r) != nil {
			t.Error("granted, though a range is under way that will end")
		}
		l.leave(l.inside[1])
		got := now(r)
		if got == nil {
			t.Fatal("not granted")
		}
		l.expect("next")
		l.leave(l.inside[2])
		got.Release()
		l.leave(hung)
		l.empty()
	})
}

package remote

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

const (
	small = 1
	large = smallRange + 1
)

func newPacer() *pacer {
	r := New(Options{Backoff: Backoff{Min: time.Second, Max: time.Second}})
	return &pacer{registry: r, epoch: r.clock.now(), slots: make(map[*slot]struct{})}
}

// entered starts n large requests, which must not wait.
func entered(t *testing.T, p *pacer, n int) []*slot {
	t.Helper()
	slots := make([]*slot, n)
	for i := range slots {
		ctx, cancel := context.WithTimeout(t.Context(), time.Millisecond)
		defer cancel()
		s, err := p.enter(ctx, order{size: large})
		if err != nil {
			t.Fatalf("request %d of %d: %v", i+1, n, err)
		}
		slots[i] = s
	}
	return slots
}

// full fails if another request may start.
func full(t *testing.T, p *pacer) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Millisecond)
	defer cancel()
	if _, err := p.enter(ctx, order{}); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("one request too many: %v", err)
	}
}

func TestPacerHalvesAndGrows(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPacer()
		first := entered(t, p, 16)
		first[0].answer(200, 0)
		for _, s := range first[1:5] { // all of them know no better
			s.answer(429, 10*time.Second)
		}
		if p.allowed() != 8 {
			t.Errorf("limit %d, want 8", p.allowed())
		}
		if _, err := p.enter(t.Context(), order{}); !errors.Is(err, errPaused) {
			t.Errorf("asked before its time: %v", err)
		}
		for _, s := range first {
			s.answer(200, 0) // as late as this they mean nothing
			s.leave()
		}
		time.Sleep(10 * time.Second)
		slots := entered(t, p, 8)
		full(t, p)
		for n := 8; n <= 32; n++ {
			for i := range growAfter {
				if p.allowed() != n {
					t.Fatalf("limit %d after %d good answers at %d", p.allowed(), i, n)
				}
				slots[0].answer(206, 0)
			}
		}
		if p.allowed() != 0 {
			t.Errorf("limit %d, want none any more", p.allowed())
		}
		entered(t, p, 100)
	})
}

func TestPacerGoesDownToOne(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPacer()
		for i, want := range []int{2, 1, 1, 1} {
			n := 1
			if i == 0 {
				n = 5
			}
			start := time.Now()
			slots := entered(t, p, n)
			slots[0].answer(503, 0)
			if p.allowed() != want {
				t.Errorf("limit %d after %d overloads, want %d", p.allowed(), i+1, want)
			}
			if wait := p.until().Sub(start); wait < time.Second/2 || wait > 2*time.Second {
				t.Errorf("asks to wait %v without Retry-After", wait)
			}
			for _, s := range slots {
				s.leave()
			}
			time.Sleep(time.Until(p.until()))
		}
	})
}

func TestOverloaded(t *testing.T) {
	for code, want := range map[int][2]bool{ // without and with Retry-After
		200: {}, 206: {}, 302: {}, 401: {}, 403: {}, 404: {}, 416: {}, 501: {},
		408: {false, true}, 425: {false, true}, 500: {false, true},
		429: {true, true}, 502: {true, true}, 503: {true, true}, 504: {true, true},
	} {
		if got := [2]bool{overloaded(code, 0), overloaded(code, time.Second)}; got != want {
			t.Errorf("%d: %v, want %v", code, got, want)
		}
	}
}

// limited returns a pacer with a limit, all of which is under way.
func limited(t *testing.T, limit int) (*pacer, []*slot) {
	t.Helper()
	p := newPacer()
	p.limit, p.peak = limit, 1000
	return p, entered(t, p, limit)
}

func TestPacerQueues(t *testing.T) {
	tests := []struct {
		name  string
		come  []order
		order []uint64
	}{
		{"first come first served", []order{{1, large}, {2, large}, {3, large}}, []uint64{1, 2, 3}},
		{"by the age of the trial", []order{{3, large}, {1, large}, {2, large}}, []uint64{1, 2, 3}},
		{"small and large take turns", []order{{1, large}, {2, large}, {3, large}, {4, small}, {5, small}}, []uint64{4, 1, 5, 2, 3}},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				p, slots := limited(t, 1)
				p.turn = 1
				var got []uint64
				admitted := make(chan *slot)
				for _, o := range test.come {
					go func() {
						s, err := p.enter(t.Context(), o)
						if err != nil {
							t.Error(err)
						}
						got = append(got, o.ticket)
						admitted <- s
					}()
					synctest.Wait()
				}
				s := slots[0]
				for range test.come {
					s.leave()
					s = <-admitted
				}
				if fmt.Sprint(got) != fmt.Sprint(test.order) {
					t.Errorf("%v, want %v", got, test.order)
				}
			})
		})
	}
}

type urgencyKey struct{}

// byUrgency lets requests wait at p, each as urgent as it says at the moment, and returns in which order they are let in.
func byUrgency(t *testing.T, p *pacer, begin *slot, come ...*atomic.Int64) (names []int) {
	t.Helper()
	admitted := make(chan *slot)
	for i, urgency := range come {
		go func() {
			size := int64(large)
			if i%2 == 1 {
				size = small
			}
			s, err := p.enter(context.WithValue(t.Context(), urgencyKey{}, urgency), order{uint64(i), size})
			if err != nil {
				t.Error(err)
			}
			names = append(names, i)
			admitted <- s
		}()
		synctest.Wait()
	}
	for range come {
		begin.leave()
		begin = <-admitted
	}
	return names
}

func urgent(levels ...int64) []*atomic.Int64 {
	out := make([]*atomic.Int64, len(levels))
	for i, n := range levels {
		out[i] = new(atomic.Int64)
		out[i].Store(n)
	}
	return out
}

func TestPacerUrgency(t *testing.T) {
	for name, test := range map[string]struct {
		levels []*atomic.Int64
		want   []int
	}{
		"alike, in turns":  {urgent(1, 1, 1, 1), []int{1, 0, 3, 2}},
		"demand at last":   {urgent(0, 0, 1, 1, 2, 2), []int{5, 4, 3, 2, 1, 0}},
		"demand is small":  {urgent(1, 0, 1, 2), []int{3, 0, 2, 1}},
		"demand is large":  {urgent(1, 0, 2, 1), []int{2, 3, 0, 1}},
		"first come first": {urgent(0, 0, 2, 0, 2), []int{2, 4, 1, 0, 3}},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				p, slots := limited(t, 1)
				p.registry.opts.Urgency = func(ctx context.Context) int {
					n, ok := ctx.Value(urgencyKey{}).(*atomic.Int64)
					if !ok {
						return 0
					}
					return int(n.Load())
				}
				if got := byUrgency(t, p, slots[0], test.levels...); fmt.Sprint(got) != fmt.Sprint(test.want) {
					t.Errorf("%v, want %v", got, test.want)
				}
			})
		})
	}
}

// A request that somebody comes to wait for is urgent from then on, and one that nobody waits for is not passed over for ever.
func TestPacerUrgencyChanges(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p, slots := limited(t, 1)
		p.registry.opts.Urgency = func(ctx context.Context) int { return int(ctx.Value(urgencyKey{}).(*atomic.Int64).Load()) }
		come := make(chan int, 16)
		enter := func(i int, urgency *atomic.Int64) {
			go func() {
				s, err := p.enter(context.WithValue(t.Context(), urgencyKey{}, urgency), order{uint64(i), large})
				if err != nil {
					t.Error(err)
					return
				}
				slots = append(slots, s)
				come <- i
			}()
			synctest.Wait()
		}
		next := func(want int) {
			t.Helper()
			slots[len(slots)-1].leave()
			if got := <-come; got != want {
				t.Errorf("%d, want %d", got, want)
			}
		}
		levels := urgent(0, 0, 1, 2, 2, 2, 2)
		for i, n := range levels {
			enter(i, n)
		}
		next(3)
		levels[1].Store(2) // joined
		next(1)
		time.Sleep(passedOver)
		next(0)
		next(4)
		time.Sleep(passedOver / 2)
		next(5)
		time.Sleep(passedOver / 2)
		next(2)
		next(6)
	})
}

func TestPacerSendsWaitersAway(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p, slots := limited(t, 2)
		errs := make(chan error, 3)
		for range 3 {
			go func() {
				_, err := p.enter(t.Context(), order{size: large})
				errs <- err
			}()
		}
		synctest.Wait()
		slots[0].answer(429, time.Minute)
		for range 3 {
			if err := <-errs; !errors.Is(err, errPaused) {
				t.Error(err)
			}
		}
		if p.queues[0].Len() != 0 {
			t.Error("somebody is left in the queue")
		}
	})
}

func TestPacerCancel(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p, slots := limited(t, 1)
		cause := errors.New("nobody reads")
		ctx, cancel := context.WithCancelCause(t.Context())
		errs := make(chan error)
		for range 3 {
			go func() {
				_, err := p.enter(ctx, order{})
				errs <- err
			}()
		}
		synctest.Wait()
		start := time.Now()
		cancel(cause)
		for range 3 {
			if err := <-errs; !errors.Is(err, cause) {
				t.Error(err)
			}
		}
		if time.Since(start) != 0 {
			t.Errorf("left after %v", time.Since(start))
		}
		slots[0].leave()
		entered(t, p, 1)
	})
}

// A request that does not move does not keep others from it.
func TestPacerLends(t *testing.T) {
	for _, test := range []struct {
		name string
		stop func(*slot)
		wait time.Duration
	}{
		{"unread", func(s *slot) { s.lies(time.Now()) }, idleGrace},
		{"stalled", func(s *slot) { s.waits(time.Now()) }, stallGrace},
	} {
		t.Run(test.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				p, slots := limited(t, 1)
				for range 3 { // and those who were let in may stop, too
					start := time.Now()
					test.stop(slots[0])
					s, err := p.enter(t.Context(), order{size: large})
					if d := time.Since(start); err != nil || d < test.wait || d > test.wait+2*idleGrace {
						t.Errorf("%v after %v, want %v", err, d, test.wait)
					}
					slots[0] = s
				}
				slots[0].waits(time.Now())
				full(t, p)
			})
		})
	}
}

// Whoever comes and goes as it likes, nobody is forgotten and the limit holds.
func TestPacerUnderLoad(t *testing.T) {
	p, slots := limited(t, 3)
	for _, s := range slots {
		s.leave()
	}
	p.peak = 1 << 30
	var inside, most atomic.Int64
	var wg sync.WaitGroup
	for i := range 200 {
		wg.Go(func() {
			for range 20 {
				ctx, cancel := context.WithTimeout(t.Context(), rand.N(2*time.Millisecond))
				s, err := p.enter(ctx, order{uint64(i), int64(i%2) * large})
				if err == nil {
					n := inside.Add(1)
					for m := most.Load(); n > m && !most.CompareAndSwap(m, n); m = most.Load() {
					}
					time.Sleep(rand.N(100 * time.Microsecond))
					inside.Add(-1)
					s.leave()
				}
				cancel()
			}
		})
	}
	wg.Wait()
	if len(p.slots) != 0 || p.queues[0].Len()+p.queues[1].Len() != 0 || most.Load() > 3 || most.Load() == 0 {
		t.Errorf("%d under way, %d and %d waiting, %d at once", len(p.slots), p.queues[0].Len(), p.queues[1].Len(), most.Load())
	}
}

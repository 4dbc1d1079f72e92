package layer

import (
	"context"
	"errors"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// line is a gate and those who want in, in a synctest bubble.
type line struct {
	t *testing.T
	*gate
	mu      sync.Mutex
	entered []string
}

// queue makes one wait at the gate, behind those that do.
func (l *line) queue(ctx context.Context, name string, p Priority, bytes int64) {
	go func() {
		if l.enter(ctx, p, bytes) != nil {
			name = "!" + name
		}
		l.mu.Lock()
		defer l.mu.Unlock()
		l.entered = append(l.entered, name)
	}()
	synctest.Wait()
}

func (l *line) expect(names ...string) {
	l.t.Helper()
	synctest.Wait()
	l.mu.Lock()
	defer l.mu.Unlock()
	if !slices.Equal(l.entered, names) {
		l.t.Errorf("entered: %v, want %v", l.entered, names)
	}
	l.entered = nil
}

func newLine(t *testing.T, o SchedulerOptions) *line {
	return &line{t: t, gate: NewScheduler(o).ranges}
}

func TestGateOrder(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLine(t, SchedulerOptions{Concurrency: 1})
		ctx := t.Context()
		l.queue(ctx, "first", Background, 1)
		l.expect("first")
		l.queue(ctx, "background 1", Background, 1)
		l.queue(ctx, "prefetch 1", Prefetch, 1)
		l.queue(ctx, "background 2", Background, 1)
		l.queue(ctx, "demand 1", Demand, 1)
		l.queue(ctx, "demand 2", Demand, 1)
		gone, leave := context.WithCancel(ctx)
		l.queue(gone, "gone", Demand, 1)
		l.queue(ctx, "prefetch 2", Prefetch, 1)
		leave()
		l.expect("!gone")
		for _, step := range []struct {
			name string
			next Priority
		}{
			{"demand 1", Demand}, {"demand 2", Demand}, {"prefetch 1", Prefetch}, {"prefetch 2", Prefetch},
			{"background 1", Background}, {"background 2", Background},
		} {
			last := Background
			for p := range l.inside {
				if l.inside[p] > 0 {
					last = Priority(p)
				}
			}
			l.leave(last, 1)
			l.expect(step.name)
			if l.inside[step.next] != 1 {
				t.Errorf("%s is not inside as %s", step.name, step.next)
			}
		}
		l.leave(Background, 1)
		if l.holding() != 0 {
			t.Errorf("%d bytes held at the end", l.holding())
		}
	})
}

// Background gets a quarter of the places and three quarters of the bytes.
func TestGateLeavesRoom(t *testing.T) {
	for name, tt := range map[string]struct {
		options    SchedulerOptions
		bytes      int64
		background int
	}{
		"places": {SchedulerOptions{Concurrency: 16}, 1, 4},
		"bytes":  {SchedulerOptions{Concurrency: 100, MemoryLimit: 1600}, 100, 12},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				l := newLine(t, tt.options)
				ctx, cancel := context.WithCancel(t.Context())
				for _, c := range []struct {
					p    Priority
					want int // inside afterwards, all together
				}{{Background, tt.background}, {Prefetch, 14}, {Demand, 16}} {
					for range 20 {
						l.queue(ctx, "", c.p, tt.bytes)
					}
					if got := l.inside[0] + l.inside[1] + l.inside[2]; got != c.want {
						t.Errorf("%d inside with %s, want %d", got, c.p, c.want)
					}
				}
				cancel()
				synctest.Wait()
			})
		})
	}
}

func TestGateOversized(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLine(t, SchedulerOptions{MemoryLimit: 1000})
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		l.queue(ctx, "small", Background, 10)
		l.queue(ctx, "huge", Background, 5000)
		l.queue(ctx, "late", Background, 10)
		l.expect("small") // not "late": it would keep "huge" out for ever
		l.leave(Background, 10)
		l.expect("huge")
		l.queue(ctx, "demand", Demand, 10)
		l.expect()
		l.leave(Background, 5000)
		l.expect("demand")
		time.Sleep(2 * backgroundTrickle)
		l.expect("late")
	})
}

// A waiter in the way of others lets them through when it goes.
func TestGateUnblocks(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLine(t, SchedulerOptions{MemoryLimit: 1000})
		l.queue(t.Context(), "one", Demand, 600)
		ctx, leave := context.WithCancel(t.Context())
		l.queue(ctx, "two", Demand, 600)
		l.queue(t.Context(), "three", Demand, 100)
		l.expect("one")
		leave()
		synctest.Wait()
		slices.Sort(l.entered)
		l.expect("!two", "three")
		if err := l.enter(ctx, Demand, 1); !errors.Is(err, context.Canceled) {
			t.Errorf("entered with a context that had ended: %v", err)
		}
	})
}

// Background gives way to what is urgent, but not for ever.
func TestGateTrickle(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLine(t, SchedulerOptions{})
		l.queue(t.Context(), "read", Demand, 1)
		for range 3 {
			l.queue(t.Context(), "fill", Background, 1)
		}
		l.expect("read")
		time.Sleep(backgroundTrickle - 1)
		l.expect()
		time.Sleep(backgroundTrickle / 2)
		l.expect("fill")
		time.Sleep(backgroundTrickle)
		l.expect("fill")
		l.leave(Demand, 1)
		l.expect("fill")
	})
}

func TestBufferSize(t *testing.T) {
	for _, tt := range []struct{ n, want int64 }{
		{1, 64 << 10}, {64 << 10, 64 << 10}, {64<<10 + 1, 128 << 10}, {4 << 20, 4 << 20}, {8 << 20, 8 << 20}, {8<<20 + 1, 8<<20 + 1},
	} {
		b := newBuffers()
		if got := bufferSize(tt.n); got != tt.want || int64(len(*b.get(tt.n))) != tt.want {
			t.Errorf("buffer for %d bytes has %d, want %d", tt.n, got, tt.want)
		}
	}
}

// What background waits for when it yields: that no demand or prefetch is inside.
func TestWhenCalm(t *testing.T) {
	g := NewScheduler(SchedulerOptions{}).ranges
	if g.whenCalm() != nil {
		t.Error("an empty gate is not calm")
	}
	for _, p := range []Priority{Background, Prefetch, Demand} {
		if err := g.enter(t.Context(), p, 1); err != nil {
			t.Fatal(err)
		}
	}
	calm := g.whenCalm()
	g.leave(Demand, 1)
	select {
	case <-calm:
		t.Error("calm with prefetch inside")
	default:
	}
	g.leave(Prefetch, 1)
	select {
	case <-calm:
	default:
		t.Error("not calm with background alone")
	}
	if g.whenCalm() != nil {
		t.Error("not calm afterwards")
	}
}

// A range of background that is under way does not read on while a reader fetches something else, until that is done,
// or its patience ends, or a reader waits for the range itself.
func TestBackgroundYields(t *testing.T) {
	for name, end := range map[string]func(g *gate, f *flight){
		"calm":     func(g *gate, _ *flight) { g.leave(Demand, 1) },
		"patience": func(*gate, *flight) { time.Sleep(backgroundTrickle) },
		"joined":   func(_ *gate, f *flight) { f.wait() },
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				g := NewScheduler(SchedulerOptions{}).ranges
				if err := g.enter(t.Context(), Demand, 1); err != nil {
					t.Fatal(err)
				}
				f := &flight{base: Background, ctx: t.Context(), raised: make(chan struct{})}
				b := body{core: core{f: f}, ranges: g, stats: new(Range)}
				done := make(chan struct{})
				go func() { b.yield(); close(done) }()
				synctest.Wait()
				select {
				case <-done:
					t.Error("background reads on")
				default:
				}
				end(g, f)
				<-done
			})
		})
	}
}

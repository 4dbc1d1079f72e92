package layer

import (
	"cmp"
	"context"
	"errors"
	"math/rand/v2"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/sluice-snapshotter/sluice/cache"
	"github.com/sluice-snapshotter/sluice/fs/toc"
)

// line is a gate and those who want in, in a synctest bubble.
type line struct {
	t *testing.T
	*gate
	mu      sync.Mutex
	entered []string
	inside  []*entrant
}

// queue makes one wait at the gate, behind those that do.
func (l *line) queue(ctx context.Context, name string, p Priority, bytes int64) {
	l.add(ctx, name, &entrant{priority: p, bytes: bytes})
}

func (l *line) add(ctx context.Context, name string, e *entrant) {
	go func() {
		err := l.enter(ctx, e)
		l.mu.Lock()
		defer l.mu.Unlock()
		if err != nil {
			name = "!" + name
		} else {
			l.inside = append(l.inside, e)
		}
		l.entered = append(l.entered, name)
	}()
	synctest.Wait()
}

// leaves has one of a priority leave.
func (l *line) leaves(p Priority) {
	l.mu.Lock()
	i := slices.IndexFunc(l.inside, func(e *entrant) bool { return e.priority == p })
	e := l.inside[i]
	l.inside = slices.Delete(l.inside, i, i+1)
	l.mu.Unlock()
	l.leave(e)
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
			l.leaves(l.inside[0].priority)
			l.expect(step.name)
			if l.gate.inside[step.next] != 1 {
				t.Errorf("%s is not inside as %s", step.name, step.next)
			}
		}
		l.leaves(Background)
		if l.holding() != 0 {
			t.Errorf("%d bytes held at the end", l.holding())
		}
	})
}

// Background gets as many places as the pilot gives it, and three quarters of the bytes.
func TestGateLeavesRoom(t *testing.T) {
	for name, tt := range map[string]struct {
		options    SchedulerOptions
		bytes      int64
		places     int // that the pilot gives
		background int
	}{
		"to begin with": {SchedulerOptions{Concurrency: 16}, 1, pilotStart, 2},
		"places":        {SchedulerOptions{Concurrency: 16}, 1, 4, 4},
		"most":          {SchedulerOptions{Concurrency: 16}, 1, 16, 12},
		"bytes":         {SchedulerOptions{Concurrency: 100, MemoryLimit: 1600}, 100, 75, 12},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				l := newLine(t, tt.options)
				if tt.places != pilotStart {
					l.gate.steer(tt.places)
				}
				ctx, cancel := context.WithCancel(t.Context())
				for _, c := range []struct {
					p    Priority
					want int // inside afterwards, all together
				}{{Background, tt.background}, {Prefetch, 14}, {Demand, 16}} {
					for range 20 {
						l.queue(ctx, "", c.p, tt.bytes)
					}
					if got := l.gate.inside[0] + l.gate.inside[1] + l.gate.inside[2]; got != c.want {
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
		l.leaves(Background)
		l.expect("huge")
		l.queue(ctx, "demand", Demand, 10)
		l.expect()
		l.leaves(Background)
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
		if err := l.enter(ctx, &entrant{priority: Demand}); !errors.Is(err, context.Canceled) {
			t.Errorf("entered with a context that had ended: %v", err)
		}
	})
}

// Background gives way to what is urgent, but not for ever, however much of that there is.
func TestGateTrickle(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLine(t, SchedulerOptions{})
		l.gate.steer(3)
		for range 2 {
			l.queue(t.Context(), "read", Demand, 1)
			l.queue(t.Context(), "read ahead", Prefetch, 1)
		}
		for range 3 {
			l.queue(t.Context(), "fill", Background, 1)
		}
		l.expect("read", "read ahead", "read", "read ahead")
		time.Sleep(backgroundTrickle - 1)
		l.expect()
		time.Sleep(backgroundTrickle / 2)
		l.expect("fill")
		time.Sleep(backgroundTrickle)
		l.expect("fill")
		for range 2 {
			l.leaves(Demand)
			l.leaves(Prefetch)
		}
		l.expect("fill")
	})
}

func TestBufferSize(t *testing.T) {
	for _, tt := range []struct{ n, want int64 }{
		{1, 64<<10 + bufferSlack}, {64 << 10, 64<<10 + bufferSlack}, {64<<10 + bufferSlack + 1, 128<<10 + bufferSlack},
		{4<<20 + decodeRoom, 4<<20 + bufferSlack}, {8<<20 + bufferSlack, 8<<20 + bufferSlack}, {8<<20 + bufferSlack + 1, 8<<20 + bufferSlack + 1},
	} {
		b := newBuffers()
		if got := bufferSize(tt.n); got != tt.want || int64(len(*b.get(tt.n))) != tt.want {
			t.Errorf("buffer for %d bytes has %d, want %d", tt.n, got, tt.want)
		}
	}
}

// What background waits for when it yields: that no demand or prefetch is inside; and prefetch: that no demand is.
func TestWhenCalm(t *testing.T) {
	g := NewScheduler(SchedulerOptions{}).ranges
	if g.whenCalm(Background) != nil {
		t.Error("an empty gate is not calm")
	}
	var inside [priorities]*entrant
	for _, p := range []Priority{Background, Prefetch, Demand} {
		inside[p] = &entrant{priority: p}
		if err := g.enter(t.Context(), inside[p]); err != nil {
			t.Fatal(err)
		}
	}
	if g.whenCalm(Demand) != nil {
		t.Error("there is something above demand")
	}
	background, prefetch := g.whenCalm(Background), g.whenCalm(Prefetch)
	g.leave(inside[Demand])
	select {
	case <-background:
		t.Error("calm with prefetch inside")
	default:
	}
	select {
	case <-prefetch:
	default:
		t.Error("not calm for prefetch without demand")
	}
	g.leave(inside[Prefetch])
	select {
	case <-background:
	default:
		t.Error("not calm with background alone")
	}
	if g.whenCalm(Background) != nil {
		t.Error("not calm afterwards")
	}
}

// A range of background or prefetch that is under way does not read on while a reader fetches something else, until that is done,
// or its patience ends, or a reader waits for the range itself.
func TestBackgroundYields(t *testing.T) {
	for name, end := range map[string]func(g *gate, f *flight, read *entrant){
		"calm":     func(g *gate, _ *flight, read *entrant) { g.leave(read) },
		"patience": func(*gate, *flight, *entrant) { time.Sleep(backgroundTrickle) },
		"joined":   func(_ *gate, f *flight, _ *entrant) { f.wait() },
	} {
		for _, p := range []Priority{Background, Prefetch} {
			t.Run(name+", "+p.String(), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					g, read := NewScheduler(SchedulerOptions{}).ranges, &entrant{priority: Demand}
					if err := g.enter(t.Context(), read); err != nil {
						t.Fatal(err)
					}
					f := &flight{base: p, ctx: t.Context(), raised: make(chan struct{})}
					b := body{f: f, ranges: g, stats: new(Range)}
					done := make(chan struct{})
					go func() { b.yield(); close(done) }()
					synctest.Wait()
					select {
					case <-done:
						t.Error("it reads on")
					default:
					}
					end(g, f, read)
					<-done
				})
			})
		}
	}
}

// Images take turns within a priority, however many ranges each of them wants.
func TestGateFair(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLine(t, SchedulerOptions{Concurrency: 2})
		queue := func(image string, p Priority) {
			l.add(t.Context(), image, &entrant{priority: p, image: image})
		}
		for range 4 {
			queue("large", Prefetch)
		}
		for range 2 {
			queue("small", Prefetch)
		}
		l.expect("large")
		l.leaves(Prefetch)
		l.expect("large") // none of either was inside: what came first
		queue("small", Demand)
		l.expect("small")
		l.leaves(Prefetch)
		l.expect() // demand has the only place that prefetch may take
		l.leaves(Demand)
		l.expect("large")
	})
}

// Work that a reader comes to wait for while it waits itself goes to the front.
func TestGateRaise(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLine(t, SchedulerOptions{Concurrency: 1})
		l.queue(t.Context(), "first", Demand, 1)
		raised := make(chan struct{})
		l.queue(t.Context(), "ahead", Prefetch, 1)
		l.add(t.Context(), "awaited", &entrant{priority: Prefetch, raised: raised})
		close(raised)
		l.expect("first")
		l.leaves(Demand)
		l.expect("awaited")
		l.leaves(Demand)
		l.expect("ahead")
		l.leaves(Prefetch)
	})
}

// The pilot gives background more places as long as that makes it faster, takes back what does not, and finds its way back when more
// are no longer of use.
func TestPilot(t *testing.T) {
	for name, tt := range map[string]struct {
		rate func(places int) float64 // bytes a second
		want int
	}{
		"each connection is slow": {func(n int) float64 { return float64(n) * 1e6 }, 12},
		"two are enough":          {func(int) float64 { return 1e8 }, 2},
		"up to a limit":           {func(n int) float64 { return float64(min(n, 6)) * 1e6 }, 6},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				p := newPiloted(t)
				p.land(200, tt.rate)
				p.expect("after a climb", tt.want)
				p.landed(Range{Priority: Demand}, false, 0)
				time.Sleep(time.Hour) // which says nothing of the rate
				p.land(200, tt.rate)
				p.expect("after a disturbance", tt.want)
				p.land(20000, func(int) float64 { return 1e8 })
				p.expect("when two are enough", 2)
				p.land(20000, tt.rate)
				p.expect("when they are not any more", tt.want)
			})
		})
	}
}

// A host that is asked too much takes places away at once.
func TestPilotLimit(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPiloted(t)
		p.land(200, func(n int) float64 { return float64(n) * 1e6 })
		p.landed(Range{}, false, 5)
		p.expect("where the host allows 5 requests", 2)
	})
}

// piloted is a scheduler whose background ranges land at a given rate.
type piloted struct {
	*Scheduler
	t *testing.T
}

func newPiloted(t *testing.T) piloted { return piloted{NewScheduler(SchedulerOptions{}), t} }

func (p piloted) land(ranges int, rate func(places int) float64) {
	for range ranges {
		time.Sleep(time.Duration(1e6 / rate(p.pilot.places) * float64(time.Second)))
		p.landed(Range{Blob: 1e6}, false, 0)
	}
}

// expect looks at the places that are kept, not at those of an attempt that is under way.
func (p piloted) expect(when string, want int) {
	p.t.Helper()
	if got := cmp.Or(p.pilot.before, p.ranges.steered); got != want {
		p.t.Errorf("%s: %d places, want %d", when, got, want)
	}
}

// Whoever was given memory for a span has enough for what is still missing of it, at its beginning or later.
func TestMemoryOfParts(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 2))
	for range 2000 {
		l := &Layer{scheduler: NewScheduler(SchedulerOptions{MemoryLimit: 1 << (20 + rng.IntN(9))}), format: toc.EStargz}
		if rng.IntN(2) == 0 {
			l.format = toc.ZstdChunked
		}
		var s span
		off, last := int64(0), int64(0)
		for i := range 20 {
			c := cache.Chunk{BlobOffset: off, BlobSize: 1 + rng.Int64N(1<<(10+rng.IntN(16))), Size: 1 + rng.Int64N(1<<(10+rng.IntN(17)))}
			for part := range 1 + rng.IntN(3) {
				c.InnerOffset += int64(part) * c.Size
				if !s.add(i, c, bounds{1 << 40, bridge}) {
					t.Fatal("a chunk was not taken")
				}
				n := l.memory(s)
				if n < last {
					t.Fatalf("%d bytes for %+v, %d without its last chunk", n, s, last)
				}
				if used := l.jobs(s) * s.jobMemory(); s.whole() && used > n {
					t.Fatalf("%d bytes are reserved for %+v, which takes %d", n, s, used)
				}
				last = n
			}
			off += c.BlobSize
		}
	}
}

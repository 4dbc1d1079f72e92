package layer

import (
	"compress/gzip"
	"context"
	"errors"
	"io"
	"os"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/containerd/stargz-snapshotter/estargz"
)

// bigLayer has several ranges of Background.
var bigLayer = sync.OnceValue(func() fixture {
	files := testFiles()
	files[bigFile] = benchBytes(12 << 20)
	return build(files, estargz.WithCompressionLevel(gzip.NoCompression))
})

func withScheduler(s *Scheduler) func(*Options) {
	return func(o *Options) { o.Scheduler = s }
}

// ledger is what was asked for, and when.
type ledger struct {
	mu    sync.Mutex
	start time.Time
	bytes int64         // of Background
	last  time.Duration // when the last of it began
	burst int64         // the most that was ahead of the rate
}

func (l *ledger) watch(h *harness, rate int64) {
	h.blob.answer(func(_ context.Context, _ int, q request) (io.ReadCloser, error) {
		l.mu.Lock()
		defer l.mu.Unlock()
		if q.priority == Background {
			l.last = time.Since(l.start)
			l.bytes += q.size
			l.burst = max(l.burst, l.bytes-int64(float64(rate)*l.last.Seconds()))
		}
		return h.blob.plain(q), nil
	})
}

// The limit is one for all layers. It is reached, is exceeded by no more than a range, and keeps neither readers nor places waiting.
func TestBackgroundLimit(t *testing.T) {
	t.Run("slow", func(t *testing.T) { limitTo(t, 1<<20) })
	t.Run("fast", func(t *testing.T) { limitTo(t, 16<<20) })
}

func limitTo(t *testing.T, rate int64) {
	synctest.Test(t, func(t *testing.T) {
		s := NewScheduler(SchedulerOptions{TailMemory: -1, BackgroundLimit: rate})
		layers := []*harness{open(t, bigLayer(), withScheduler(s)), open(t, bigLayer(), withScheduler(s))}
		time.Sleep(lullTime) // opening them was urgent
		l := ledger{start: time.Now()}
		var filling sync.WaitGroup
		for _, h := range layers {
			l.watch(h, rate)
			filling.Go(func() {
				if err := h.Fill(t.Context()); err != nil {
					t.Error(err)
				}
			})
		}
		time.Sleep(5*time.Second + 7*time.Millisecond)
		synctest.Wait()
		for _, h := range layers {
			if n := s.Inflight(); n != 0 || h.blob.open != 0 {
				t.Errorf("%d bytes and %d connections are held by what is only waiting", n, h.blob.open)
			}
			before := time.Now()
			if err := h.Prefetch(t.Context(), 0, nil); err != nil {
				t.Error(err)
			}
			h.mustCheck(0, len(h.want)/2)
			if d := time.Since(before); d > 0 {
				t.Errorf("a reader and a prefetch list waited %v for a limit that is not theirs", d)
			}
		}
		filling.Wait()
		if l.bytes < 8<<20 {
			t.Fatalf("only %d bytes came in the background", l.bytes)
		}
		if most := int64(backgroundRange + float64(rate)*brakeSlack.Seconds()); l.burst > most {
			t.Errorf("%d bytes ahead of the rate, want at most %d", l.burst, most)
		}
		if want := time.Duration(float64(l.bytes) / float64(rate) * float64(time.Second)); l.last > want {
			t.Errorf("took %v for %d bytes, which the limit allows in %v", l.last, l.bytes, want)
		}
		for _, h := range layers {
			h.close()
		}
	})
}

// What is charged is what is fetched in the end.
func TestBrakeRevised(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLine(t, SchedulerOptions{BackgroundLimit: 100})
		l.gate.steer(3)
		first := &entrant{priority: Background, bytes: 1, blob: 1000}
		l.add(t.Context(), "first", first)
		l.add(t.Context(), "second", &entrant{priority: Background, bytes: 1, blob: 1000})
		l.add(t.Context(), "third", &entrant{priority: Background, bytes: 1, blob: 1000})
		l.queue(t.Context(), "prefetch", Prefetch, 1)
		l.leaves(Prefetch)
		l.expect("first", "prefetch")
		l.fetches(first, 0)
		l.expect("second")
		time.Sleep(10*time.Second - 3*brakeSlack)
		l.expect()
		time.Sleep(2 * brakeSlack)
		l.expect("third")
		for range 3 {
			l.leaves(Background)
		}
	})
}

// A range that has come otherwise while it waited costs the other layers nothing, nor does one that is given up.
func TestBrakeRefunds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := NewScheduler(SchedulerOptions{TailMemory: -1, BackgroundLimit: backgroundRange / 2})
		start := time.Now()
		first, second := open(t, bigLayer(), withScheduler(s)), open(t, bigLayer(), withScheduler(s))
		ctx, stop := context.WithCancel(t.Context())
		var filling sync.WaitGroup
		filling.Go(func() { _ = first.Fill(ctx) })
		synctest.Wait() // it waits for its second range
		first.mustCheck(0, len(first.want))
		filling.Go(func() { _ = second.Fill(ctx) })
		time.Sleep(2*time.Second - time.Since(start))
		synctest.Wait()
		if len(second.blob.seen()) == 0 {
			t.Error("it waits until a range is paid for that was not fetched")
		}
		stop()
		filling.Wait()
		first.close()
		second.close()

		g := NewScheduler(SchedulerOptions{BackgroundLimit: 1}).ranges
		gone := &entrant{priority: Background, blob: 1000}
		if err := g.enter(t.Context(), gone); err != nil {
			t.Fatal(err)
		}
		g.abandon(gone)
		if d := g.brake.hold(); d > 0 {
			t.Errorf("held for %v by what was given up", d)
		}
	})
}

// What comes while nothing may begin says nothing of how many ranges are best.
func TestPressureDisturbsPilot(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := NewScheduler(SchedulerOptions{BackgroundPressure: 20, IOPressure: func() (float64, error) { return 40, nil }})
		landed := Range{Priority: Background, Blob: 1}
		if s.landed(landed, false, 0); s.pilot.start.IsZero() {
			t.Fatal("nothing is measured")
		}
		l := &line{t: t, gate: s.ranges}
		ctx, stop := context.WithCancel(t.Context())
		l.queue(ctx, "held", Background, 1)
		if s.landed(landed, false, 0); !s.pilot.start.IsZero() {
			t.Error("the measurement goes on")
		}
		stop()
		l.expect("!held")
	})
}

// While tasks stall on IO, nothing begins in the background, and all else does.
func TestBackgroundPressure(t *testing.T) {
	const busy = 5500 * time.Millisecond
	for name, c := range map[string]struct {
		most  int
		err   error
		until time.Duration // when Fill has ended
		looks int           // at most
	}{
		"stalls":      {most: 20, until: 6 * time.Second, looks: 8},
		"not asked":   {most: 0, until: 0, looks: 0},
		"unknown":     {most: 20, err: os.ErrNotExist, until: 0, looks: 1},
		"just enough": {most: 40, until: 0, looks: 1},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				start, looks := time.Now(), 0
				h := open(t, bigLayer(), withScheduler(NewScheduler(SchedulerOptions{
					TailMemory: -1, BackgroundPressure: c.most,
					IOPressure: func() (float64, error) {
						if looks++; time.Since(start) < busy {
							return 40, c.err
						}
						return 3, c.err
					},
				})))
				time.Sleep(lullTime) // opening it was urgent
				start = time.Now()
				filled := make(chan error, 1)
				go func() { filled <- h.Fill(t.Context()) }()
				synctest.Wait()
				h.mustCheck(0, 10)
				if d := time.Since(start); d > 0 {
					t.Errorf("a reader waited %v", d)
				}
				if err := <-filled; err != nil {
					t.Error(err)
				}
				if d := time.Since(start); d != c.until {
					t.Errorf("filled after %v, want %v", d, c.until)
				}
				if looks > c.looks || c.looks > 0 && looks == 0 {
					t.Errorf("looked %d times, want at most %d", looks, c.looks)
				}
				h.close()
			})
		})
	}
}

// Fill that is stopped while it is held back ends.
func TestBrakedFillStops(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := open(t, bigLayer(), withScheduler(NewScheduler(SchedulerOptions{TailMemory: -1, BackgroundLimit: 1})))
		ctx, stop := context.WithCancel(t.Context())
		filled := make(chan error, 1)
		go func() { filled <- h.Fill(ctx) }()
		time.Sleep(lullTime) // opening it was urgent
		synctest.Wait()
		if n := len(h.blob.seen()); n != 1 {
			t.Errorf("%d ranges at once at a byte a second", n)
		}
		stop()
		if err := <-filled; !errors.Is(err, context.Canceled) {
			t.Errorf("got %v", err)
		}
		h.close()
	})
}

func TestParsePressure(t *testing.T) {
	for text, want := range map[string]float64{
		"some avg10=54.02 avg60=57.20 avg300=43.19 total=4736152610\nfull avg10=8.79 avg60=12.93 avg300=9.90 total=1568328422\n": 54.02,
		"some avg10=0.00 avg60=0.00 avg300=0.00 total=0\n":                                                                       0,
		"full avg10=8.79\n": -1,
		"":                  -1,
		"some avg10=much\n": -1,
	} {
		got, err := parsePressure(text)
		if want < 0 && err == nil || want >= 0 && (err != nil || got != want) {
			t.Errorf("%q: got %v, %v", text, got, err)
		}
	}
}

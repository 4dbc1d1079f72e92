package layer

import (
	"context"
	"testing"
	"testing/synctest"
	"time"
)

func TestHeld(t *testing.T) {
	for name, c := range map[string]struct {
		options SchedulerOptions
		begin   Priority // of what is inside
		want    int
		why     Hold
	}{
		"limit":    {SchedulerOptions{BackgroundLimit: 10}, Background, 2, HeldByLimit},
		"pressure": {SchedulerOptions{BackgroundPressure: 20, IOPressure: func() (float64, error) { return 40, nil }}, Demand, 2, HeldByPressure},
		"demand":   {SchedulerOptions{}, Demand, 2, HeldByDemand},
		"prefetch": {SchedulerOptions{}, Prefetch, 2, HeldByDemand},
		"itself":   {SchedulerOptions{Concurrency: 1}, Background, 0, ""},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := NewScheduler(c.options)
				if n, why := s.Held(); n != 0 || why != "" {
					t.Errorf("%d are held by %q at first", n, why)
				}
				l := &line{t: t, gate: s.ranges}
				l.add(t.Context(), "begin", &entrant{priority: c.begin, blob: 1000})
				ctx, cancel := context.WithCancel(t.Context())
				for range 2 {
					l.add(ctx, "", &entrant{priority: Background, blob: 1000})
				}
				l.expect("begin")
				time.Sleep(backgroundTrickle / 2)
				if n, why := s.Held(); n != c.want || why != c.why {
					t.Errorf("%d are held by %q, want %d by %q", n, why, c.want, c.why)
				}
				cancel()
				synctest.Wait()
				if n, _ := s.Held(); n != 0 {
					t.Errorf("%d are held at the end", n)
				}
			})
		})
	}
}

func TestHeldInLull(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := NewScheduler(SchedulerOptions{})
		l := &line{t: t, gate: s.ranges}
		l.queue(t.Context(), "read", Demand, 1)
		l.add(t.Context(), "patient", &entrant{priority: Background, patient: true})
		l.leaves(Demand)
		if n, why := s.Held(); n != 1 || why != HeldByDemand {
			t.Errorf("%d are held by %q in a lull", n, why)
		}
		time.Sleep(lullTime)
		l.expect("read", "patient")
		if n, why := s.Held(); n != 0 || why != "" {
			t.Errorf("%d are held by %q afterwards", n, why)
		}
		l.leaves(Background)
	})
}

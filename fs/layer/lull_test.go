package layer

import (
	"context"
	"testing"
	"testing/synctest"
	"time"
)

// Patient background waits until a program that reads now and again has done so, others use the pauses.
func TestLull(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLine(t, SchedulerOptions{})
		l.queue(t.Context(), "read", Demand, 1)
		l.add(t.Context(), "patient", &entrant{priority: Background, bytes: 1, patient: true})
		l.queue(t.Context(), "fill", Background, 1)
		l.expect("read")
		l.leaves(Demand)
		l.expect("fill")
		l.leaves(Background)
		for range 2 {
			time.Sleep(lullTime - 1)
			l.queue(t.Context(), "read", Demand, 1)
			l.leaves(Demand)
			l.expect("read")
		}
		time.Sleep(lullTime - 1)
		l.expect()
		time.Sleep(time.Nanosecond)
		l.expect("patient")
		l.leaves(Background)
	})
}

// A program that reads on what is there already has patient background wait, too.
func TestLullOfReaders(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLine(t, SchedulerOptions{})
		l.queue(t.Context(), "read", Demand, 1)
		l.add(t.Context(), "patient", &entrant{priority: Background, bytes: 1, patient: true})
		l.expect("read")
		l.leaves(Demand)
		for range 2 {
			time.Sleep(lullTime - 1)
			l.gate.reads()
		}
		time.Sleep(lullTime - 1)
		l.expect()
		time.Sleep(time.Nanosecond)
		l.expect("patient")
		l.leaves(Background)
	})
}

// Background that is patient still comes in a trickle, and who never stops reading for long does not keep it at that for ever.
func TestLullEnds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const pause = 200 * time.Millisecond
		ctx, cancel := context.WithCancel(t.Context())
		l := newLine(t, SchedulerOptions{})
		// reads has so many reads, with pauses, and returns after how many of them a range entered that was waiting.
		reads := func(n int) (entered int) {
			for range n {
				if l.waiting[Background].len() == 0 {
					l.add(ctx, "patient", &entrant{priority: Background, bytes: 1, patient: true})
				}
				l.queue(ctx, "read", Demand, 1)
				l.leaves(Demand)
				time.Sleep(pause)
				synctest.Wait()
				for range l.gate.inside[Background] {
					l.leaves(Background)
					entered++
				}
			}
			return entered
		}
		start := int(lullLimit / pause)
		reads(1) // nothing urgent has been there before
		if n := reads(start - 1); n < 5 || n > 10 {
			t.Errorf("%d of %d entered at the start, within 10 seconds", n, start)
		}
		if n := reads(500); n < 400 {
			t.Errorf("%d of 500 entered afterwards", n)
		}
		time.Sleep(lullShare * lullLimit)
		if n := reads(start); n > 10 {
			t.Errorf("%d of %d entered at the next start", n, start)
		}
		cancel()
		synctest.Wait()
	})
}

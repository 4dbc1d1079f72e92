package remote

import (
	"context"
	"time"
)

// A clock is the time that retries and stalls go by. Tests have one of their own.
type clock struct {
	now       func() time.Time
	sleep     func(ctx context.Context, d time.Duration) error // returns ctx's cause early
	afterFunc func(d time.Duration, f func()) timer
}

// A timer is what time.AfterFunc returns.
type timer interface {
	Reset(d time.Duration) bool
	Stop() bool
}

func wallClock() clock {
	return clock{
		now:       time.Now,
		sleep:     sleep,
		afterFunc: func(d time.Duration, f func()) timer { return time.AfterFunc(d, f) },
	}
}

func sleep(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// A watchdog is the context of one request and the body it brings. It cancels itself with errStalled when a call made
// through during takes longer than limit.
type watchdog struct {
	ctx    context.Context // one request's, which is what a watchdog is
	cancel context.CancelCauseFunc
	timer  timer
	limit  time.Duration
}

func watch(ctx context.Context, c clock, limit time.Duration) *watchdog {
	w := &watchdog{limit: limit}
	w.ctx, w.cancel = context.WithCancelCause(ctx)
	w.timer = c.afterFunc(limit, func() { w.cancel(errStalled) })
	w.timer.Stop()
	return w
}

// during runs f, which must return when the watchdog's context is done.
func (w *watchdog) during(f func()) {
	w.timer.Reset(w.limit)
	f()
	w.timer.Stop()
}

func (w *watchdog) stop() {
	w.timer.Stop()
	w.cancel(context.Canceled)
}

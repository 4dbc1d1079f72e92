package layer

import (
	"context"
	"math/rand/v2"
	"sync"
	"time"
)

const (
	firstRetry = time.Second
	lastRetry  = time.Minute
)

// failures spaces the attempts of several workers after errors. A nil one never makes anybody wait.
type failures struct {
	mu    sync.Mutex
	delay time.Duration // after the last failure; 0 after a success
	until time.Time     // nobody tries before
}

// add counts a failure. Those of attempts that began before the last one is waited for count as one.
func (f *failures) add() {
	f.mu.Lock()
	defer f.mu.Unlock()
	now := time.Now()
	if now.Before(f.until) {
		return
	}
	f.delay = min(max(2*f.delay, firstRetry), lastRetry)
	f.until = now.Add(f.delay + rand.N(f.delay/4)) // layers that failed together shall not return together
}

func (f *failures) reset() {
	if f == nil {
		return
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.delay, f.until = 0, time.Time{}
}

// wait waits until an attempt may be made.
func (f *failures) wait(ctx context.Context) error {
	if f == nil {
		return nil
	}
	f.mu.Lock()
	d := time.Until(f.until)
	f.mu.Unlock()
	if d <= 0 {
		return nil
	}
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

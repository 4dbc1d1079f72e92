package layer

import (
	"context"
	"time"
)

// nobody is a priority below all others: of what gives way to everything.
const nobody Priority = -1

// whenCalm returns a channel that is closed when nothing of a higher priority is inside, nil if nothing is now.
func (g *gate) whenCalm(p Priority) <-chan struct{} {
	g.mu.Lock()
	defer g.mu.Unlock()
	i := p + 1
	if g.calm[i] == nil && g.above(p) > 0 {
		g.calm[i] = make(chan struct{})
	}
	return g.calm[i]
}

// soothe tells those that wait for calm, if it is. g.mu is held.
func (g *gate) soothe() {
	for i := range g.calm {
		if g.calm[i] != nil && g.above(Priority(i-1)) == 0 {
			close(g.calm[i])
			g.calm[i] = nil
		}
	}
}

// yield waits while anything of a higher priority is inside, unless rushed is closed, and for one trickle at most. Where it did not
// wait until that was over, that was enough.
func (g *gate) yield(ctx context.Context, p Priority, rushed <-chan struct{}) (waited time.Duration, enough bool) {
	calm := g.whenCalm(p)
	if calm == nil {
		return 0, false
	}
	start := time.Now()
	limit := time.NewTimer(g.trickle)
	defer limit.Stop()
	select {
	case <-calm:
	case <-rushed:
		enough = true
	case <-limit.C:
		enough = true
	case <-ctx.Done():
	}
	return time.Since(start), enough
}

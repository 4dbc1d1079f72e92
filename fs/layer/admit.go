package layer

import (
	"context"
	"sync"
	"time"
)

// Place is where one range is fetched, outside of this package.
type Place struct {
	gate   *gate
	turn   *entrant
	left   sync.Once
	rushed bool // it has yielded long enough
}

// Admit waits for a place for a range that a container waits for, into what r has of memory. The context that it returns has the range's
// Priority. The caller leaves the place.
func (r *Reservation) Admit(ctx context.Context) (context.Context, *Place, error) {
	p := &Place{gate: r.scheduler.ranges, turn: &entrant{priority: Prefetch, image: r.image}}
	if err := p.gate.enter(ctx, p.turn); err != nil {
		return nil, nil, err
	}
	return withPriority(ctx, Prefetch), p, nil
}

// Leave gives the place back. It may be called again.
func (p *Place) Leave() { p.left.Do(func() { p.gate.leave(p.turn) }) }

// Yield leaves the link to readers, as ranges of less priority do: while one waits for a range, it returns not before that is over,
// awaited is closed or ctx has ended. It waits for a second per place at most. One goroutine at a time calls it, before it reads on.
func (p *Place) Yield(ctx context.Context, awaited <-chan struct{}) (waited time.Duration) {
	if p.rushed {
		return 0
	}
	calm := p.gate.whenCalm(p.turn.priority)
	if calm == nil {
		return 0
	}
	start := time.Now()
	enough := time.NewTimer(p.gate.trickle)
	defer enough.Stop()
	select {
	case <-calm:
	case <-awaited:
		p.rushed = true
	case <-enough.C:
		p.rushed = true
	case <-ctx.Done():
	}
	return time.Since(start)
}

package layer

import (
	"context"
	"sync"
)

// Place is where one range is fetched, outside of this package.
type Place struct {
	gate *gate
	turn *entrant
	left sync.Once
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

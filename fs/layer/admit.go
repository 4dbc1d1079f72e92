package layer

import (
	"context"
	"io"
	"sync"
	"time"
)

// Place is where one range is fetched, outside of this package. One goroutine reads by it.
type Place struct {
	gate   *gate
	turn   *entrant
	left   sync.Once
	rushed bool // it has yielded long enough
}

// Admit waits for a place for a range that a container waits for, into what r has of memory. The caller leaves the place.
func (r *Reservation) Admit(ctx context.Context) (*Place, error) {
	p := &Place{gate: r.scheduler.ranges, turn: newHolder(Prefetch, r.image, 0)}
	if err := p.gate.enter(ctx, p.turn); err != nil {
		return nil, err
	}
	return p, nil
}

// ReadRange is that of blob, with Prefetch. While the blob is silent the place is lent to others.
func (p *Place) ReadRange(ctx context.Context, blob Blob, off, size int64) (io.ReadCloser, error) {
	return lender{blob, p.gate, p.turn}.ReadRange(withPriority(ctx, Prefetch), off, size)
}

// Leave gives the place back. It may be called again.
func (p *Place) Leave() { p.left.Do(func() { p.gate.leave(p.turn) }) }

// Yield leaves the link to readers, as ranges of less priority do: while one waits for a range that comes, it returns not before that is
// over, awaited is closed or ctx has ended. It waits for a second per place at most. It is called before reading on.
func (p *Place) Yield(ctx context.Context, awaited <-chan struct{}) (waited time.Duration) {
	if !p.rushed {
		waited, p.rushed = p.gate.yield(ctx, p.turn.priority, awaited)
	}
	return waited
}

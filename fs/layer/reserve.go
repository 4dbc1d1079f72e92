package layer

import (
	"context"
	"slices"
)

// Reservation is memory of work that fetches its ranges outside of this package and keeps what they bring between them: a plain
// layer. It counts for the memory limit as what ranges hold does. It belongs to one piece of work, whose goroutines may all use it.
type Reservation struct {
	scheduler *Scheduler
	image     string
	bytes     int64 // guarded by gate.mu; 0 until the first claim was granted
}

// claim is memory that a reservation waits for.
type claim struct {
	*Reservation
	more  int64
	ready chan struct{} // closed when it was granted
}

// reservations are those of a gate, whose lock guards them. A new one takes no more of the memory than Background may, so that there is
// room for those that grow and for ranges. Who has one does not let go of it while it waits for more; so there has to be one that does not
// wait for the others: the oldest is given whatever it claims, and one that alone exceeds the limit is in when nothing else is.
type reservations struct {
	granted []*Reservation // the oldest first
	claims  []*claim       // what came first first
}

// Reserve waits for bytes of memory. image is whose it is. The caller releases it.
func (s *Scheduler) Reserve(ctx context.Context, image string, bytes int64) (*Reservation, error) {
	r := &Reservation{scheduler: s, image: image}
	if err := r.Grow(ctx, bytes); err != nil {
		return nil, err
	}
	s.heap.begin()
	return r, nil
}

// Grow waits for more bytes.
func (r *Reservation) Grow(ctx context.Context, bytes int64) error {
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	g, c := r.scheduler.ranges, &claim{r, bytes, make(chan struct{})}
	g.mu.Lock()
	g.claims = append(g.claims, c)
	g.dispatch()
	g.mu.Unlock()
	select {
	case <-c.ready:
		return nil
	case <-ctx.Done():
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	i := slices.Index(g.claims, c)
	if i < 0 { // it was granted at that very moment
		return nil
	}
	g.claims = slices.Delete(g.claims, i, i+1)
	g.dispatch() // it may have been in the way of others
	return context.Cause(ctx)
}

// Release gives all of it back.
func (r *Reservation) Release() {
	g := r.scheduler.ranges
	g.mu.Lock()
	i := slices.Index(g.granted, r)
	g.granted = slices.Delete(g.granted, i, i+1)
	g.held -= r.bytes
	g.dispatch()
	g.mu.Unlock()
	r.scheduler.heap.end(r.bytes)
}

// grant gives memory to claims, and returns the lowest priority of which a range may begin. Where nothing but ranges is in the way of
// the first claim, that is Demand: else they might be in its way for ever. g.mu is held.
func (g *gate) grant() Priority {
	for i := g.due(); i >= 0; i = g.due() {
		c := g.claims[i]
		g.claims = slices.Delete(g.claims, i, i+1)
		if c.bytes == 0 {
			g.granted = append(g.granted, c.Reservation)
		}
		c.bytes += c.more
		g.held += c.more
		close(c.ready)
	}
	if len(g.claims) > 0 && len(g.granted) == 0 {
		return Demand
	}
	return Background
}

// due returns which claim can be granted now, -1 if none can. Those for more go before new ones. What those keep that wait for a silent
// registry is not in the way of one that needs all of the memory. g.mu is held.
func (g *gate) due() int {
	i := slices.IndexFunc(g.claims, func(c *claim) bool {
		return c.bytes > 0 && (c.Reservation == g.granted[0] || g.held+c.more <= g.bytes[Prefetch])
	})
	if i >= 0 {
		return i
	}
	i = slices.IndexFunc(g.claims, func(c *claim) bool { return c.bytes == 0 })
	if i >= 0 && g.held > g.keeping() && g.held+g.claims[i].more > g.bytes[Background] {
		return -1
	}
	return i
}

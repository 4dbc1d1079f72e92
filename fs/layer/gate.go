package layer

import (
	"context"
	"slices"
	"sync"
	"time"
)

// gate admits work by priority, and within one by turns: next is that of the image which has least inside, and of its work
// what came first. Work that does not fit is not overtaken by what comes after it or below it, so nothing large starves. What
// finds the gate empty is admitted however large it is.
type gate struct {
	places [priorities]int   // how many may be inside when one of this priority enters, itself included
	bytes  [priorities]int64 // how many bytes they may hold together then
	// trickle is how often one of Background may enter while higher priorities are inside, or in a lull; 0: whenever there is room.
	trickle time.Duration
	brake   *brake // of Background; nil if it has none
	steered int    // how many of Background there may be, by the pilot; 0: as many as have a place

	mu        sync.Mutex
	inside    [priorities]int
	images    map[string]int // how many are inside for each
	held      int64          // bytes
	waiting   [priorities][]*entrant
	heldSince time.Time                 // since when Background is held back by trickle
	lull      lull                      // what Background that is patient waits for the end of
	lulled    *time.Timer               // calls dispatch when a lull has ended; nil if there was none
	release   *time.Timer               // calls dispatch when the brake may let go; nil if it has never held
	calm      [priorities]chan struct{} // closed when nothing above the priority is inside any more; nil if nobody waits for that
	reservations
}

// entrant is work that wants in, waits, or is inside.
type entrant struct {
	priority Priority // it changes, under gate.mu, while it waits
	bytes    int64
	image    string          // whose it is
	blob     int64           // bytes that it fetches, for the brake
	patient  bool            // of Background: it waits for the end of lulls
	raised   <-chan struct{} // closed when it becomes Demand; nil if that does not happen

	admitted bool // guarded by gate.mu
	ready    chan struct{}
}

// enter waits for admission. Whoever is admitted leaves.
func (g *gate) enter(ctx context.Context, e *entrant) error {
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	e.ready = make(chan struct{})
	g.mu.Lock()
	g.waiting[e.priority] = append(g.waiting[e.priority], e)
	g.dispatch()
	g.mu.Unlock()

	var tick <-chan time.Time
	if e.priority == Background && g.trickle > 0 {
		t := time.NewTicker(g.trickle)
		defer t.Stop()
		tick = t.C
	}
	raised := e.raised
	for {
		select { // who is admitted already goes in, though ctx may have ended
		case <-e.ready:
			return nil
		default:
		}
		select {
		case <-e.ready:
			return nil
		case <-tick:
			g.mu.Lock()
			g.dispatch()
			g.mu.Unlock()
		case <-raised:
			raised = nil
			g.raise(e)
		case <-ctx.Done():
			g.abandon(e)
			return context.Cause(ctx)
		}
	}
}

// raise moves a waiter to the end of those of Demand.
func (g *gate) raise(e *entrant) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if e.admitted || e.priority == Demand {
		return
	}
	g.remove(e)
	e.priority = Demand
	g.waiting[Demand] = append(g.waiting[Demand], e)
	g.dispatch()
}

// abandon takes a waiter away, who may have been admitted at that very moment.
func (g *gate) abandon(e *entrant) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if e.admitted {
		g.revise(e, 0)
		g.depart(e)
		return
	}
	g.remove(e)
	g.dispatch() // it may have been in the way of others
}

// remove takes a waiter out of its queue. g.mu is held.
func (g *gate) remove(e *entrant) {
	queue := g.waiting[e.priority]
	i := slices.Index(queue, e)
	g.waiting[e.priority] = slices.Delete(queue, i, i+1)
}

func (g *gate) leave(e *entrant) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.depart(e)
}

// depart undoes admit. g.mu is held.
func (g *gate) depart(e *entrant) {
	g.inside[e.priority]--
	g.held -= e.bytes
	if g.images[e.image]--; g.images[e.image] == 0 {
		delete(g.images, e.image)
	}
	if e.priority > Background && g.above(Background) == 0 && g.trickle > 0 {
		g.lull.begin(time.Now())
		g.dispatchIn(&g.lulled, lullTime)
	}
	for p := range g.calm {
		if g.calm[p] != nil && g.above(Priority(p)) == 0 {
			close(g.calm[p])
			g.calm[p] = nil
		}
	}
	g.dispatch()
}

// whenCalm returns a channel that is closed when nothing of a higher priority is inside, nil if nothing is now.
func (g *gate) whenCalm(p Priority) <-chan struct{} {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.calm[p] == nil && g.above(p) > 0 {
		g.calm[p] = make(chan struct{})
	}
	return g.calm[p]
}

// holding returns the bytes held inside.
func (g *gate) holding() int64 {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.held
}

// steer sets how many of Background may be inside.
func (g *gate) steer(n int) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.steered = n
	g.dispatch()
}

// dispatch admits all that can enter now. g.mu is held.
func (g *gate) dispatch() {
	least := g.grant()
	for p := Demand; p >= least; p-- {
		for len(g.waiting[p]) > 0 {
			if p == Background && g.braked() {
				return
			}
			e := g.next(p)
			if e == nil || !g.fits(e) {
				return
			}
			g.remove(e)
			g.admit(e)
		}
	}
}

// braked reports whether the brake holds, and sees to it that dispatch is called when that may be over. g.mu is held.
func (g *gate) braked() bool {
	wait := g.brake.hold()
	if wait <= 0 {
		return false
	}
	g.dispatchIn(&g.release, wait)
	return true
}

// dispatchIn has dispatch called after a while, by a timer for each reason. g.mu is held.
func (g *gate) dispatchIn(t **time.Timer, d time.Duration) {
	if *t != nil {
		(*t).Reset(d)
		return
	}
	*t = time.AfterFunc(d, func() {
		g.mu.Lock()
		defer g.mu.Unlock()
		g.dispatch()
	})
}

// fetches says that one inside fetches so many bytes, rather than what it thought.
func (g *gate) fetches(e *entrant, bytes int64) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.revise(e, bytes)
	g.dispatch()
}

// revise changes what the brake has charged. g.mu is held.
func (g *gate) revise(e *entrant, bytes int64) {
	if e.priority == Background {
		g.brake.refund(e.blob - bytes)
		e.blob = bytes
	}
}

// pressed reports whether Background is held back because tasks stall on IO.
func (g *gate) pressed() bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.brake != nil && g.brake.high
}

// next returns whose turn it is among those that wait with a priority, nil if all of them wait for the end of a lull. g.mu is held.
func (g *gate) next(p Priority) (next *entrant) {
	now := time.Now()
	lull := g.lull.lasts(now) && now.Sub(g.heldSince) < g.trickle
	for _, e := range g.waiting[p] {
		if e.patient && p == Background && lull {
			continue
		}
		if next == nil || g.images[e.image] < g.images[next.image] {
			next = e
		}
	}
	return next
}

func (g *gate) admit(e *entrant) {
	now := time.Now()
	if e.priority == Background || g.above(Background) == 0 && !g.lull.lasts(now) {
		g.heldSince = now
	}
	if e.priority > Background {
		g.lull.end(now)
	}
	g.inside[e.priority]++
	g.held += e.bytes
	if g.images == nil {
		g.images = make(map[string]int)
	}
	g.images[e.image]++
	if e.priority == Background {
		g.brake.charge(e.blob)
	}
	e.admitted = true
	close(e.ready)
}

func (g *gate) fits(e *entrant) bool {
	p := e.priority
	if p == Background && !g.open() {
		return false
	}
	inside := g.inside[Background] + g.above(Background)
	return inside == 0 || inside < g.places[p] && (e.bytes == 0 || g.held+e.bytes <= g.bytes[p])
}

// open reports whether Background may go in as far as the pilot and what is more urgent are concerned. g.mu is held.
func (g *gate) open() bool {
	if g.steered > 0 && g.inside[Background] >= g.steered {
		return false
	}
	return g.trickle == 0 || g.above(Background) == 0 || time.Since(g.heldSince) >= g.trickle
}

// above counts what is inside with a priority higher than p.
func (g *gate) above(p Priority) (n int) {
	for p++; p <= Demand; p++ {
		n += g.inside[p]
	}
	return n
}

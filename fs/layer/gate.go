package layer

import (
	"cmp"
	"context"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

// gate admits work by priority, and within one by turns: next is that of the image which has least inside, and of its work
// what came first. Work that does not fit is not overtaken by what comes after it or below it, so nothing large starves. What
// finds the gate empty is admitted however large it is. Work that waits for a silent registry lends its place (lend.go).
type gate struct {
	places [priorities]int   // how many may be inside when one of this priority enters, itself included
	bytes  [priorities]int64 // how many bytes they may hold together then
	// trickle is how often one of Background may enter while higher priorities are inside, or in a lull; 0: whenever there is room.
	trickle time.Duration
	brake   *brake // of Background; nil if it has none
	steered int    // how many of Background there may be, by the pilot; 0: as many as have a place

	mu        sync.Mutex
	inside    [priorities]int
	images    map[string]int     // how many are inside for each
	silent    map[string]silence // by registry
	held      int64              // bytes
	waiting   [priorities]queue
	arrivals  int                           // how many have lined up, ever
	heldSince time.Time                     // since when Background is held back by trickle
	lull      lull                          // what Background that is patient waits for the end of
	noted     atomic.Int64                  // when reads was last heeded, in nanoseconds since 1970
	lulled    *time.Timer                   // calls dispatch when a lull has ended; nil if there was none
	release   *time.Timer                   // calls dispatch when the brake may let go; nil if it has never held
	calm      [priorities + 1]chan struct{} // by priority + 1, see nobody: closed when nothing above the priority is inside any more; nil if nobody waits for that
	reservations
}

// entrant is work that wants in, waits, or is inside.
type entrant struct {
	priority Priority // it changes, under gate.mu, while it waits
	bytes    int64
	image    string          // whose it is, by reference
	blob     int64           // bytes that it fetches, for the brake
	patient  bool            // of Background: it waits for the end of lulls
	raised   <-chan struct{} // closed when it becomes Demand; nil if that does not happen

	registry string       // that image names
	held     func() int64 // how many of bytes are in memory while the place is lent, called under gate.mu; nil: none

	// Guarded by gate.mu.
	admitted bool
	arrival  int         // in the order of arrivals
	waits    bool        // for its registry
	lent     bool        // its place is, which it has not got back
	kept     int64       // of bytes, while that is so
	patience *time.Timer // calls lend
	ready    chan struct{}
}

// enter waits for admission. Whoever is admitted leaves.
func (g *gate) enter(ctx context.Context, e *entrant) error {
	e.registry, _, _ = strings.Cut(e.image, "/")
	err := g.await(ctx, e)
	if err != nil {
		g.abandon(e)
	}
	return err
}

// await lines up, and waits until it is admitted. It may be though ctx has ended, which is the error.
func (g *gate) await(ctx context.Context, e *entrant) error {
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	e.ready = make(chan struct{})
	g.mu.Lock()
	g.line(e)
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
			g.withdraw(e)
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
	g.waiting[e.priority].remove(e)
	e.priority = Demand
	g.line(e)
	g.dispatch()
}

// withdraw takes a waiter away, unless it has been admitted at that very moment.
func (g *gate) withdraw(e *entrant) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if !e.admitted {
		g.waiting[e.priority].remove(e)
		g.dispatch() // it may have been in the way of others
	}
}

// abandon has one leave that will not begin, if it was admitted.
func (g *gate) abandon(e *entrant) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if e.admitted {
		g.revise(e, 0)
		g.depart(e)
	}
}

// line puts a waiter at the end of its queue. g.mu is held.
func (g *gate) line(e *entrant) {
	g.arrivals++
	e.arrival = g.arrivals
	g.waiting[e.priority].add(e)
}

// leave gives back what an entrant has: its place, or what it has kept without one.
func (g *gate) leave(e *entrant) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if !e.lent {
		g.depart(e)
		return
	}
	g.held -= e.kept
	g.restore(e)
	g.dispatch()
}

// depart undoes admit, but for what one keeps that lends its place. g.mu is held.
func (g *gate) depart(e *entrant) {
	e.admitted = false
	g.inside[e.priority]--
	g.held -= e.bytes - e.kept
	if g.images[e.image]--; g.images[e.image] == 0 {
		delete(g.images, e.image)
	}
	// No lull begins where a registry is silent: who reads is not about to do so again, and has waited for longer than a lull.
	if e.priority > Background && !e.lent {
		g.lulls(time.Now())
	}
	g.soothe()
	g.dispatch()
}

// reads says that a program reads what is there of a layer of which not all is: it is still at work, and may need what is not there next. So a
// lull goes on, if somebody waits for its end, which it returns.
func (g *gate) reads() bool {
	now := time.Now()
	if last := g.noted.Load(); now.UnixNano()-last < int64(lullTime/8) || !g.noted.CompareAndSwap(last, now.UnixNano()) {
		return false // readers are many, and this is exact enough
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.inside[Background]+g.waiting[Background].len() == 0 {
		return false
	}
	g.lulls(now)
	return true
}

// lulls begins a lull, if nothing urgent is under way. g.mu is held.
func (g *gate) lulls(now time.Time) {
	if g.above(Background) == 0 && g.trickle > 0 {
		g.lull.end(now)
		g.lull.begin(now)
		g.dispatchIn(&g.lulled, lullTime)
	}
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
	for e := g.first(least); e != nil && g.fits(e); e = g.first(least) {
		g.waiting[e.priority].remove(e)
		g.admit(e)
	}
}

// first returns whose turn it is, nil if it is nobody's. What is below a priority may only go on. g.mu is held.
func (g *gate) first(least Priority) *entrant {
	for p := Demand; p >= Background; p-- {
		if e := g.next(p); e != nil && (e.lent || p >= least) {
			return e
		}
	}
	return nil
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

// next returns whose turn it is among those that wait with a priority: who was inside before and has bytes coming in, and then
// those that wait neither for the end of a lull nor for a registry that is silent to too many. g.mu is held.
func (g *gate) next(p Priority) (next *entrant) {
	q := &g.waiting[p]
	if len(q.back) > 0 {
		return q.back[0]
	}
	now := time.Now()
	lull := p == Background && g.lull.lasts(now) && now.Sub(g.heldSince) < g.trickle
	for _, waiting := range q.images {
		if lull {
			waiting = impatient(waiting)
		}
		if len(waiting) > 0 && !g.crowded(waiting[0]) && (next == nil || g.before(waiting[0], next)) {
			next = waiting[0]
		}
	}
	return next
}

// before reports whether it is the turn of a rather than of b, which is another image's. g.mu is held.
func (g *gate) before(a, b *entrant) bool {
	return cmp.Or(cmp.Compare(g.images[a.image], g.images[b.image]), cmp.Compare(a.arrival, b.arrival)) < 0
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
	g.held += e.bytes - e.kept
	if g.images == nil {
		g.images = make(map[string]int)
	}
	g.images[e.image]++
	if e.lent {
		g.restore(e)
	} else if e.priority == Background {
		g.brake.charge(e.blob)
	}
	e.admitted = true
	close(e.ready)
}

func (g *gate) fits(e *entrant) bool {
	p := e.priority
	if p == Background && (!e.lent && g.braked() || !g.open()) { // what is paid for may go on
		return false
	}
	inside, need := g.inside[Background]+g.above(Background), e.bytes-e.kept
	return inside == 0 || inside < g.places[p] && (need == 0 || g.held+need <= g.bytes[p])
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

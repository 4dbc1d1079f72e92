package layer

import (
	"container/list"
	"context"
	"sync"
	"time"
)

// gate admits work by priority, first come first served within one, while places and bytes last. Work that does not fit
// is not overtaken by what comes after it or below it, so nothing large starves. What finds the gate empty is admitted
// however large it is.
type gate struct {
	places [priorities]int   // how many may be inside when one of this priority enters, itself included
	bytes  [priorities]int64 // how many bytes they may hold together then
	// trickle is how often one of Background may enter while higher priorities are inside; 0: whenever there is room.
	trickle time.Duration

	mu        sync.Mutex
	inside    [priorities]int
	held      int64 // bytes
	waiting   [priorities]list.List
	heldSince time.Time     // since when Background is held back by trickle
	calm      chan struct{} // closed when nothing urgent is inside any more; nil if nobody waits for that
}

// entrant waits before a gate.
type entrant struct {
	bytes    int64
	admitted bool // guarded by gate.mu
	ready    chan struct{}
}

// enter waits for admission. Whoever is admitted leaves with the same priority and bytes.
func (g *gate) enter(ctx context.Context, p Priority, bytes int64) error {
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	g.mu.Lock()
	if g.waitingFrom(p) == 0 && g.fits(p, bytes) {
		g.admit(p, bytes)
		g.mu.Unlock()
		return nil
	}
	e := &entrant{bytes: bytes, ready: make(chan struct{})}
	at := g.waiting[p].PushBack(e)
	g.mu.Unlock()

	var tick <-chan time.Time
	if p == Background && g.trickle > 0 {
		t := time.NewTicker(g.trickle)
		defer t.Stop()
		tick = t.C
	}
	for {
		select {
		case <-e.ready:
			return nil
		case <-tick:
			g.mu.Lock()
			g.dispatch()
			g.mu.Unlock()
		case <-ctx.Done():
			g.abandon(p, at)
			return context.Cause(ctx)
		}
	}
}

// abandon takes a waiter away, who may have been admitted at that very moment.
func (g *gate) abandon(p Priority, at *list.Element) {
	g.mu.Lock()
	defer g.mu.Unlock()
	e := at.Value.(*entrant)
	if e.admitted {
		g.depart(p, e.bytes)
		return
	}
	g.waiting[p].Remove(at)
	g.dispatch() // it may have been in the way of others
}

func (g *gate) leave(p Priority, bytes int64) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.depart(p, bytes)
}

// depart undoes admit. g.mu is held.
func (g *gate) depart(p Priority, bytes int64) {
	g.inside[p]--
	g.held -= bytes
	if g.calm != nil && !g.urgent() {
		close(g.calm)
		g.calm = nil
	}
	g.dispatch()
}

// whenCalm returns a channel that is closed when no work is inside that background yields to, nil if none is now.
func (g *gate) whenCalm() <-chan struct{} {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.calm == nil && g.urgent() {
		g.calm = make(chan struct{})
	}
	return g.calm
}

// holding returns the bytes held inside.
func (g *gate) holding() int64 {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.held
}

// dispatch admits all that can enter now. g.mu is held.
func (g *gate) dispatch() {
	for p := Demand; p >= Background; p-- {
		for at := g.waiting[p].Front(); at != nil; at = g.waiting[p].Front() {
			e := at.Value.(*entrant)
			if !g.fits(p, e.bytes) {
				return
			}
			g.waiting[p].Remove(at)
			g.admit(p, e.bytes)
			e.admitted = true
			close(e.ready)
		}
	}
}

func (g *gate) admit(p Priority, bytes int64) {
	if g.trickle > 0 && (p == Background || !g.urgent()) {
		g.heldSince = time.Now()
	}
	g.inside[p]++
	g.held += bytes
}

func (g *gate) fits(p Priority, bytes int64) bool {
	if p == Background && g.trickle > 0 && g.urgent() && time.Since(g.heldSince) < g.trickle {
		return false
	}
	inside := g.inside[Background] + g.inside[Prefetch] + g.inside[Demand]
	return inside == 0 || inside < g.places[p] && g.held+bytes <= g.bytes[p]
}

// urgent reports whether work that background yields to is inside.
func (g *gate) urgent() bool { return g.inside[Demand]+g.inside[Prefetch] > 0 }

// waitingFrom counts those who wait with priority p or a higher one.
func (g *gate) waitingFrom(p Priority) int {
	n := 0
	for ; p <= Demand; p++ {
		n += g.waiting[p].Len()
	}
	return n
}

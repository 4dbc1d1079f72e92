package remote

import (
	"context"
	"errors"
	"sync"
	"time"
)

const (
	// growAfter is how many good answers allow one request more at a host that was overloaded.
	growAfter = 4
	// passedOver is how long who came first may be passed over by what is more urgent, again and again: a reader that never stops is not to
	// stop all else for good.
	passedOver = time.Second
)

// errPaused says that a host has asked to be left alone.
var errPaused = errors.New("the host asks to wait")

// A pacer decides when the next request to a host may start. There is no limit until the host says that it is asked too
// much. Then nobody starts a request before the time it asked for, half of the requests that were under way may be, and
// each few good answers allow one more, until there are twice as many as when it began. Of those who wait for that the most urgent is first,
// then small and large requests take turns, and then it goes by who came first; who that is goes before all others once a second.
//
// Under way is a request until its body is closed, but one whose reader does not read, or whose host does not send, lends its
// place to the next in the queue. So nobody waits here for what a reader does elsewhere: not a demand miss for
// background that yields to it, and not a reader for the range that it will read after this one.
type pacer struct {
	registry *Registry
	epoch    time.Time // that the marks of slots count from

	mu        sync.Mutex
	slots     map[*slot]struct{} // under way
	limit     int                // of them; 0: none
	peak      int                // how many there were when the limit was set
	good      int                // answers since the limit last grew
	answers   uint64             // good ones ever
	event     uint64             // counts overloads
	streak    int                // of them without a good answer in between
	notBefore time.Time
	queues    [2]queue  // of large and of small requests, which take turns
	turn      int       // which queue is first
	served    time.Time // when who came first was it last
	watching  bool      // tick will run
}

// enter waits for a place. Its errors are errPaused, at once or while it waits, and ctx's cause.
func (p *pacer) enter(ctx context.Context, o order) (*slot, error) {
	if ctx.Err() != nil {
		return nil, context.Cause(ctx)
	}
	p.mu.Lock()
	if p.now().Before(p.notBefore) {
		p.mu.Unlock()
		return nil, errPaused
	}
	w := &waiter{order: o, came: p.now(), done: make(chan struct{})}
	w.urgency = func() int { return p.registry.opts.Urgency(ctx) }
	p.queues[o.kind()].insert(w)
	p.dispatch()
	p.mu.Unlock()
	select {
	case <-w.done:
		return w.slot, w.err
	case <-ctx.Done():
		p.abandon(w)
		return nil, context.Cause(ctx)
	}
}

// abandon takes a waiter away, who may have been admitted at that very moment.
func (p *pacer) abandon(w *waiter) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if w.slot != nil {
		delete(p.slots, w.slot)
		p.dispatch()
		return
	}
	p.queues[w.kind()].remove(w)
}

// dispatch admits all that may start now. p.mu is held.
func (p *pacer) dispatch() {
	for p.queues[0].Len()+p.queues[1].Len() > 0 {
		if !p.room() {
			p.watch()
			return
		}
		w := p.next()
		p.queues[w.kind()].remove(w)
		p.turn = 1 - w.kind()
		w.slot = &slot{pacer: p, event: p.event}
		w.slot.waits(p.now())
		p.slots[w.slot] = struct{}{}
		close(w.done)
	}
}

// next returns whose turn it is. Somebody waits. p.mu is held.
func (p *pacer) next() *waiter {
	w, urgency := p.queues[p.turn].best()
	if other, u := p.queues[1-p.turn].best(); w == nil || other != nil && u > urgency {
		w = other
	}
	first := p.queues[0].first()
	if other := p.queues[1].first(); first == nil || other != nil && other.ticket < first.ticket {
		first = other
	}
	now := p.now()
	if w != first && now.Sub(first.came) >= passedOver && now.Sub(p.served) >= passedOver {
		w = first
	}
	if w == first {
		p.served = now
	}
	return w
}

// room reports whether one more request may start. p.mu is held.
func (p *pacer) room() bool {
	if p.limit == 0 || len(p.slots) < p.limit {
		return true
	}
	busy, now := 0, p.now()
	for s := range p.slots {
		if !s.lent(now) {
			busy++
		}
	}
	return busy < p.limit
}

// watch looks again for places that are lent, as long as somebody waits for one. p.mu is held.
func (p *pacer) watch() {
	if p.watching {
		return
	}
	p.watching = true
	p.registry.clock.afterFunc(idleGrace, func() {
		p.mu.Lock()
		defer p.mu.Unlock()
		p.watching = false
		p.dispatch()
	})
}

// until is the time that the host has asked to be left alone until.
func (p *pacer) until() time.Time {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.notBefore
}

// answered counts good answers, to see whether the host answers anybody.
func (p *pacer) answered() uint64 {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.answers
}

// allowed is the present limit; 0: none.
func (p *pacer) allowed() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.limit
}

func (p *pacer) now() time.Time { return p.registry.clock.now() }

// shrink halves what may be under way. p.mu is held.
func (p *pacer) shrink() {
	p.event++
	p.streak++
	p.good = 0
	if p.limit == 0 {
		p.peak = len(p.slots)
		p.limit = p.peak
	}
	p.limit = max(1, min(p.limit, len(p.slots))/2)
}

// grow counts a good answer. p.mu is held.
func (p *pacer) grow() {
	p.streak = 0
	if p.limit == 0 {
		return
	}
	if p.good++; p.good < growAfter {
		return
	}
	p.good = 0
	if p.limit++; p.limit > 2*p.peak {
		p.limit = 0
	}
	p.dispatch()
}

// pause sends all who wait away, so that they can ask another host. p.mu is held.
func (p *pacer) pause(d time.Duration) {
	until := p.now().Add(d)
	if d <= 0 || !until.After(p.notBefore) {
		return
	}
	p.notBefore = until
	for i := range p.queues {
		for _, w := range p.queues[i] {
			w.err = errPaused
			close(w.done)
		}
		p.queues[i] = nil
	}
}

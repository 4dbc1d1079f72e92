package remote

import (
	"net/http"
	"sync/atomic"
	"time"
)

const (
	// idleGrace is how long a body may lie unread before its request lends its place. Decoding takes less between
	// two reads.
	idleGrace = 50 * time.Millisecond
	// stallGrace is how long a host may be silent before the request lends its place: hosts that are merely slow take
	// less, and giving up takes a StallTimeout.
	stallGrace = 5 * time.Second
)

// A slot is a request under way.
type slot struct {
	pacer *pacer
	event uint64       // the last overload that was known when it began
	mark  atomic.Int64 // since when it waits for its host or, with the lowest bit set, for its reader
	ride  ride
}

// answer tells the pacer what came of a request.
func (s *slot) answer(code int, retryAfter time.Duration) {
	p := s.pacer
	p.mu.Lock()
	defer p.mu.Unlock()
	// What was already under way when the host last complained says nothing new: neither halves it again nor takes it back.
	fresh := s.event == p.event
	switch {
	case !overloaded(code, retryAfter):
		if code == http.StatusOK || code == http.StatusPartialContent {
			p.answers++
		}
		if fresh {
			p.grow()
		}
		return
	case fresh:
		p.shrink()
		retryAfter = max(retryAfter, p.registry.opts.Backoff.after(p.streak))
	}
	p.pause(retryAfter)
}

// overloaded reports whether an answer says that the host is asked too much. 502 and 504 are a gateway's words for a host
// that is too busy or starting, which more requests would not help. 500 is not: one broken object must not slow all others
// down. Whoever says how long to wait means it, whatever the status.
func overloaded(code int, retryAfter time.Duration) bool {
	switch code {
	case http.StatusTooManyRequests, http.StatusServiceUnavailable, http.StatusBadGateway, http.StatusGatewayTimeout:
		return true
	}
	return retryAfter > 0 && temporaryStatus(code)
}

// leave gives the place back; it may be called again.
func (s *slot) leave() {
	s.ride.end()
	s.pacer.mu.Lock()
	defer s.pacer.mu.Unlock()
	delete(s.pacer.slots, s)
	s.pacer.dispatch()
}

// waits says that the request waits for its host from now on.
func (s *slot) waits(now time.Time) { s.mark.Store(int64(now.Sub(s.pacer.epoch)) << 1) }

// lies says that the request waits for its reader from now on.
func (s *slot) lies(now time.Time) { s.mark.Store(int64(now.Sub(s.pacer.epoch))<<1 | 1) }

func (s *slot) lent(now time.Time) bool {
	mark := s.mark.Load()
	since := now.Sub(s.pacer.epoch) - time.Duration(mark>>1)
	if mark&1 == 1 {
		return since >= idleGrace
	}
	return since >= stallGrace
}

package remote

import (
	"math"
	"sync"
	"time"
)

// Link is what the way to a host is like, as far as requests have shown it recently.
type Link struct {
	// RTT is from a request on an open connection to the first byte of its answer: the least of the last 16 to 32 that
	// brought bytes, or of those of the last 10 to 20 seconds if these are more, since bytes of other ranges come
	// in between. 0 means not known yet.
	RTT time.Duration
	// Rate is bytes per second that came from the host, in all bodies together, over the last second or so in which
	// any of them was read. Readers that are slower than the link make it theirs; when all of them pause, that time
	// does not count. What came before a body's second read does not count either: it may have been there already.
	// 0 means not known yet.
	Rate float64
	// Requests is how many may be under way there; 0 means no limit. It is set when the host says that it is asked too much.
	Requests int
}

const (
	rttAnswers  = 16                     // in a window, at least
	rttTime     = 10 * time.Second       // of a window, at least
	rateMemory  = time.Second            // of reading, after which a measurement counts for 1/e
	rateStep    = 50 * time.Millisecond  // of reading that make a measurement
	longestGap  = 10 * time.Millisecond  // between reads that belongs to reading
	longestRead = 500 * time.Millisecond // without a byte: more is a stall, which says nothing of the rate
)

// A gauge measures the way to one host.
type gauge struct {
	mu      sync.Mutex
	rtt     [2]time.Duration // least of this window and of the one before; 0: none
	answers int              // in this window
	since   time.Time        // when it began

	bodies  int       // partly read
	readers int       // in Read
	last    time.Time // when any of them began or ended
	n       int64     // bytes since the last measurement
	busy    time.Duration

	bytes, seconds float64 // of all measurements, fading
}

// answer takes the time to a first byte.
func (g *gauge) answer(now time.Time, d time.Duration) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.answers >= rttAnswers && now.Sub(g.since) >= rttTime {
		g.answers, g.rtt[1], g.rtt[0] = 0, g.rtt[0], 0
	}
	if g.answers++; g.answers == 1 {
		g.since = now
	}
	if g.rtt[0] == 0 || d < g.rtt[0] {
		g.rtt[0] = d
	}
}

// open and close stand around a body that is read; begin and end around each read of it.
func (g *gauge) open(now time.Time) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.pass(now)
	g.bodies++
}

func (g *gauge) close(now time.Time) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.pass(now)
	g.bodies--
}

func (g *gauge) begin(now time.Time) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.pass(now)
	g.readers++
}

func (g *gauge) end(now time.Time, n int) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.pass(now)
	g.readers--
	g.n += int64(n)
	if g.busy >= rateStep {
		fade := math.Exp(-g.busy.Seconds() / rateMemory.Seconds())
		g.bytes = g.bytes*fade + float64(g.n)
		g.seconds = g.seconds*fade + g.busy.Seconds()
		g.n, g.busy = 0, 0
	}
}

// pass counts the time since the last event if it belongs to reading. g.mu is held.
func (g *gauge) pass(now time.Time) {
	d := now.Sub(g.last)
	g.last = now
	switch {
	case g.readers > 0:
		g.busy += min(d, longestRead)
	case g.bodies > 0 && d <= longestGap:
		g.busy += d
	}
}

func (g *gauge) link() Link {
	g.mu.Lock()
	defer g.mu.Unlock()
	l := Link{RTT: g.rtt[0]}
	if g.rtt[1] > 0 {
		l.RTT = min(l.RTT, g.rtt[1])
	}
	if g.seconds > 0 {
		l.Rate = g.bytes / g.seconds
	}
	return l
}

package layer

import (
	"sync"
	"time"
)

const (
	pilotStart  = 2    // places to begin with: while one range is asked for, the other comes
	pilotGain   = 1.1  // by what factor more places must be faster to be kept
	pilotLoss   = 0.95 // what part of the speed fewer places must leave to be kept
	pilotPause  = 32   // so many measurements after a vain attempt the next one is made
	pilotRanges = 8    // of a measurement, at least
)

// pilot finds out how many ranges Background is to have under way: one host may serve each connection slowly, or be far away, and
// then more of them are faster; once the link, the disk or decoding is the limit, more would only be in the way of readers, because
// what is under way cannot be called back. It measures while nothing else is going on, climbs as long as that helps, and then tries
// now and again whether fewer would do, and whether more help now.
type pilot struct {
	steer func(places int)
	most  int

	mu     sync.Mutex
	places int
	start  time.Time // of this measurement; zero if none is under way
	ranges int       // that landed since
	bytes  int64
	before int     // places that were left to try others; 0 if none are tried
	rate   float64 // bytes a second with them
	down   bool    // fewer are tried, or will be next
	pause  int     // measurements until others are tried
}

// disturb gives the present measurement up: something else had the link.
func (p *pilot) disturb() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.start = time.Time{}
}

// limit takes places away, for the time being.
func (p *pilot) limit(places int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.places > places {
		p.fly(places)
		p.before, p.down, p.pause, p.start = 0, false, pilotPause, time.Time{}
	}
}

// landed counts a range of so many bytes in.
func (p *pilot) landed(bytes int64) {
	p.mu.Lock()
	defer p.mu.Unlock()
	now := time.Now()
	if p.start.IsZero() {
		p.start, p.ranges, p.bytes = now, 0, 0
		return
	}
	p.ranges++
	p.bytes += bytes
	if p.ranges < max(pilotRanges, 2*p.places) || now.Equal(p.start) {
		return
	}
	p.judge(float64(p.bytes) / now.Sub(p.start).Seconds())
	p.start = time.Time{} // ranges that began before do not tell of the new number
}

// judge decides after a measurement.
func (p *pilot) judge(rate float64) {
	worth := pilotGain
	if p.down {
		worth = pilotLoss
	}
	switch {
	case p.before > 0 && rate < p.rate*worth:
		p.fly(p.before)
		p.before, p.down, p.pause = 0, !p.down, pilotPause
	case p.pause > 0:
		p.pause--
	default:
		p.try(rate)
	}
}

// try leaves the present places, which are so fast, for fewer or more.
func (p *pilot) try(rate float64) {
	places := min(p.places+max(1, p.places/2), p.most)
	if p.down {
		places = max(p.places-max(1, p.places/3), min(pilotStart, p.places))
	}
	if places == p.places {
		p.before, p.down, p.pause = 0, !p.down, pilotPause
		return
	}
	p.before, p.rate = p.places, rate
	p.fly(places)
}

func (p *pilot) fly(places int) {
	p.places = places
	p.steer(places)
}

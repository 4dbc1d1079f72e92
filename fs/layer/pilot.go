package layer

import (
	"sync"
	"time"
)

const (
	pilotGain  = 1.1 // by what factor more places must be faster to be kept
	pilotPause = 32  // so many measurements after a vain attempt the next one is made
)

// pilot finds out how many ranges Background is to have under way: one host may serve each connection slowly, or be far away, and
// then more of them are faster; once the link, the disk or decoding is the limit, more would only be in the way of readers. It
// measures while nothing else is going on, and climbs as long as that helps.
type pilot struct {
	steer func(places int)
	most  int

	mu     sync.Mutex
	places int
	start  time.Time // of this measurement; zero if none is under way
	ranges int       // that landed since
	bytes  int64
	before int     // places that were not worth leaving, while more are tried; else 0
	rate   float64 // bytes a second with them
	pause  int     // measurements until more are tried
}

// disturb gives the present measurement up: something else had the link.
func (p *pilot) disturb() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.start = time.Time{}
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
	if p.ranges < 2*p.places || now.Equal(p.start) {
		return
	}
	p.judge(float64(p.bytes) / now.Sub(p.start).Seconds())
	p.start = time.Time{} // ranges that began before do not tell of the new number
}

// judge decides after a measurement.
func (p *pilot) judge(rate float64) {
	switch {
	case p.before > 0 && rate < p.rate*pilotGain:
		p.fly(p.before)
		p.before, p.pause = 0, pilotPause
	case p.pause > 0:
		p.pause--
	case p.places < p.most:
		p.before, p.rate = p.places, rate
		p.fly(min(p.places+max(1, p.places/2), p.most))
	default:
		p.before = 0
	}
}

func (p *pilot) fly(places int) {
	p.places = places
	p.steer(places)
}

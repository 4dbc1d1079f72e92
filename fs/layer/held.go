package layer

import "time"

// Hold is why Background does not go on.
type Hold string

const (
	HeldByLimit    Hold = "limit"    // BackgroundLimit has to be made up for
	HeldByPressure Hold = "pressure" // tasks stall on IO
	HeldByDemand   Hold = "demand"   // demand or prefetch is active, or was a moment ago
)

// Holds are all of them.
var Holds = []Hold{HeldByLimit, HeldByPressure, HeldByDemand}

// Held returns how many layers have something to fetch in the background that does not begin, and why: 0 if nothing holds it back but
// what is fetched in the background already.
func (s *Scheduler) Held() (layers int, why Hold) {
	g := s.ranges
	g.mu.Lock()
	defer g.mu.Unlock()
	waiting := g.waiting[Background].len()
	switch {
	case waiting == 0:
	case time.Now().Before(g.brake.paid):
		return waiting, HeldByLimit
	case g.brake.high:
		return waiting, HeldByPressure
	case g.above(Background) > 0, g.lull.lasts(time.Now()):
		return waiting, HeldByDemand
	}
	return 0, ""
}

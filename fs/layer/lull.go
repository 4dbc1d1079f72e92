package layer

import "time"

const (
	// lullTime is how long after something urgent Background that is patient waits for the next: a program that starts computes in
	// between. It is more than containerd needs from a pull's last layer to a container's first read.
	lullTime = 250 * time.Millisecond

	// lullLimit is how much of that there may be in a row, which few starts take; it is there again after lullShare times as long. So
	// who reads a little all the time does not keep the rest from coming.
	lullLimit = 10 * time.Second
	lullShare = 10
)

// lull is the time between what is more urgent than Background.
type lull struct {
	since time.Time     // when it began; zero while there is no lull
	spent time.Duration // in lulls, as far as the share of all time that they may have has not made up for it
	at    time.Time     // when spent was right
}

// begin says that nothing urgent is under way any more, or that a program reads on, end that something is, or that the lull begins anew.
func (l *lull) begin(now time.Time) { l.since = now }

func (l *lull) end(now time.Time) {
	if l.since.IsZero() {
		return
	}
	l.spent = min(max(0, l.spent-now.Sub(l.at)/lullShare)+min(now.Sub(l.since), lullTime), lullLimit)
	l.at, l.since = now, time.Time{}
}

// lasts reports whether something urgent is to be expected.
func (l *lull) lasts(now time.Time) bool {
	return !l.since.IsZero() && now.Sub(l.since) < lullTime && l.spent < lullLimit
}

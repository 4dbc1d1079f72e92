package remote

import "time"

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

// Link returns what the way to the blob's host is like: to the one that answered last or, if none has, to the first that will
// be asked, or to where that one redirects to. It does not touch network or disk.
func (b *Blob) Link() Link {
	b.mu.Lock()
	e := b.last
	b.mu.Unlock()
	if e == nil {
		e = b.repo.first()
	}
	if e == nil {
		return Link{}
	}
	from := e.site.bodies.Load()
	if from == nil {
		from = e.site
	}
	l := from.gauge.link()
	l.Requests = from.pacer.allowed()
	if n := e.site.pacer.allowed(); l.Requests == 0 || n > 0 && n < l.Requests {
		l.Requests = n
	}
	return l
}

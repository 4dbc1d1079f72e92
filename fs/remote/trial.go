package remote

import (
	"context"
	"errors"
	"math/rand/v2"
	"time"

	"github.com/opencontainers/go-digest"
)

// A subject is what an error is about.
type subject struct {
	op     string
	ref    string
	digest digest.Digest
}

func (s subject) explain(e *Error) *Error {
	e.Op, e.Ref, e.Digest = s.op, s.ref, s.digest
	return e
}

// A trial is one call's way through the hosts: whom to ask next and when, what has gone wrong with each, and when it is
// enough.
type trial struct {
	registry *Registry
	subject  subject
	hosts    []*candidate // in order of preference
	site     func(*endpoint) *site
	round    int  // of those in which somebody was asked, since the last progress, from 1
	silent   int  // rounds in a row in which nobody was asked, and no host answered anybody else
	refused  int  // rounds in which hosts that answered others asked this one to wait, since the last progress
	left     int  // tries of any kind that are left
	served   bool // others were answered in a round before this one
}

// refusals is how many times as often as others fail may hosts that answer others ask to wait: it is our turn some time, unless
// it is this very blob that they have no answer for.
const refusals = 8

// A candidate is a host in a trial.
type candidate struct {
	*endpoint
	ticket   uint64 // the trial's
	err      *Error // last
	attempts int
	tried    bool   // in this round
	passed   bool   // in this round, but it had asked others to wait
	refused  bool   // in this round: it asked us to wait
	gone     bool   // for good
	watched  *site  // where it is asked, or what has asked us to wait
	answered uint64 // what that had answered to anybody by then, or when the round began
}

func (c *candidate) watch(s *site) { c.watched, c.answered = s, s.pacer.answered() }

// answers reports whether somebody else has had an answer meanwhile.
func (c *candidate) answers() bool { return c.watched.pacer.answered() != c.answered }

// newTrial makes a trial for size bytes.
func newTrial(r *Registry, s subject, hosts []*endpoint, size int64) *trial {
	t := &trial{registry: r, subject: s, round: 1, site: func(e *endpoint) *site { return e.site }}
	ticket := r.tickets.Add(1)
	for _, e := range hosts {
		c := &candidate{endpoint: e, ticket: ticket}
		c.watch(e.site)
		t.hosts = append(t.hosts, c)
	}
	t.left = r.opts.MaxAttempts * len(hosts) * int(1+size>>18)
	return t
}

// next returns the host to ask now, after waiting if need be. Its error is the trial's.
func (t *trial) next(ctx context.Context) (*candidate, error) {
	for {
		if ctx.Err() != nil {
			return nil, t.cancelled(ctx, nil)
		}
		if c := t.ready(); c != nil {
			c.tried, c.passed, c.refused = true, false, false
			c.attempts++
			t.left--
			return c, nil
		}
		wait, ok := t.wait()
		if !ok {
			return nil, t.failure()
		}
		if t.registry.clock.sleep(ctx, wait) != nil {
			return nil, t.cancelled(ctx, nil)
		}
		t.again()
		if t.round > t.registry.opts.MaxAttempts {
			return nil, t.failure()
		}
	}
}

// again begins a round. One in which all hosts made us wait is no attempt: if they answer others, it is our turn some time.
func (t *trial) again() {
	asked, alive, refused := false, false, false
	for _, c := range t.hosts {
		t.served = t.served || c.answers()
		switch {
		case c.tried && c.refused:
			refused = true
			alive = alive || c.answers()
		case c.tried && !c.passed:
			asked = true
		case !c.gone && c.answers():
			alive = true
		}
		c.tried = false
		c.watch(t.site(c.endpoint))
	}
	switch {
	case asked, refused && !alive:
		t.round, t.silent = t.round+1, 0
	case alive:
		t.silent = 0
		if refused {
			t.refused++
		}
	default:
		t.silent++
	}
}

func (t *trial) ready() *candidate {
	if t.left <= 0 {
		return nil
	}
	now := t.registry.clock.now()
	for _, c := range t.hosts {
		if !c.gone && !c.tried && !now.Before(t.site(c.endpoint).pacer.until()) {
			return c
		}
	}
	return nil
}

// wait returns how long to wait before the next round; false if there is none.
func (t *trial) wait() (time.Duration, bool) {
	var first time.Time
	alive, asked := false, false
	for _, c := range t.hosts {
		asked = asked || c.tried && !c.passed && (!c.refused || !t.served)
		if until := t.site(c.endpoint).pacer.until(); !c.gone && (!alive || until.Before(first)) {
			first, alive = until, true
		}
	}
	if most := t.registry.opts.MaxAttempts; t.left <= 0 || asked && t.round >= most || t.silent >= most || t.refused >= refusals*most {
		return 0, false
	}
	return max(t.registry.opts.Backoff.after(t.round), spread(first.Sub(t.registry.clock.now()))), alive
}

// spread makes those who were asked to wait for the same time return one by one. It adds up to an eighth, at most a second.
func spread(d time.Duration) time.Duration {
	if d <= 0 {
		return 0
	}
	return d + rand.N(min(d/8, time.Second)+1)
}

// after returns the wait after a number of rounds, from 1.
func (b Backoff) after(rounds int) time.Duration {
	d := b.Max
	if shift := rounds - 1; shift < 32 && b.Min<<shift < b.Max && b.Min<<shift > 0 {
		d = b.Min << shift
	}
	return d/2 + rand.N(d/2+1)
}

// failed notes what has gone wrong at c. It returns an error if that ends the trial.
func (t *trial) failed(ctx context.Context, c *candidate, err error) error {
	if ctx.Err() != nil {
		return t.cancelled(ctx, c)
	}
	fault, ok := errors.AsType[*Error](err)
	if !ok {
		fault = c.fault(nil, err)
	}
	if errors.Is(fault, errPaused) { // nobody was asked
		c.attempts--
		t.left++
		c.passed = true
		return nil
	}
	if fault.overloaded != nil {
		c.refused = true
		t.left++ // rounds are counted
		c.watch(fault.overloaded)
	}
	fault.Attempts = c.attempts
	c.err = t.subject.explain(fault)
	c.gone = !fault.temporary
	return nil
}

// progress renews the attempts: bytes have come.
func (t *trial) progress() { t.round, t.refused = 1, 0 }

// failure returns what went wrong at each host that was asked.
func (t *trial) failure() error {
	var errs []error
	for _, c := range t.hosts {
		if c.err != nil {
			errs = append(errs, c.err)
		}
	}
	switch len(errs) {
	case 0:
		if t.left > 0 {
			return t.subject.explain(&Error{Err: errPaused, temporary: true})
		}
		// All answers were good ones, of next to nothing each.
		return t.subject.explain(&Error{Err: errTooMany, temporary: true})
	case 1:
		return errs[0]
	}
	return errors.Join(errs...)
}

func (t *trial) cancelled(ctx context.Context, c *candidate) error {
	e := &Error{Err: cancelled(ctx)}
	if c != nil {
		e.Host, e.Attempts = c.host, c.attempts
	}
	return t.subject.explain(e)
}

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
	round    int          // since the last progress, from 1
	left     int          // tries of any kind that are left
}

// A candidate is a host in a trial.
type candidate struct {
	*endpoint
	err       *Error // last
	attempts  int
	tried     bool      // in this round
	gone      bool      // for good
	notBefore time.Time // as Retry-After asked
}

// newTrial makes a trial for size bytes.
func newTrial(r *Registry, s subject, hosts []*endpoint, size int64) *trial {
	t := &trial{registry: r, subject: s, round: 1}
	for _, e := range hosts {
		t.hosts = append(t.hosts, &candidate{endpoint: e})
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
			c.tried = true
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
		t.round++
		for _, c := range t.hosts {
			c.tried = false
		}
	}
}

func (t *trial) ready() *candidate {
	if t.left <= 0 {
		return nil
	}
	now := t.registry.clock.now()
	for _, c := range t.hosts {
		if !c.gone && !c.tried && !now.Before(c.notBefore) {
			return c
		}
	}
	return nil
}

// wait returns how long to wait before the next round; false if there is none.
func (t *trial) wait() (time.Duration, bool) {
	if t.left <= 0 || t.round >= t.registry.opts.MaxAttempts {
		return 0, false
	}
	var first time.Time
	alive := false
	for _, c := range t.hosts {
		if !c.gone && (!alive || c.notBefore.Before(first)) {
			first, alive = c.notBefore, true
		}
	}
	return max(t.registry.opts.Backoff.after(t.round), first.Sub(t.registry.clock.now())), alive
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
	fault.Attempts = c.attempts
	c.err = t.subject.explain(fault)
	c.gone = !fault.temporary
	c.notBefore = t.registry.clock.now().Add(fault.retryAfter)
	return nil
}

// progress renews the attempts: bytes have come.
func (t *trial) progress() { t.round = 1 }

// failure returns what went wrong at each host that was asked.
func (t *trial) failure() error {
	var errs []error
	for _, c := range t.hosts {
		if c.err != nil {
			errs = append(errs, c.err)
		}
	}
	switch len(errs) {
	case 0: // all answers were good ones, of next to nothing each
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

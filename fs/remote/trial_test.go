package remote

import (
	"context"
	"net/http"
	"testing"
	"time"
)

// A host that asks one reader to wait, time and again, while it answers others, is asked more often than one that answers nobody, but
// not for ever.
func TestRefusedWhileOthersAreServed(t *testing.T) {
	for _, others := range []bool{false, true} {
		b, h, clock := newBlob(t, content(1000), Options{MaxAttempts: 4})
		h.wrap(func(http.HandlerFunc) http.HandlerFunc { return status(429) })
		clock.onSleep = func(context.Context, time.Duration) {
			if others {
				answerOthers(t, b)
			}
		}
		if _, err := readRange(t.Context(), b, 0, 100); err == nil || !temporary(err) {
			t.Errorf("others %v: %v", others, err)
		}
		want := 4
		if others {
			want = 4*refusals + 1
		}
		if n := len(h.seen()); n != want {
			t.Errorf("%d requests, want %d (others are served: %v)", n, want, others)
		}
	}
}

// Faults of which each reader has its share come to an end for none of them before the attempts are used up: who was sent away in the
// last round has one left.
func TestSentAwayInTheLastRound(t *testing.T) {
	const attempts = 4
	b, _, _ := newBlob(t, content(1000), Options{MaxAttempts: attempts})
	hosts, err := b.hosts(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	trial := b.newTrial(b.subject, hosts, 100)
	for _, fault := range []*Error{{Status: 500}, {Status: 500}, {Status: 500}, {Err: errPaused}, {Err: errPaused}, {Status: 500}} {
		c, err := trial.next(t.Context())
		if err != nil {
			t.Fatalf("given up before %v: %v", fault, err)
		}
		fault.temporary = true
		if err := trial.failed(t.Context(), c, fault); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := trial.next(t.Context()); err == nil {
		t.Errorf("more than %d attempts", attempts)
	}
}

// answerOthers has b's host answer somebody else.
func answerOthers(t *testing.T, b *Blob) {
	hosts, err := b.hosts(t.Context())
	if err != nil {
		t.Error(err)
		return
	}
	p := &hosts[0].site.pacer
	p.mu.Lock()
	defer p.mu.Unlock()
	p.answers++
}

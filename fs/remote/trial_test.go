package remote

import (
	"context"
	"net/http"
	"sync/atomic"
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

// Storage that asks everybody to wait is given up, however often the registry redirects there.
func TestRefusedByStorage(t *testing.T) {
	var key atomic.Int64
	registry, storage := newHost(t), newHost(t)
	p := content(1000)
	d := storage.addBlob("/v2/team/app", p)
	registry.wrap(signing(storage, &key))
	storage.wrap(func(http.HandlerFunc) http.HandlerFunc { return status(503) })
	r, _ := newRegistry(t, registry, Options{MaxAttempts: 4})
	b, err := r.Blob(testRef, d, 1000)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := readRange(t.Context(), b, 0, 100); err == nil || !temporary(err) {
		t.Error(err)
	}
	if n := len(storage.seen()); n != 4 {
		t.Errorf("%d requests, want 4", n)
	}
}

// A last fault that is a request to wait, by a host that answers others, is not the end.
func TestRefusedAtLast(t *testing.T) {
	b, h, clock := newBlob(t, content(1000), Options{MaxAttempts: 4})
	h.fail(status(500), status(500), status(500), status(429))
	clock.onSleep = func(context.Context, time.Duration) { answerOthers(t, b) }
	if got, err := readRange(t.Context(), b, 0, 100); err != nil || len(got) != 100 {
		t.Errorf("%d bytes, %v", len(got), err)
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

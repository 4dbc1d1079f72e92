package remote

import (
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"net/url"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"
)

// What one repository hears from a host holds for all others there, and not for its mirror.
func TestPauseIsTheHosts(t *testing.T) {
	p := content(100)
	busy, mirror := newHost(t), newHost(t)
	d := busy.addBlob("/v2/team/app", p)
	busy.addBlob("/v2/team/other", p)
	mirror.addBlob("/v2/team/other", p)
	root := hostsDir(t, mirror, fmt.Sprintf("[host.%q]\n", busy.URL))
	r, clock := newRegistry(t, mirror, Options{ConfigPath: root})
	first, err := r.Blob(testRef, d, 100)
	second, err2 := r.Blob("registry.test/team/other:v1", d, 100)
	if err := errors.Join(err, err2); err != nil {
		t.Fatal(err)
	}
	mustRead(t, second, p, 0, 100)
	busy.fail(status(429, "Retry-After", "30"))
	mirror.fail(status(500))
	mustRead(t, first, p, 0, 100) // there is no mirror that has it, so it waits
	if got := clock.slept(); len(got) != 2 || got[0] > time.Second || got[0]+got[1] < 30*time.Second {
		t.Errorf("waited %v", got)
	}

	busy.fail(status(503, "Retry-After", "30"))
	mustRead(t, second, p, 0, 10)
	mustRead(t, second, p, 10, 10)
	if n, m := len(busy.seen()), len(mirror.seen()); n != 4 || m != 4 {
		t.Errorf("%d requests at the busy host, %d at its mirror", n, m)
	}
	if got := clock.slept(); len(got) != 2 {
		t.Errorf("waited %v for a host that has a mirror", got[2:])
	}
}

// Storage that signed URLs lead to is another host than the registry. A blob that is redirected to it while it asks to be
// left alone keeps the URL until then.
func TestPauseOfStorage(t *testing.T) {
	p := content(1000)
	var key atomic.Int64
	registry, storage := newHost(t), newHost(t)
	d := storage.addBlob("/v2/team/app", p)
	registry.wrap(signing(storage, &key))
	r, clock := newRegistry(t, registry, Options{})
	b, err := r.Blob(testRef, d, 1000)
	if err != nil {
		t.Fatal(err)
	}
	at, err := url.Parse(storage.URL)
	if err != nil {
		t.Fatal(err)
	}
	r.site(at).pacer.pause(30 * time.Second)
	mustRead(t, b, p, 0, 100)
	if got := clock.slept(); len(got) != 1 || got[0] < 30*time.Second {
		t.Errorf("waited %v", got)
	}
	if n, m := len(registry.seen()), len(storage.seen()); n != 1 || m != 1 {
		t.Errorf("%d requests at the registry, %d at storage", n, m)
	}
	// What storage says, the registry does not.
	storage.fail(status(503, "Retry-After", "30"))
	mustRead(t, b, p, 0, 100)
	base, err := url.Parse(registry.URL)
	if err != nil {
		t.Fatal(err)
	}
	if s := r.site(base); s.pacer.allowed() != 0 || !s.pacer.until().IsZero() {
		t.Error("the registry is spared for its storage")
	}
	if b.Link().Requests != 1 {
		t.Errorf("link %+v", b.Link())
	}
}

// A range that is open and unread does not keep the only place of its host.
func TestUnreadRangeDoesNotBlock(t *testing.T) {
	p := content(4 << 20)
	b, h, _ := newBlob(t, p, Options{}, status(429))
	b.repo.registry.clock = wallClock()
	var paused []io.ReadCloser
	for range 3 {
		r, err := b.ReadRange(t.Context(), 0, int64(len(p)))
		if err != nil {
			t.Fatal(err)
		}
		defer r.Close()
		paused = append(paused, r)
	}
	if b.Link().Requests != 1 {
		t.Fatalf("link %+v", b.Link())
	}
	start := time.Now()
	mustRead(t, b, p, 0, 100)
	if d := time.Since(start); d < idleGrace/2 || d > time.Second {
		t.Errorf("waited %v for readers that do not read", d)
	}
	for _, r := range paused {
		if got, err := io.ReadAll(r); err != nil || len(got) != len(p) {
			t.Errorf("%d bytes, %v", len(got), err)
		}
	}
	if n := len(h.seen()); n != 5 {
		t.Errorf("%d requests", n)
	}
}

// However many ask, a host that refuses every third request serves them all: who is made to wait by others' refusals is not
// thereby out of attempts.
func TestWaitingCostsNoAttempts(t *testing.T) {
	p := content(1000)
	for name, refusal := range map[string]http.HandlerFunc{"429": status(429), "503": status(503)} {
		t.Run(name, func(t *testing.T) {
			b, h, _ := newBlob(t, p, Options{Backoff: Backoff{Min: time.Millisecond, Max: 4 * time.Millisecond}})
			b.repo.registry.clock = wallClock()
			var n, at, most atomic.Int64
			h.wrap(func(next http.HandlerFunc) http.HandlerFunc {
				return func(w http.ResponseWriter, r *http.Request) {
					if n.Add(1)%3 == 0 {
						refusal(w, r)
						return
					}
					if now := at.Add(1); n.Load() > 300 {
						most.Store(max(most.Load(), now))
					}
					defer at.Add(-1)
					next(w, r)
				}
			})
			g, ctx := errgroup.WithContext(t.Context())
			for range 64 {
				g.Go(func() error {
					for range 10 {
						off := rand.N[int64](900)
						got, err := readRange(ctx, b, off, 100)
						if err != nil {
							return err
						}
						if string(got) != string(p[off:off+100]) {
							return errors.New("wrong bytes")
						}
					}
					return nil
				})
			}
			if err := g.Wait(); err != nil {
				t.Fatal(err)
			}
			if most.Load() > 32 {
				t.Errorf("%d requests at once", most.Load())
			}
		})
	}
}

// A host that refuses everything is given up after as many pauses as there are attempts, by those who were never asked for, too.
func TestOverloadedForGood(t *testing.T) {
	b, h, _ := newBlob(t, content(1000), Options{MaxAttempts: 4, Backoff: Backoff{Min: time.Millisecond, Max: 2 * time.Millisecond}})
	b.repo.registry.clock = wallClock()
	h.wrap(func(http.HandlerFunc) http.HandlerFunc { return status(503) })
	var wg sync.WaitGroup
	for range 64 {
		wg.Go(func() {
			if _, err := readRange(t.Context(), b, 0, 100); err == nil || !temporary(err) {
				t.Errorf("got %v", err)
			}
		})
	}
	wg.Wait()
	if n := len(h.seen()); n > 64*4 {
		t.Errorf("%d requests", n)
	}
}

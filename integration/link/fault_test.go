package link

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net/http"
	"regexp"
	"syscall"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"
)

func TestEffects(t *testing.T) {
	g := newRegistry(100_000)
	damaged := func(from, to int) []byte {
		p := bytes.Clone(g.content)
		for i := from; i < to; i++ {
			p[i] ^= 0xff
		}
		return p
	}
	for _, c := range []struct {
		name   string
		effect Effect
		rng    string
		code   int
		body   []byte
		err    error
	}{
		{"403", Status{Code: 403}, "", 403, []byte("Forbidden\n"), nil},
		{"404", Status{Code: 404}, "", 404, []byte("Not Found\n"), nil},
		{"503", Status{Code: 503}, "", 503, []byte("Service Unavailable\n"), nil},
		{"200 instead of 206", WholeBody{}, "bytes=5-10", 200, g.content, nil},
		{"truncated", Truncate{After: 70_000}, "", 200, g.content[:70_000], io.ErrUnexpectedEOF},
		{"truncated at once", Truncate{}, "", 200, nil, io.ErrUnexpectedEOF},
		{"truncated range", Truncate{After: 10}, "bytes=5-30", 206, g.content[5:15], io.ErrUnexpectedEOF},
		{"corrupted", Corrupt{From: 40_000, To: 40_010}, "", 200, damaged(40_000, 40_010), nil},
		{"corrupted to the end", Corrupt{From: 99_000}, "", 200, damaged(99_000, 100_000), nil},
		{"corrupted range", Corrupt{From: 7, To: 9}, "bytes=5-10", 206, damaged(7, 9)[5:11], nil},
		{"corrupted elsewhere", Corrupt{From: 7, To: 9}, "bytes=50-60", 206, g.content[50:61], nil},
		{"flipped", Flip{}, "", 200, damaged(50_000, 50_001), nil},
		{"flipped range", Flip{}, "bytes=1000-1009", 206, damaged(1005, 1006)[1000:1010], nil},
		{"reset", Reset{After: -1}, "", 0, nil, syscall.ECONNRESET},
		{"reset in the body", Reset{After: 40_000}, "", 200, nil, syscall.ECONNRESET},
	} {
		t.Run(c.name, func(t *testing.T) {
			l := start(t, g, Options{})
			i := l.Inject(Rule{Blob: g.digest}, c.effect)
			a := get(t, l, g.path(), "Range", c.rng)
			if !errors.Is(a.err, c.err) || a.code != c.code {
				t.Fatalf("got %d, %v; want %d, %v", a.code, a.err, c.code, c.err)
			}
			// A reset may overtake bytes that were sent before it.
			if c.body != nil && !bytes.Equal(a.body, c.body) {
				t.Errorf("got %d bytes, want %d others", len(a.body), len(c.body))
			}
			if i.Hits() != 1 {
				t.Errorf("%d hits", i.Hits())
			}
			i.Remove()
			if a := get(t, l, g.path()); a.err != nil || !bytes.Equal(a.body, g.content) {
				t.Errorf("after removal: %d bytes, %v", len(a.body), a.err)
			}
		})
	}
}

func TestRetryAfter(t *testing.T) {
	g := newRegistry(10)
	l := start(t, g, Options{})
	l.Inject(Rule{}, Status{Code: http.StatusTooManyRequests, RetryAfter: 3 * time.Second})
	if a := get(t, l, g.path()); a.code != 429 || a.header.Get("Retry-After") != "3" {
		t.Errorf("got %d, Retry-After %q", a.code, a.header.Get("Retry-After"))
	}
}

func TestStall(t *testing.T) {
	g := newRegistry(100_000)
	for _, after := range []int64{-1, 0, 50_000} {
		l := start(t, g, Options{})
		i := l.Inject(Rule{}, Stall{After: after})
		done := make(chan answer)
		go func() { done <- get(t, l, g.path()) }()
		if err := i.Wait(t.Context(), 1); err != nil {
			t.Fatal(err)
		}
		select {
		case a := <-done:
			t.Fatalf("after %d: answered %d, %v while stalled", after, a.code, a.err)
		default:
		}
		i.Release()
		if a := <-done; a.err != nil || !bytes.Equal(a.body, g.content) {
			t.Errorf("after %d: released: %d bytes, %v", after, len(a.body), a.err)
		}
	}
}

func TestStallEndsWithItsClient(t *testing.T) {
	g := newRegistry(10)
	l := start(t, g, Options{})
	i := l.Inject(Rule{Count: 1}, Stall{After: -1})
	ctx, cancel := context.WithCancel(t.Context())
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+l.Addr()+g.path(), nil)
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan error)
	go func() {
		resp, err := newClient(t).Do(req)
		if err == nil {
			err = resp.Body.Close()
		}
		done <- err
	}()
	if err := i.Wait(t.Context(), 1); err != nil {
		t.Fatal(err)
	}
	cancel()
	if err := <-done; !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
	if a := get(t, l, g.path()); a.err != nil {
		t.Errorf("the next client: %v", a.err)
	}
}

func TestRules(t *testing.T) {
	g := newRegistry(10)
	manifest := "/v2/some/image/manifests/latest"
	for _, c := range []struct {
		name string
		rule Rule
		want string // a letter for each of 6 requests, blob and manifest in turn: x hit, . not
	}{
		{"all", Rule{}, "xxxxxx"},
		{"blob", Rule{Blob: g.digest}, "x.x.x."},
		{"other blob", Rule{Blob: digest.FromString("other")}, "......"},
		{"path", Rule{Path: regexp.MustCompile(`/manifests/lat`)}, ".x.x.x"},
		{"kind", Rule{Kind: Manifest}, ".x.x.x"},
		{"method", Rule{Method: http.MethodPut}, "......"},
		{"signed", Rule{Signed: true}, "......"},
		{"third", Rule{Skip: 2, Count: 1}, "..x..."},
		{"second blob", Rule{Blob: g.digest, Skip: 1, Count: 1}, "..x..."},
		{"twice", Rule{Count: 2}, "xx...."},
	} {
		t.Run(c.name, func(t *testing.T) {
			l := start(t, g, Options{})
			l.Inject(c.rule, Status{Code: 500})
			got := ""
			for n := range 6 {
				a := get(t, l, []string{g.path(), manifest}[n%2])
				got += map[bool]string{true: "x", false: "."}[a.code == 500]
			}
			if got != c.want {
				t.Errorf("got %s, want %s", got, c.want)
			}
		})
	}
}

func TestProbabilityIsRepeatable(t *testing.T) {
	g := newRegistry(10)
	run := func(seed uint64) (hits string) {
		l := start(t, g, Options{})
		l.Inject(Rule{Probability: 0.5, Seed: seed}, Status{Code: 500})
		c := newClient(t)
		for range 64 {
			hits += map[bool]string{true: "x", false: "."}[getWith(t, c, l, g.path()).code == 500]
		}
		return hits
	}
	if a, b := run(1), run(1); a != b {
		t.Errorf("one seed, two outcomes:\n%s\n%s", a, b)
	}
	if a, b := run(1), run(2); a == b {
		t.Errorf("two seeds, one outcome: %s", a)
	}
}

func TestFirstRuleThatHitsWins(t *testing.T) {
	g := newRegistry(10)
	l := start(t, g, Options{})
	l.Inject(Rule{Count: 1}, Status{Code: 500})
	l.Inject(Rule{}, Status{Code: 404})
	for _, want := range []int{500, 404, 404} {
		if a := get(t, l, g.path()); a.code != want {
			t.Errorf("got %d, want %d", a.code, want)
		}
	}
}

package link

import (
	"context"
	"math/rand/v2"
	"net/http"
	"regexp"
	"sync"

	"github.com/opencontainers/go-digest"
)

// Rule selects requests. Its zero value selects every request at the front. All that is set must agree.
type Rule struct {
	Method string         // "" means any
	Path   *regexp.Regexp // nil means any; matched against the URL's path
	Blob   digest.Digest  // reads of this blob only
	Kind   Kind           // "" means any
	Signed bool           // requests at the signed listener, instead of those at the front

	Skip        int     // let so many matching requests pass first
	Count       int     // hit at most so many; 0 means no limit
	Probability float64 // of a hit, each time; 0 means always
	Seed        uint64  // of the probability: the same seed and the same requests give the same hits
}

// Injection is a rule at work.
type Injection struct {
	rules  *rules
	rule   Rule
	effect Effect

	// All below is guarded by rules.mu, except that released may be received from at any time.
	random   *rand.Rand
	seen     int
	hits     int
	more     chan struct{} // closed and replaced at each hit
	released chan struct{}
	open     bool // released is closed
}

type rules struct {
	mu  sync.Mutex
	all []*Injection // in the order they were injected; the first that hits wins
}

// Inject lets e happen to the requests that r selects, until the injection is removed.
func (l *Link) Inject(r Rule, e Effect) *Injection {
	i := &Injection{
		rules: &l.rules, rule: r, effect: e,
		random: rand.New(rand.NewPCG(r.Seed, 0)),
		more:   make(chan struct{}), released: make(chan struct{}),
	}
	l.rules.mu.Lock()
	defer l.rules.mu.Unlock()
	l.rules.all = append(l.rules.all, i)
	return i
}

// Hits is how many requests were hit so far.
func (i *Injection) Hits() int {
	i.rules.mu.Lock()
	defer i.rules.mu.Unlock()
	return i.hits
}

// Wait returns when n requests were hit.
func (i *Injection) Wait(ctx context.Context, n int) error {
	for {
		i.rules.mu.Lock()
		hits, more := i.hits, i.more
		i.rules.mu.Unlock()
		if hits >= n {
			return nil
		}
		select {
		case <-more:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// Release lets stalled requests go on; later ones are not held.
func (i *Injection) Release() {
	i.rules.mu.Lock()
	defer i.rules.mu.Unlock()
	i.release()
}

// Remove stops hitting requests and releases those that are stalled.
func (i *Injection) Remove() {
	i.rules.mu.Lock()
	defer i.rules.mu.Unlock()
	i.release()
	for n, other := range i.rules.all {
		if other == i {
			i.rules.all = append(i.rules.all[:n:n], i.rules.all[n+1:]...)
			return
		}
	}
}

func (i *Injection) release() {
	if !i.open {
		i.open = true
		close(i.released)
	}
}

func (rs *rules) releaseAll() {
	rs.mu.Lock()
	defer rs.mu.Unlock()
	for _, i := range rs.all {
		i.release()
	}
}

func (rs *rules) pick(r *http.Request, blob digest.Digest, signed bool) (Effect, *Injection) {
	rs.mu.Lock()
	defer rs.mu.Unlock()
	for _, i := range rs.all {
		if i.rule.selects(r, blob, signed) && i.hit() {
			return i.effect, i
		}
	}
	return nil, nil
}

func (u Rule) selects(r *http.Request, blob digest.Digest, signed bool) bool {
	kind, _ := classify(r)
	return u.Signed == signed &&
		(u.Method == "" || u.Method == r.Method) &&
		(u.Kind == "" || u.Kind == kind) &&
		(u.Blob == "" || u.Blob == blob) &&
		(u.Path == nil || u.Path.MatchString(r.URL.Path))
}

func (i *Injection) hit() bool {
	i.seen++
	if i.seen <= i.rule.Skip || (i.rule.Count > 0 && i.hits >= i.rule.Count) {
		return false
	}
	if p := i.rule.Probability; p > 0 && i.random.Float64() >= p {
		return false
	}
	i.hits++
	close(i.more)
	i.more = make(chan struct{})
	return true
}

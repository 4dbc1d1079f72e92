package remote

import (
	"context"
	"net/http"
	"sync"
	"time"

	"github.com/containerd/containerd/v2/core/remotes/docker"
)

// tokenTimeout ends a token request that nobody's context ends, since several requests may be waiting for it.
const tokenTimeout = time.Minute

// An authorizer keeps the current login of an endpoint. containerd makes an authorizer per pull; kept for the days that a
// layer is mounted it would remember a failed or refused token for ever, and old credentials with it. So a login that
// failed is thrown away, and a challenge is always answered by a new one.
type authorizer struct {
	fresh func() docker.Authorizer

	mu      sync.Mutex
	current *login
	answer  *answer // to a challenge, under way
}

// A login is one of containerd's authorizers and so the tokens in it. Calls are made one at a time, because it reads the
// expiry of a token that another call may be writing. Only the one that fetches the token takes long.
type login struct {
	mu   sync.Mutex
	auth docker.Authorizer
}

func (l *login) authorize(ctx context.Context, req *http.Request) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.auth.Authorize(ctx, req)
}

type answer struct {
	done chan struct{}
	err  error // once done
}

func newAuthorizer(fresh func() docker.Authorizer) *authorizer {
	return &authorizer{fresh: fresh, current: &login{auth: fresh()}}
}

// authorize sets req's Authorization if one is known to be needed, which may take a token request. It returns whom to
// complain about in challenge.
func (a *authorizer) authorize(ctx context.Context, req *http.Request) (*login, error) {
	a.mu.Lock()
	current := a.current
	a.mu.Unlock()
	probe := &http.Request{Method: req.Method, URL: req.URL, Header: make(http.Header)}
	err := detached(ctx, func(ctx context.Context) error { return current.authorize(ctx, probe) })
	if err != nil {
		if ctx.Err() == nil {
			a.replace(current, &login{auth: a.fresh()})
		}
		return current, err
	}
	if value := probe.Header.Get("Authorization"); value != "" {
		req.Header.Set("Authorization", value)
	}
	return current, nil
}

// challenge answers a 401 to a request that used authorized: once it returns nil, authorize will know better. Requests
// that were refused at the same time share one answer, so one credential helper runs, not fifty.
func (a *authorizer) challenge(ctx context.Context, used *login, resp *http.Response) error {
	a.mu.Lock()
	if a.current != used {
		a.mu.Unlock()
		return nil
	}
	ans := a.answer
	if ans == nil {
		ans = &answer{done: make(chan struct{})}
		a.answer = ans
		go a.respond(context.WithoutCancel(ctx), used, resp, ans)
	}
	a.mu.Unlock()
	select {
	case <-ans.done:
		return ans.err
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

func (a *authorizer) respond(ctx context.Context, used *login, resp *http.Response, ans *answer) {
	next := &login{auth: a.fresh()}
	ans.err = next.auth.AddResponses(ctx, []*http.Response{resp})
	if ans.err == nil {
		a.replace(used, next)
	}
	a.mu.Lock()
	a.answer = nil
	a.mu.Unlock()
	close(ans.done)
}

func (a *authorizer) replace(old, next *login) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.current == old {
		a.current = next
	}
}

// detached runs f, which does not stop when ctx does: others may be waiting inside containerd's authorizer for the same
// token, and it remembers a cancelled request as it would a refused one.
func detached(ctx context.Context, f func(context.Context) error) error {
	done := make(chan error, 1)
	go func() {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), tokenTimeout)
		defer cancel()
		done <- f(ctx)
	}()
	select {
	case err := <-done:
		return err
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

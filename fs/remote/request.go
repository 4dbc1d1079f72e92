package remote

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"

	"github.com/containerd/errdefs"
)

// maxRedirects is net/http's own limit.
const maxRedirects = 10

// A response is a 200 or 206. Its watchdog ends it; it must be closed.
type response struct {
	*http.Response
	dog  *watchdog
	away bool // a redirect led to another host
}

func (r *response) close() {
	r.dog.stop()
	r.Body.Close()
}

// get asks for u, with the answer to at most one 401 and through redirects. When away is set, u belongs to someone else
// than e's host and gets none of its headers. Any status but 200 and 206 is an error, and every error but ctx's
// an *Error.
func (e *endpoint) get(ctx context.Context, u *url.URL, header http.Header, away bool) (_ *response, err error) {
	ctx, err = e.scope(ctx)
	if err != nil {
		return nil, err
	}
	dog := watch(ctx, e.registry.clock, e.registry.opts.StallTimeout)
	defer func() {
		if err != nil {
			dog.stop()
		}
	}()
	challenged := false
	for range maxRedirects + 2 { // the request itself and the one after a 401
		resp, used, err := e.send(dog, u, header, away)
		if err != nil {
			return nil, e.explain(ctx, dog, u, err)
		}
		e.registry.opts.Trace.response(ctx, e.host, resp.StatusCode)
		switch code := resp.StatusCode; {
		case code == http.StatusOK || code == http.StatusPartialContent:
			return &response{Response: resp, dog: dog, away: away}, nil
		case code == http.StatusUnauthorized && !away && !challenged:
			challenged = true
			if err := e.challenge(ctx, dog, used, resp); err != nil {
				return nil, err
			}
		case redirects(code):
			next, err := resp.Location()
			discard(dog, resp)
			if err != nil || next.Scheme != "https" && next.Scheme != "http" {
				return nil, e.fault(u, errLocation)
			}
			away = away || !sameHost(resp.Request.URL, next)
			u = next
		default:
			return nil, e.refused(dog, u, resp, away)
		}
	}
	return nil, e.fault(u, errRedirects)
}

func redirects(code int) bool {
	switch code {
	case http.StatusMovedPermanently, http.StatusFound, http.StatusSeeOther,
		http.StatusTemporaryRedirect, http.StatusPermanentRedirect:
		return true
	}
	return false
}

// sameHost reports whether credentials for a may be sent to b.
func sameHost(a, b *url.URL) bool {
	if a.Scheme != b.Scheme && b.Scheme != "https" {
		return false
	}
	return strings.EqualFold(a.Host, b.Host) || strings.EqualFold(a.Hostname(), b.Hostname()) && port(a) == port(b)
}

func port(u *url.URL) string {
	switch {
	case u.Port() != "":
		return u.Port()
	case u.Scheme == "http":
		return "80"
	}
	return "443"
}

// send makes one request. Its errors are raw. It goes by the transport and not by a client, which parses Location by
// itself and quotes it in errors, signature and all.
func (e *endpoint) send(dog *watchdog, u *url.URL, header http.Header, away bool) (*http.Response, *login, error) {
	req, err := http.NewRequestWithContext(dog.ctx, http.MethodGet, u.String(), nil)
	if err != nil {
		return nil, nil, err
	}
	var used *login
	if away {
		req.Header.Set("User-Agent", e.registry.opts.UserAgent)
	} else {
		req.Header = e.header.Clone()
		if used, err = e.auth.authorize(dog.ctx, req); err != nil {
			return nil, nil, authError{err}
		}
	}
	for key, values := range header {
		req.Header[key] = values
	}
	var resp *http.Response
	dog.during(func() { resp, err = e.transport.RoundTrip(req) }) //nolint:bodyclose // it is the caller's
	return resp, used, err
}

// challenge deals with a 401. Its error is an *Error unless it is ctx's.
func (e *endpoint) challenge(ctx context.Context, dog *watchdog, used *login, resp *http.Response) error {
	refused := e.refused(dog, resp.Request.URL, resp, false)
	err := e.auth.challenge(dog.ctx, used, resp)
	switch {
	case err == nil:
		return nil
	case ctx.Err() != nil:
		return cancelled(ctx)
	case errdefs.IsNotImplemented(err): // the host says 401, and not how to do better
		return refused
	}
	describeAuth(refused, err)
	return refused
}

// authError is an error of the authorizer, not of the request.
type authError struct{ error }

func (e authError) Unwrap() error { return e.error }

// explain makes an *Error of an error of send, or returns that of ctx.
func (e *endpoint) explain(ctx context.Context, dog *watchdog, u *url.URL, err error) error {
	if ctx.Err() != nil {
		return cancelled(ctx)
	}
	if ae, ok := errors.AsType[authError](err); ok {
		fault := e.fault(u, nil)
		describeAuth(fault, ae.error)
		return fault
	}
	if errors.Is(context.Cause(dog.ctx), errStalled) {
		err = fmt.Errorf("%w (%v)", errStalled, dog.limit)
	}
	fault := e.fault(u, err)
	fault.temporary = !permanentCause(err)
	return fault
}

// fault returns a permanent error of e at u.
func (e *endpoint) fault(u *url.URL, err error) *Error {
	fault := &Error{Host: e.host, Err: err}
	if u != nil && !strings.EqualFold(u.Host, e.host) {
		fault.URL = bare(u)
	}
	return fault
}

// refused makes an error of an answer with the wrong status, and closes it.
func (e *endpoint) refused(dog *watchdog, u *url.URL, resp *http.Response, away bool) *Error {
	fault := e.fault(u, nil)
	fault.Status = resp.StatusCode
	fault.temporary = temporaryStatus(resp.StatusCode)
	body := discard(dog, resp)
	if !away {
		code, message := registryMessage(body)
		known := secrets(resp.Request.Header)
		fault.Code, fault.Message = scrub(code, known), scrub(message, known)
	}
	if fault.temporary {
		opts := e.registry.opts.Backoff
		fault.retryAfter = min(parseRetryAfter(resp.Header.Get("Retry-After"), e.registry.clock.now()), opts.MaxRetryAfter)
	}
	if resp.StatusCode == http.StatusRequestedRangeNotSatisfiable {
		if r, err := parseContentRange(resp.Header.Get("Content-Range")); err == nil && r.unsatisfied() {
			fault.sized, fault.size = true, r.total
		}
	}
	return fault
}

func temporaryStatus(code int) bool {
	switch code {
	case http.StatusRequestTimeout, http.StatusTooEarly, http.StatusTooManyRequests:
		return true
	case http.StatusNotImplemented, http.StatusHTTPVersionNotSupported:
		return false
	}
	return code >= 500
}

// discard reads a body that is not wanted as far as it is worth for the connection, and returns what came of it.
func discard(dog *watchdog, resp *http.Response) []byte {
	var body []byte
	dog.during(func() { body, _ = io.ReadAll(io.LimitReader(resp.Body, maxErrorBody)) })
	resp.Body.Close()
	return body
}

// cancelled returns the cause of ctx's end as something that also is context.Canceled or DeadlineExceeded.
func cancelled(ctx context.Context) error {
	cause := context.Cause(ctx)
	if errors.Is(cause, ctx.Err()) {
		return cause
	}
	return fmt.Errorf("%w: %w", ctx.Err(), cause)
}

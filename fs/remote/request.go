package remote

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptrace"
	"net/url"
	"strings"
	"time"

	"github.com/containerd/errdefs"
)

// maxRedirects is net/http's own limit.
const maxRedirects = 10

// A response is a 200 or 206. Its watchdog ends it; it must be closed.
type response struct {
	*http.Response
	dog  *watchdog
	slot *slot
	site *site // that answered
	away bool  // a redirect led to another host
}

func (r *response) close() {
	r.dog.stop()
	r.Body.Close()
	r.slot.leave()
}

// A request is what is asked of an endpoint.
type request struct {
	url    *url.URL
	header http.Header
	order  order
	away   bool // url belongs to someone else than the endpoint's host, who gets none of its headers
}

// get asks for q, with the answer to at most one 401 and through redirects. Any status but 200 and 206 is an error, and
// every error but ctx's an *Error.
func (e *endpoint) get(ctx context.Context, q request) (_ *response, err error) {
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
		resp, used, err := e.send(dog, q)
		if err != nil {
			return nil, e.explain(ctx, dog, q, err)
		}
		e.registry.opts.Trace.response(ctx, e.host, resp.StatusCode)
		code := resp.StatusCode
		if code == http.StatusOK || code == http.StatusPartialContent {
			return resp, nil
		}
		resp.slot.leave()
		switch {
		case code == http.StatusUnauthorized && !q.away && !challenged:
			challenged = true
			if err := e.challenge(ctx, dog, used, resp.Response); err != nil {
				return nil, err
			}
		case redirects(code):
			next, err := resp.Location()
			discard(dog, resp.Response)
			if err != nil || next.Scheme != "https" && next.Scheme != "http" {
				return nil, e.fault(q.url, errLocation)
			}
			q.away = q.away || !sameHost(resp.Request.URL, next)
			q.url = next
		default:
			return nil, e.refused(dog, q, resp.Response)
		}
	}
	return nil, e.fault(q.url, errRedirects)
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

// send makes one request, when its site lets it. Its errors are raw. It goes by the transport and not by a client, which
// parses Location by itself and quotes it in errors, signature and all.
func (e *endpoint) send(dog *watchdog, q request) (_ *response, used *login, err error) {
	r := &response{dog: dog, site: e.registry.site(q.url), away: q.away}
	var asked time.Time // on a connection that is there
	now := e.registry.clock.now
	ctx := httptrace.WithClientTrace(dog.ctx, &httptrace.ClientTrace{GotConn: func(httptrace.GotConnInfo) {
		asked = now()
		r.slot.ride.connected()
	}})
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, q.url.String(), nil)
	if err != nil {
		return nil, nil, err
	}
	if q.away {
		req.Header.Set("User-Agent", e.registry.opts.UserAgent)
	} else {
		req.Header = e.header.Clone()
		if used, err = e.auth.authorize(dog.ctx, req); err != nil {
			return nil, nil, authError{err}
		}
	}
	for key, values := range q.header {
		req.Header[key] = values
	}
	if r.slot, err = r.site.pacer.enter(dog.ctx, q.order); err != nil {
		return nil, nil, err
	}
	transport, ride := e.fan.pick(r.site, q.order)
	r.slot.ride = ride
	dog.during(func() {
		r.slot.ride.wait(ctx)
		r.Response, err = transport.RoundTrip(req) //nolint:bodyclose // response.close does
	})
	if err != nil {
		r.slot.leave()
		return nil, nil, err
	}
	r.began(asked, now())
	return r, used, nil
}

// began tells the site how it has answered.
func (r *response) began(asked, now time.Time) {
	r.site.multiplexes.Store(r.ProtoMajor == 2)
	if r.StatusCode == http.StatusOK || r.StatusCode == http.StatusPartialContent {
		r.site.gauge.answer(now, now.Sub(asked))
	}
	opts := r.site.pacer.registry.opts.Backoff
	r.slot.answer(r.StatusCode, min(parseRetryAfter(r.Header.Get("Retry-After"), now), opts.MaxRetryAfter))
	r.slot.lies(now)
}

// challenge deals with a 401. Its error is an *Error unless it is ctx's.
func (e *endpoint) challenge(ctx context.Context, dog *watchdog, used *login, resp *http.Response) error {
	refused := e.refused(dog, request{url: resp.Request.URL}, resp)
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
func (e *endpoint) explain(ctx context.Context, dog *watchdog, q request, err error) error {
	if ctx.Err() != nil {
		return cancelled(ctx)
	}
	if errors.Is(err, errPaused) {
		fault := e.fault(q.url, err)
		fault.temporary = true
		if q.away {
			fault.signed = q.url
		}
		return fault
	}
	if ae, ok := errors.AsType[authError](err); ok {
		fault := e.fault(q.url, nil)
		describeAuth(fault, ae.error)
		return fault
	}
	if errors.Is(context.Cause(dog.ctx), errStalled) {
		err = fmt.Errorf("%w (%v)", errStalled, dog.limit)
	}
	fault := e.fault(q.url, err)
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
func (e *endpoint) refused(dog *watchdog, q request, resp *http.Response) *Error {
	fault := e.fault(q.url, nil)
	fault.Status = resp.StatusCode
	fault.temporary = temporaryStatus(resp.StatusCode)
	if overloaded(resp.StatusCode, parseRetryAfter(resp.Header.Get("Retry-After"), e.registry.clock.now())) {
		fault.overloaded = e.site
		if q.away {
			fault.overloaded = e.registry.site(q.url)
		}
	}
	body := discard(dog, resp)
	if !q.away {
		code, message := registryMessage(body)
		known := secrets(resp.Request.Header)
		fault.Code, fault.Message = scrub(code, known), scrub(message, known)
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

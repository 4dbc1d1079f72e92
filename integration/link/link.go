// Package link stands in front of a registry and plays the network between it and a node: it delays, shapes, counts and breaks.
//
// A Link is a reverse proxy. Its words:
//
//   - the front is the listener that clients know as the registry;
//   - the signed listener is a second address, to which the front redirects blob reads when RedirectBlobs is on;
//   - a rule says which requests an effect hits (see Rule), an effect says what becomes of them (see Effect);
//   - bytes are always those of response bodies, as they leave the link.
//
// All connections, on both listeners, share one bandwidth. Every method of a Link and of an Injection may be called
// at any time from any goroutine.
package link

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/http/httputil"
	"net/url"
	"strings"
	"time"
)

// Options of a Link. The zero value, with an Upstream, forwards at full speed.
type Options struct {
	Upstream  string        // "unix:/path" or "http://host:port"
	Latency   time.Duration // added once to every request, before it is forwarded
	Bandwidth int64         // bytes per second for all connections together; 0 means unlimited
}

// Link is a running reverse proxy. Close it.
type Link struct {
	front, signed *listener
	proxy         *httputil.ReverseProxy
	shape         *shape
	rules         rules
	counters      counters
	auth          auth
	redirect      redirect
}

// Start listens on two free ports of 127.0.0.1 and forwards to o.Upstream, which need not answer yet.
func Start(o Options) (*Link, error) {
	transport, target, err := upstream(o.Upstream)
	if err != nil {
		return nil, fmt.Errorf("start link: %w", err)
	}
	l := &Link{shape: newShape(o.Latency, o.Bandwidth)}
	l.proxy = &httputil.ReverseProxy{
		Transport:     transport,
		FlushInterval: -1, // the exchange decides how large a write is
		Rewrite: func(p *httputil.ProxyRequest) {
			p.SetURL(target)
			p.Out.Host = p.In.Host // so that upload locations point back here
			if x, ok := p.In.Context().Value(exchangeKey{}).(*exchange); ok && x.wholeBody {
				p.Out.Header.Del("Range")
			}
		},
		ErrorHandler: func(w http.ResponseWriter, _ *http.Request, err error) {
			http.Error(w, err.Error(), http.StatusBadGateway)
		},
	}
	var begin [2]func()
	if l.front, begin[0], err = listen(http.HandlerFunc(l.serveFront)); err != nil {
		return nil, fmt.Errorf("start link: %w", err)
	}
	if l.signed, begin[1], err = listen(http.HandlerFunc(l.serveSigned)); err != nil {
		begin[0]() // to be closed
		return nil, errors.Join(fmt.Errorf("start link: %w", err), l.front.close())
	}
	begin[0]()
	begin[1]()
	return l, nil
}

// Addr is the front's host:port; it stays the same for the life of the link.
func (l *Link) Addr() string { return l.front.addr }

// Shape replaces latency and bandwidth, for requests and bytes from now on.
func (l *Link) Shape(latency time.Duration, bandwidth int64) { l.shape.set(latency, bandwidth) }

// Refuse stops listening on the front and the signed listener and closes their connections: clients get "connection refused". The
// ports stay reserved until Accept or Close.
func (l *Link) Refuse() error { return errors.Join(l.front.refuse(), l.signed.refuse()) }

// Accept undoes Refuse, on the same addresses.
func (l *Link) Accept() error { return errors.Join(l.front.accept(), l.signed.accept()) }

// Close stops listening, closes every connection and ends every stall.
func (l *Link) Close() error {
	l.rules.releaseAll()
	return errors.Join(l.front.close(), l.signed.close())
}

// upstream makes the transport that reaches a registry on a unix socket or over HTTP.
func upstream(spec string) (http.RoundTripper, *url.URL, error) {
	t := &http.Transport{DisableCompression: true, MaxIdleConnsPerHost: 64}
	if path, ok := strings.CutPrefix(spec, "unix:"); ok {
		t.DialContext = func(ctx context.Context, _, _ string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, "unix", path)
		}
		return t, &url.URL{Scheme: "http", Host: "registry"}, nil
	}
	u, err := url.Parse(spec)
	if err != nil {
		return nil, nil, fmt.Errorf("upstream %q: %w", spec, err)
	}
	if u.Scheme != "http" || u.Host == "" {
		return nil, nil, fmt.Errorf("upstream %q: want unix:PATH or http://HOST:PORT", spec)
	}
	return t, u, nil
}

// serveFront answers as the registry: token flow, then faults, then redirects, then the registry itself.
func (l *Link) serveFront(w http.ResponseWriter, r *http.Request) {
	x := l.begin(w, r, false)
	if x == nil {
		return
	}
	if x.kind == Token && l.auth.serve(x, r) {
		return
	}
	if !l.auth.allows(x, r) {
		return
	}
	if x.answered() || l.redirect.send(x, r, l.signed.addr) {
		return
	}
	l.proxy.ServeHTTP(x, x.request(r))
}

// serveSigned answers as the storage behind the registry, to those who hold a URL that is still good.
func (l *Link) serveSigned(w http.ResponseWriter, r *http.Request) {
	x := l.begin(w, r, true)
	if x == nil || !l.redirect.allows(x, r) || x.answered() {
		return
	}
	l.proxy.ServeHTTP(x, x.request(l.redirect.strip(r)))
}

// begin counts a request, waits the latency, and picks the effect that hits it, if any. It returns nil if the client left.
func (l *Link) begin(w http.ResponseWriter, r *http.Request, signed bool) *exchange {
	kind, blob := classify(r)
	x := &exchange{ResponseWriter: w, ctx: r.Context(), link: l, kind: kind, blob: blob, cut: -1}
	l.counters.request(kind, blob)
	if l.shape.delay(r.Context()) != nil {
		return nil
	}
	x.effect, x.injection = l.rules.pick(r, blob, signed)
	return x
}

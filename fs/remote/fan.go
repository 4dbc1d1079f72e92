package remote

import (
	"context"
	"maps"
	"net/http"
	"sync"
)

const (
	// maxLanes is the most HTTP/2 connections to one host. Browsers open six HTTP/1.1 ones, and nobody minds.
	maxLanes = 8
	// perLane is how many large ranges share a connection before there is another.
	perLane = 2
	// largeRange is the least bytes that a handshake, of two round trips, is worth. What is smaller goes by the first
	// connection and does not count, so that small images make no others.
	largeRange = 1 << 20
)

// A fan spreads requests over connections. A transport makes one per request with HTTP/1.1, and with HTTP/2 a single one per host:
// its congestion window is then what all ranges get together, and a lost packet stops them all. So with HTTP/2 large ranges go by
// several transports. Connections are closed by their transport's IdleConnTimeout when they are no longer used.
type fan struct {
	first http.RoundTripper

	mu     sync.Mutex
	lanes  []*http.Transport // the first and its clones, as many as were needed; nil if first is something else
	routes map[*site]*routes
}

// routes are a site's connections, one per lane.
type routes struct {
	under [maxLanes]int           // large ranges under way
	ready [maxLanes]chan struct{} // closed when there is a connection; nil if nobody has asked for one
}

func newFan(first http.RoundTripper) *fan {
	f := &fan{first: first, routes: make(map[*site]*routes)}
	if t, ok := first.(*http.Transport); ok { // and not containerd's fallback from TLS for localhost
		f.lanes = []*http.Transport{t}
	}
	return f
}

// A ride is a large range's share in the load of a connection.
type ride struct {
	fan   *fan // nil for what is not counted
	site  *site
	lane  int
	ready chan struct{} // to wait for before it begins
	opens bool          // it is the one that makes the connection
}

// pick returns the transport for a request to s.
func (f *fan) pick(s *site, o order) (http.RoundTripper, ride) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if len(f.lanes) == 0 || !s.multiplexes.Load() {
		return f.first, ride{}
	}
	if o.size < largeRange {
		return f.first, ride{}
	}
	r := f.routesTo(s)
	lane := r.lane()
	if lane == len(f.lanes) {
		f.lanes = append(f.lanes, f.lanes[0].Clone())
	}
	r.under[lane]++
	opens := r.ready[lane] == nil
	if opens {
		r.ready[lane] = make(chan struct{})
	}
	return f.lanes[lane], ride{f, s, lane, r.ready[lane], opens}
}

// routesTo returns the routes to s. f.mu is held.
func (f *fan) routesTo(s *site) *routes {
	r := f.routes[s]
	if r == nil {
		maps.DeleteFunc(f.routes, func(_ *site, r *routes) bool {
			return len(f.routes) >= maxSites && r.under == [maxLanes]int{}
		})
		r = &routes{}
		r.ready[0] = make(chan struct{})
		close(r.ready[0]) // that is how it is known that there is HTTP/2
		f.routes[s] = r
	}
	return r
}

// lane returns the one with the least under way for one large range more, the first of several.
func (r *routes) lane() int {
	n := 1
	for _, under := range r.under {
		n += under
	}
	lane := 0
	for i := range min(maxLanes, (n+perLane-1)/perLane) {
		if r.under[i] < r.under[lane] {
			lane = i
		}
	}
	return lane
}

// wait returns when there is a connection, or when there is no use in waiting for it. Every request that finds a transport
// without a connection makes one, so only one may.
func (r *ride) wait(ctx context.Context) {
	if r.fan == nil || r.opens {
		return
	}
	select {
	case <-r.ready:
	case <-ctx.Done():
	}
}

// connected lets the others begin.
func (r *ride) connected() {
	if r.fan == nil || !r.opens {
		return
	}
	r.opens = false
	close(r.ready)
}

// end takes the request from its connection's load; it may be called again.
func (r *ride) end() {
	if r.fan == nil {
		return
	}
	f := r.fan
	f.mu.Lock()
	defer f.mu.Unlock()
	routes := f.routes[r.site]
	routes.under[r.lane]--
	if r.opens { // and has not
		routes.ready[r.lane] = nil
		close(r.ready)
	}
	r.fan = nil
}

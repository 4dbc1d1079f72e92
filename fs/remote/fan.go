package remote

import (
	"net/http"
	"sync"
)

const (
	// maxLanes is the most HTTP/2 connections to one host. Browsers open six HTTP/1.1 ones, and nobody minds.
	maxLanes = 8
	// oneLane is how many large ranges share a connection before there is a second: the few of a small image shall not
	// pay for handshakes.
	oneLane = 4
	// perLane is how many share one from then on.
	perLane = 2
)

// A fan spreads requests over connections. A transport makes one per request with HTTP/1.1, and with HTTP/2 a single one per host:
// its congestion window is then what all ranges get together, and a lost packet stops them all. So with HTTP/2 large ranges go by
// several transports. A host's connections are closed by the transport's IdleConnTimeout when they are no longer used.
type fan struct {
	first http.RoundTripper

	mu    sync.Mutex
	lanes []*http.Transport        // the first and its clones, as many as were needed; nil if first is something else
	load  map[*site]*[maxLanes]int // large ranges under way
}

func newFan(first http.RoundTripper) *fan {
	f := &fan{first: first, load: make(map[*site]*[maxLanes]int)}
	if t, ok := first.(*http.Transport); ok { // and not containerd's fallback from TLS for localhost
		f.lanes = []*http.Transport{t}
	}
	return f
}

// A ride is a request's share in the load of a connection.
type ride struct {
	fan  *fan // nil if it is not counted
	site *site
	lane int
}

// pick returns the transport for a request to s.
func (f *fan) pick(s *site, o order) (http.RoundTripper, ride) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if len(f.lanes) == 0 || !s.multiplexes.Load() {
		return f.first, ride{}
	}
	load := f.load[s]
	if load == nil {
		load = new([maxLanes]int)
		f.load[s] = load
	}
	under := 0
	for _, n := range load {
		under += n
	}
	large := o.kind() == 0
	if large {
		under++
	}
	lane := 0
	for i := range lanesFor(under) {
		if load[i] < load[lane] {
			lane = i
		}
	}
	for lane >= len(f.lanes) {
		f.lanes = append(f.lanes, f.lanes[0].Clone())
	}
	if !large {
		return f.lanes[lane], ride{}
	}
	load[lane]++
	return f.lanes[lane], ride{f, s, lane}
}

// lanesFor is how many connections n large ranges are spread over.
func lanesFor(n int) int {
	if n <= oneLane {
		return 1
	}
	return min(maxLanes, (n+perLane-1)/perLane)
}

// end takes the request from its connection's load; it may be called again.
func (r *ride) end() {
	if r.fan == nil {
		return
	}
	f := r.fan
	r.fan = nil
	f.mu.Lock()
	defer f.mu.Unlock()
	load := f.load[r.site]
	load[r.lane]--
	if *load == [maxLanes]int{} {
		delete(f.load, r.site)
	}
}

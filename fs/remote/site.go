package remote

import (
	"net/url"
	"strings"
	"sync/atomic"
)

// maxSites bounds the sites that are remembered. Beyond it all are forgotten, with the limits of those that were overloaded.
const maxSites = 1024

// A site is one address that is asked, whoever asks for what: a host of hosts.toml or one that signed URLs lead to.
type site struct {
	pacer       pacer
	gauge       gauge
	multiplexes atomic.Bool          // answered by HTTP/2 last
	bodies      atomic.Pointer[site] // where a host's blobs came from last; nil: none did
}

// site returns the site of u.
func (r *Registry) site(u *url.URL) *site {
	key := strings.ToLower(u.Hostname()) + ":" + port(u)
	r.mu.Lock()
	defer r.mu.Unlock()
	if s := r.sites[key]; s != nil {
		return s
	}
	if len(r.sites) >= maxSites {
		clear(r.sites) // endpoints keep theirs
	}
	s := &site{pacer: pacer{registry: r, epoch: r.clock.now(), slots: make(map[*slot]struct{})}}
	r.sites[key] = s
	return s
}

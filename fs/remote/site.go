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

// Link returns what the way to the blob's host is like: to the one that answered last or, if none has, to the first that will
// be asked, or to where that one redirects to. It does not touch network or disk.
func (b *Blob) Link() Link {
	b.mu.Lock()
	e := b.last
	b.mu.Unlock()
	if e == nil {
		e = b.repo.first()
	}
	if e == nil {
		return Link{}
	}
	from := e.site.bodies.Load()
	if from == nil {
		from = e.site
	}
	l := from.gauge.link()
	l.Requests = from.pacer.allowed()
	if n := e.site.pacer.allowed(); l.Requests == 0 || n > 0 && n < l.Requests {
		l.Requests = n
	}
	return l
}

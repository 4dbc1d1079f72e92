package link

import (
	"maps"
	"net/http"
	"regexp"
	"sync"
	"time"

	"github.com/opencontainers/go-digest"
)

// Kind is what a request is about.
type Kind string

// The kinds of requests; pushes and probes of /v2/ are Other.
const (
	Manifest Kind = "manifest"
	Blob     Kind = "blob"
	Token    Kind = "token"
	Other    Kind = "other"
)

// Count is requests that came and response body bytes that left.
type Count struct {
	Requests int
	Bytes    int64
}

// Counts is what passed through a link since it started or was last reset.
type Counts struct {
	Kinds map[Kind]Count
	Blobs map[digest.Digest]Count // reads of blobs, by digest
	Last  time.Time               // when the last body byte left; zero if none has
}

// Total sums over all kinds.
func (c Counts) Total() Count {
	var t Count
	for _, k := range c.Kinds {
		t.Requests += k.Requests
		t.Bytes += k.Bytes
	}
	return t
}

type counters struct {
	mu    sync.Mutex
	kinds map[Kind]Count
	blobs map[digest.Digest]Count
	last  time.Time
}

// Counts returns what passed so far.
func (l *Link) Counts() Counts {
	l.counters.mu.Lock()
	defer l.counters.mu.Unlock()
	return l.counters.now()
}

// ResetCounts starts again from zero and returns what had passed.
func (l *Link) ResetCounts() Counts {
	l.counters.mu.Lock()
	defer l.counters.mu.Unlock()
	c := l.counters.now()
	l.counters.kinds, l.counters.blobs, l.counters.last = nil, nil, time.Time{}
	return c
}

// now copies the counts; the caller holds mu.
func (c *counters) now() Counts {
	return Counts{Kinds: clone(c.kinds), Blobs: clone(c.blobs), Last: c.last}
}

func (c *counters) request(k Kind, blob digest.Digest) { c.add(k, blob, Count{Requests: 1}) }

func (c *counters) bytes(k Kind, blob digest.Digest, n int) {
	c.add(k, blob, Count{Bytes: int64(n)})
}

func (c *counters) add(k Kind, blob digest.Digest, d Count) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if d.Bytes > 0 {
		c.last = time.Now()
	}
	c.kinds = plus(c.kinds, k, d)
	if blob != "" {
		c.blobs = plus(c.blobs, blob, d)
	}
}

func plus[K comparable](m map[K]Count, k K, d Count) map[K]Count {
	if m == nil {
		m = make(map[K]Count)
	}
	old := m[k]
	m[k] = Count{old.Requests + d.Requests, old.Bytes + d.Bytes}
	return m
}

func clone[K comparable](m map[K]Count) map[K]Count {
	if m == nil {
		return map[K]Count{}
	}
	return maps.Clone(m)
}

var (
	blobPath     = regexp.MustCompile(`/v2/.+/blobs/([a-z0-9]+:[0-9a-f]+)$`)
	manifestPath = regexp.MustCompile(`^/v2/.+/manifests/[^/]+$`)
)

// classify names what r asks for; the digest is that of the blob, if it reads one.
func classify(r *http.Request) (Kind, digest.Digest) {
	read := r.Method == http.MethodGet || r.Method == http.MethodHead
	switch m := blobPath.FindStringSubmatch(r.URL.Path); {
	case r.URL.Path == tokenPath:
		return Token, ""
	case read && m != nil:
		return Blob, digest.Digest(m[1])
	case read && manifestPath.MatchString(r.URL.Path):
		return Manifest, ""
	}
	return Other, ""
}

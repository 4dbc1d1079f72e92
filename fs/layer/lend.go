package layer

import (
	"context"
	"io"
	"time"
)

// silentGrace is how long a registry may be silent before a range that waits for it lends its place, so that others do not wait for
// that registry too. Hosts that are merely far away take less. Then the range needs a place again for what comes: buffers and decoding.
const silentGrace = 500 * time.Millisecond

// silence is what waits for one registry without a place. It is bounded, because each has a request under way, of which some MiB may
// lie in the connection's buffers when the answer comes at last: no more of a registry begin while as many of its ranges have lent
// their places as may be inside, or keep half of the bytes.
type silence struct {
	ranges int
	bytes  int64 // that they have in memory
}

// hush says that one inside waits for its registry from now on, until heard is called.
func (g *gate) hush(e *entrant) {
	g.mu.Lock()
	defer g.mu.Unlock()
	e.waits = true
	if e.patience == nil {
		e.patience = time.AfterFunc(silentGrace, func() { g.lend(e) })
	} else {
		e.patience.Reset(silentGrace)
	}
}

// heard ends the wait, and reports whether the place was lent meanwhile: then its owner calls await before it goes on. Who has kept all
// of its bytes is inside again at once, if there is a place or not: it takes nothing more, and others may wait for it to give that back.
func (g *gate) heard(e *entrant) (lent bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	e.waits = false
	e.patience.Stop()
	if e.lent && e.kept == e.bytes {
		e.ready = make(chan struct{})
		g.admit(e)
		g.dispatch() // one less is silent
	}
	return e.lent
}

// lend takes a place from one that waits for its registry, and its bytes but for those that are in memory.
func (g *gate) lend(e *entrant) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if !e.waits || e.lent {
		return // the timer was late
	}
	e.lent = true
	if e.held != nil {
		e.kept = min(e.held(), e.bytes)
	}
	if g.silent == nil {
		g.silent = make(map[string]silence)
	}
	s := g.silent[e.registry]
	g.silent[e.registry] = silence{s.ranges + 1, s.bytes + e.kept}
	g.depart(e)
}

// restore ends what lend has begun. g.mu is held.
func (g *gate) restore(e *entrant) {
	s := g.silent[e.registry]
	s = silence{s.ranges - 1, s.bytes - e.kept}
	if g.silent[e.registry] = s; s.ranges == 0 {
		delete(g.silent, e.registry)
	}
	e.lent, e.kept = false, 0
}

// keeping returns the bytes that are in memory of all that have lent their places. g.mu is held.
func (g *gate) keeping() (bytes int64) {
	for _, s := range g.silent {
		bytes += s.bytes
	}
	return bytes
}

// crowded reports whether too much waits for a registry for one more to begin. g.mu is held.
func (g *gate) crowded(e *entrant) bool {
	s, most := g.silent[e.registry], g.places[e.priority]
	if e.priority == Background && g.steered > 0 {
		most = min(most, g.steered) // a reader's request may have to queue behind them at its host
	}
	return s.ranges >= max(1, most) || s.bytes > g.bytes[e.priority]/2
}

// quietly calls f, which waits for the registry of one inside that has all of its bytes in memory.
func (g *gate) quietly(e *entrant, f func()) {
	g.hush(e)
	f()
	g.heard(e)
}

// newHolder is an entrant that has all of its bytes in memory from the beginning.
func newHolder(p Priority, image string, bytes int64) *entrant {
	return &entrant{priority: p, bytes: bytes, image: image, held: func() int64 { return bytes }}
}

// lender is a blob that is read by a holder, whose place it lends while the blob is silent.
type lender struct {
	Blob
	gate  *gate
	place *entrant
}

func (l lender) ReadRange(ctx context.Context, off, size int64) (body io.ReadCloser, err error) {
	l.gate.quietly(l.place, func() { body, err = l.Blob.ReadRange(ctx, off, size) })
	if err != nil {
		return nil, err
	}
	return lentBody{body, l}, nil
}

type lentBody struct {
	io.ReadCloser
	lender lender
}

func (b lentBody) Read(p []byte) (n int, err error) {
	b.lender.gate.quietly(b.lender.place, func() { n, err = b.ReadCloser.Read(p) })
	return n, err
}

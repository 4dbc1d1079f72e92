package snapshotter

import (
	"context"
	"sync"

	"github.com/opencontainers/go-digest"
)

// claims keeps a layer from being released between the moment it is mounted
// for a snapshot and the moment that snapshot is in the database.
type claims struct {
	mu     sync.Mutex
	layers map[digest.Digest]*claim
}

// claim is the state of one layer: held by so many, or being released until
// released is closed.
type claim struct {
	holders  int
	released chan struct{}
}

func newClaims() *claims {
	return &claims{layers: make(map[digest.Digest]*claim)}
}

// hold waits until nobody releases the layer, and keeps it from being released
// until drop is called.
func (c *claims) hold(ctx context.Context, d digest.Digest) (drop func(), err error) {
	for {
		released := c.tryHold(d)
		if released == nil {
			return func() { c.drop(d) }, nil
		}
		select {
		case <-released:
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		}
	}
}

// tryHold returns nil if it counted one more holder, else the channel to wait for.
func (c *claims) tryHold(d digest.Digest) <-chan struct{} {
	c.mu.Lock()
	defer c.mu.Unlock()
	l := c.layers[d]
	switch {
	case l == nil:
		c.layers[d] = &claim{holders: 1}
	case l.released != nil:
		return l.released
	default:
		l.holders++
	}
	return nil
}

func (c *claims) drop(d digest.Digest) {
	c.mu.Lock()
	defer c.mu.Unlock()
	l := c.layers[d]
	if l.holders--; l.holders == 0 {
		delete(c.layers, d)
	}
}

// seize reports whether the layer is neither held nor being released; if so,
// hold waits until done is called.
func (c *claims) seize(d digest.Digest) (done func(), ok bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.layers[d] != nil {
		return nil, false
	}
	l := &claim{released: make(chan struct{})}
	c.layers[d] = l
	return func() {
		c.mu.Lock()
		defer c.mu.Unlock()
		delete(c.layers, d)
		close(l.released)
	}, true
}

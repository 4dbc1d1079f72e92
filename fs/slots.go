package fs

import (
	"context"
	"errors"
	"fmt"
	iofs "io/fs"

	"github.com/opencontainers/go-digest"
)

var (
	errClosed     = errors.New("mounts are closed")
	errNotMounted = fmt.Errorf("not mounted: %w", iofs.ErrNotExist)
	errCutOff     = errors.New("the FUSE mount was unmounted or cut off by somebody else")
)

// slot is a layer that is mounted, or on its way to or from there.
type slot struct {
	ready chan struct{} // closed when the attempt to mount is over
	gone  chan struct{} // closed when the layer is unmounted again; made by whoever unmounts it, guarded by FS.mu

	// Written before ready is closed.
	err     error
	mounted *mounted
}

// slotFor returns the layer's slot, and begins to mount it if there is none.
func (f *FS) slotFor(ctx context.Context, src Source) (*slot, error) {
	for {
		f.mu.Lock()
		s := f.slots[src.Digest]
		if s == nil && f.closed {
			f.mu.Unlock()
			return nil, errClosed
		}
		if s == nil {
			s = &slot{ready: make(chan struct{})}
			f.slots[src.Digest] = s
			f.mu.Unlock()
			f.fill(ctx, s, src)
			return s, nil
		}
		gone := s.gone
		f.mu.Unlock()
		if gone == nil {
			return s, nil
		}
		select {
		case <-gone: // and mount it anew
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		}
	}
}

// fill mounts a layer into an empty slot. A slot that stays empty is taken away.
func (f *FS) fill(ctx context.Context, s *slot, src Source) {
	_, ok := f.tasks.start(ctx, func(ctx context.Context) {
		m, err := f.mount(ctx, src)
		f.settle(s, src.Digest, m, err)
	})
	if !ok {
		f.settle(s, src.Digest, nil, errClosed)
	}
}

func (f *FS) settle(s *slot, d digest.Digest, m *mounted, err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	s.mounted, s.err = m, err
	if err != nil {
		delete(f.slots, d)
	}
	close(s.ready)
}

// lookup finds a mounted layer, without waiting for one on its way.
func (f *FS) lookup(d digest.Digest) (*mounted, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if s := f.slots[d]; s != nil && s.mounted != nil && s.gone == nil {
		return s.mounted, nil
	}
	return nil, errNotMounted
}

// all lists the mounted layers.
func (f *FS) all() []*mounted {
	f.mu.Lock()
	defer f.mu.Unlock()
	var all []*mounted
	for _, s := range f.slots {
		if s.mounted != nil && s.gone == nil {
			all = append(all, s.mounted)
		}
	}
	return all
}

// allStanding lists also those that are on their way out.
func (f *FS) allStanding() []*mounted {
	f.mu.Lock()
	defer f.mu.Unlock()
	var all []*mounted
	for _, s := range f.slots {
		if s.mounted != nil {
			all = append(all, s.mounted)
		}
	}
	return all
}

// take claims the slot of a mounted layer for unmounting; nil if it is not mounted. It waits for a mount or another
// unmount under way.
func (f *FS) take(ctx context.Context, d digest.Digest) (*slot, error) {
	for {
		f.mu.Lock()
		s := f.slots[d]
		if s == nil {
			f.mu.Unlock()
			return nil, nil
		}
		wait := s.ready
		switch {
		case s.gone != nil:
			wait = s.gone
		case f.closed:
			f.mu.Unlock()
			return nil, errClosed
		case s.mounted != nil:
			s.gone = make(chan struct{})
			f.leaving.Add(1)
			f.mu.Unlock()
			return s, nil
		}
		f.mu.Unlock()
		select {
		case <-wait:
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		}
	}
}

// claim is take for m, without waiting: whoever mounts or unmounts its layer just now may be waiting for the caller.
func (f *FS) claim(m *mounted) (*slot, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	s := f.slots[m.src.Digest]
	switch {
	case s == nil:
		return nil, errNotMounted // somebody else was faster
	case s.mounted != m || s.gone != nil:
		return nil, ErrInUse
	case f.closed:
		return nil, errClosed
	}
	s.gone = make(chan struct{})
	f.leaving.Add(1)
	return s, nil
}

// takeAll claims all slots that are left once the tasks have ended. No slot can be claimed afterwards.
func (f *FS) takeAll() []*slot {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.closed = true
	var all []*slot
	for _, s := range f.slots {
		if s.gone == nil && s.mounted != nil {
			s.gone = make(chan struct{})
			all = append(all, s)
		}
	}
	return all
}

// keep ends what take has begun: the layer stays as it is.
func (f *FS) keep(s *slot) {
	f.mu.Lock()
	defer f.mu.Unlock()
	close(s.gone)
	s.gone = nil
}

// vacate takes away the slot of a layer that is no longer mounted.
func (f *FS) vacate(s *slot) {
	f.mu.Lock()
	defer f.mu.Unlock()
	delete(f.slots, s.mounted.src.Digest)
	close(s.gone)
}

package fs

import (
	"context"
	"errors"
	"fmt"
	"sync"

	"github.com/sluice-snapshotter/sluice/cache"
)

var (
	// ErrUntrusted says that a layer is not what its image claims, and that the image is one that is not trusted: nobody is to try in another way.
	ErrUntrusted = errors.New("the image is not trusted")
	// ErrProofFirst says that an image cannot have a layer yet, because that could not be proven: the image is not trusted, or names no TOC for a
	// layer that has come by one.
	ErrProofFirst = errors.New("the layer has to be proven before it is mounted for this image")

	errUnprovable = errors.New("nothing says which diffID it has to have")
	errLater      = errors.New("that is under way")
)

// appearance says whether a mounted layer is shown to anybody. One that is brought for an image that is not trusted is not, until it is proven
// or an image that is trusted has it too.
type appearance struct {
	mu    sync.Mutex
	shown bool
	gone  bool // it is taken down, and stays so
}

// is reports whether the layer is shown.
func (a *appearance) is() bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.shown && !a.gone
}

// end has a layer not be shown any more, and returns whether it was.
func (a *appearance) end() bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.gone = true
	return a.shown
}

// reveal shows a layer, and begins to fetch it, if that has not been done yet.
func (f *FS) reveal(ctx context.Context, m *mounted) error {
	m.appears.mu.Lock()
	defer m.appears.mu.Unlock()
	switch {
	case m.appears.shown: // if it has been taken down since, that is as if it came after
		return nil
	case m.appears.gone:
		return errNotMounted
	}
	f.server.show(m.shown)
	if err := f.show(ctx, m); err != nil {
		f.server.hide(m.shown.id)
		return err
	}
	f.fetch(ctx, m)
	m.appears.shown = true
	return nil
}

// distrusts says whether a layer has to be proven for src before src may have it: who is not trusted, and who does not know the TOC that it
// has come by.
func (f *FS) distrusts(src Source, m *mounted) bool {
	return !m.src.plain() && (src.plain() || f.opts.Untrusted(src.Ref)) && len(m.proof.known()) == 0
}

// ProofFirst says whether a layer that is mounted is yet to be proven for src: Mount does that.
func (f *FS) ProofFirst(src Source) bool {
	m, err := f.lookup(src.Digest)
	return err == nil && f.distrusts(src, m)
}

// admit gives src a layer that is in its slot. If src distrusts it, it is fetched and proven first; without wait that is an error, and goes on.
func (f *FS) admit(ctx context.Context, src Source, m *mounted, wait bool) error {
	if f.distrusts(src, m) {
		if !src.provable() {
			return fmt.Errorf("%w: %w", ErrProofFirst, errUnprovable)
		}
		if !wait {
			f.tasks.start(ctx, func(ctx context.Context) { _ = f.proveFirst(ctx, m) }) // whoever needs the layer gets the error
			return fmt.Errorf("%w: %w", ErrProofFirst, errLater)
		}
		if err := f.proveFirst(ctx, m); err != nil && !errors.Is(err, ErrRefused) {
			return fmt.Errorf("%w: %w", ErrProofFirst, err)
		}
	}
	if !m.src.plain() {
		if err := src.proven(m.proof.known()); err != nil {
			return err
		}
	}
	return f.reveal(context.WithoutCancel(ctx), m) // that takes a moment, and who else has it would lose it
}

// awaitsProof says whether a layer is being proven before it is shown.
func (m *mounted) awaitsProof() bool { return m.first.Load() && !m.appears.is() }

// proveFirst fetches all of a layer and proves it, once for all who wait for that. When ctx ends it goes on, for the next attempt.
func (f *FS) proveFirst(ctx context.Context, m *mounted) error {
	return f.once(ctx, &f.proving, m.src.Digest.String(), func(ctx context.Context) (err error) {
		m.first.Store(true)
		defer m.first.Store(false)
		for range 2 { // a proof that looks at the disk may find that it has lost some, which native mounts go on reading
			if err = m.shown.layer.FillFirst(ctx); err != nil {
				return err
			}
			if err = f.prove(ctx, m); !errors.Is(err, cache.ErrIncomplete) {
				return err
			}
		}
		return err
	})
}

// remembered checks src against what was found out of its layer, if that was another one than some image had claimed, before it was removed. The
// error wraps ErrRefused.
func (f *FS) remembered(src Source) error {
	if src.TOCDigest == "" || !src.provable() {
		return nil
	}
	return src.proven(f.opts.Store.Refused(src.Digest, src.TOCDigest))
}

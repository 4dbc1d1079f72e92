package fs

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/sluice-snapshotter/sluice/cache"
)

// ErrInUse says that a layer is part of a container, or of a pull that is under way.
var ErrInUse = errors.New("a container or a pull uses the layer")

// Remove removes a layer from the store that no container has. Its snapshots stay: who uses them again has it fetched again. It returns what
// the layer took on disk. Errors: ErrInUse, fs.ErrNotExist.
func (f *FS) Remove(ctx context.Context, d digest.Digest) (bytes int64, err error) {
	return f.remove(ctx, d, 0)
}

// Prune is Remove for a layer that is not meant by itself: one that was brought within half a minute, and that no container has had since, stays.
// That is one of a pull under way, or that waits for its container.
func (f *FS) Prune(ctx context.Context, d digest.Digest) (bytes int64, err error) {
	return f.remove(ctx, d, f.grace)
}

func (f *FS) remove(ctx context.Context, d digest.Digest, grace time.Duration) (bytes int64, err error) {
	m, err := f.settled(ctx, d)
	switch {
	case err != nil:
	case m != nil:
		bytes, err = f.removeIdle(m, func() bool { return !m.mending.Load() && !m.used.awaited(grace) })
	default:
		bytes, err = f.removeStored(d, grace)
	}
	if err != nil {
		return 0, fmt.Errorf("remove layer %s: %w", d, err)
	}
	return bytes, nil
}

// removeStored removes a layer that is not mounted.
func (f *FS) removeStored(d digest.Digest, grace time.Duration) (bytes int64, err error) {
	bytes, err = f.opts.Store.RemoveIdle(d, time.Now().Add(-grace))
	if errors.Is(err, cache.ErrInUse) { // opened ahead of its turn
		err = ErrInUse
	}
	if err == nil {
		f.rights.forget(d)
	}
	return bytes, err
}

// settled returns a layer that is mounted, nil if it is not, once what is under way with it is over.
func (f *FS) settled(ctx context.Context, d digest.Digest) (*mounted, error) {
	s, err := f.take(ctx, d)
	if s == nil || err != nil {
		return nil, err
	}
	defer f.leaving.Done()
	f.keep(s)
	return s.mounted, nil
}

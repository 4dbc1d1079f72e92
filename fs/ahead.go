package fs

import (
	"context"
	"errors"
	"sync"

	"github.com/containerd/log"
	"github.com/opencontainers/go-digest"

	"github.com/sluice-snapshotter/sluice/fs/layer"
)

// ahead are layers that are open before they are mounted, as long as what came with their TOC is on its way into the store: who
// mounts one goes on with it. The zero value has none.
type ahead struct {
	mu     sync.Mutex
	layers map[digest.Digest]*openLayer
}

// openLayer is a layer and where it is fetched from.
type openLayer struct {
	*layer.Layer
	places *sources
}

// put returns the one that l takes the place of, nil if there is none.
func (a *ahead) put(l *openLayer) (old *openLayer) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.layers == nil {
		a.layers = make(map[digest.Digest]*openLayer)
	}
	d := l.Store().Digest()
	old = a.layers[d]
	a.layers[d] = l
	return old
}

// take gives a layer to the caller, nil if there is none.
func (a *ahead) take(d digest.Digest) *openLayer {
	a.mu.Lock()
	defer a.mu.Unlock()
	l := a.layers[d]
	delete(a.layers, d)
	return l
}

// drop takes l away, and reports whether it was there.
func (a *ahead) drop(l *openLayer) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	d := l.Store().Digest()
	if a.layers[d] != l {
		return false
	}
	delete(a.layers, d)
	return true
}

// openMounted opens a layer to be mounted, or goes on with one that is open.
func (f *FS) openMounted(ctx context.Context, src Source) (*openLayer, error) {
	// Who brings it now may have it in the store, and not yet among those that are open.
	if err := f.share(ctx, src.Digest, func(context.Context) error { return nil }); err != nil {
		return nil, err
	}
	l := f.ahead.take(src.Digest)
	if l != nil && src.plain() { // it was opened for an image that has a TOC for it
		f.closeAhead(ctx, l)
		l = nil
	}
	if l == nil {
		return f.open(ctx, src)
	}
	_, err := src.with(l.Store().Info().TOCDigest, 0)
	if err == nil {
		err = f.addSource(l.places, src)
	}
	if err != nil {
		return nil, errors.Join(err, l.Close())
	}
	return l, nil
}

// keepAhead keeps l open until somebody mounts it, or what came along with its TOC is stored.
func (f *FS) keepAhead(ctx context.Context, l *openLayer) {
	if old := f.ahead.put(l); old != nil {
		f.closeAhead(ctx, old)
	}
	_, ok := f.tasks.start(ctx, func(ctx context.Context) {
		select {
		case <-l.ExtrasStored():
		case <-ctx.Done():
		}
		if f.ahead.drop(l) {
			f.closeAhead(ctx, l)
		}
	})
	if !ok && f.ahead.drop(l) {
		f.closeAhead(ctx, l)
	}
}

func (f *FS) closeAhead(ctx context.Context, l *openLayer) {
	if err := l.Close(); err != nil {
		log.G(ctx).WithError(err).Warn("close a layer that was opened ahead of its turn")
	}
}

package fs

import (
	"context"
	"sync"

	"github.com/containerd/log"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sync/errgroup"
)

const (
	// siblingsAtOnce is how many lazy layers of an image are opened at once ahead of their turn: as many as the scheduler lets ask by
	// default. Each is one small request, or two.
	siblingsAtOnce = 16
	// plainAtOnce is how many plain layers are taken at once ahead of their turn. Two keep two cores busy; with more, a small
	// one is not kept waiting by large ones.
	plainAtOnce = 4
)

// bringSiblings brings the other layers of an image into the store, in the background: the TOCs of lazy ones, plain ones as a
// whole, in the order in which containerd will ask for them. One that fails will say so when it is mounted itself.
func (f *FS) bringSiblings(ctx context.Context, m ocispec.Manifest, src Source) {
	if !f.images.begin(src.Manifest) {
		return // they are on their way
	}
	_, ok := f.tasks.start(ctx, func(ctx context.Context) {
		defer f.images.end(src.Manifest)
		lazy, whole := f.siblings(m, src)
		var opening, taking errgroup.Group
		opening.SetLimit(siblingsAtOnce)
		taking.SetLimit(plainAtOnce)
		opening.Go(func() error {
			for _, s := range whole {
				taking.Go(func() error { return tellAhead(ctx, s, f.ensure(ctx, s)) })
			}
			return taking.Wait()
		})
		for _, s := range lazy {
			opening.Go(func() error {
				_, err := f.bring(ctx, s)
				return tellAhead(ctx, s, err)
			})
		}
		_ = opening.Wait() // never an error
	})
	if !ok {
		f.images.end(src.Manifest)
	}
}

// underWay is a set of images, by the digests of their manifests. The zero value is empty.
type underWay struct {
	mu  sync.Mutex
	set map[digest.Digest]struct{}
}

// begin reports whether the image was not in the set, and adds it.
func (u *underWay) begin(manifest digest.Digest) bool {
	u.mu.Lock()
	defer u.mu.Unlock()
	if _, ok := u.set[manifest]; ok {
		return false
	}
	if u.set == nil {
		u.set = make(map[digest.Digest]struct{})
	}
	u.set[manifest] = struct{}{}
	return true
}

func (u *underWay) end(manifest digest.Digest) {
	u.mu.Lock()
	defer u.mu.Unlock()
	delete(u.set, manifest)
}

// siblings returns the other layers of src's image: the lazy ones, and those to be taken as a whole.
func (f *FS) siblings(m ocispec.Manifest, src Source) (lazy, whole []Source) {
	for _, desc := range m.Layers {
		if desc.Digest == src.Digest {
			continue
		}
		s, err := Source{Ref: src.Ref, Digest: desc.Digest}.told(desc, m, f.opts.SmallLayers)
		switch {
		case err != nil:
		case s.TOCDigest != "":
			s.Manifest = src.Manifest // by which an image of TOCs is found again
			lazy = append(lazy, s)
		case f.takes(desc) && src.provable():
			s.mediaType = desc.MediaType
			whole = append(whole, s)
		}
	}
	return lazy, whole
}

// tellAhead logs why a layer was not brought. That is no error of those who bring others.
func tellAhead(ctx context.Context, src Source, err error) error {
	if err != nil {
		log.G(ctx).WithError(err).WithField("layer", src.Digest).Debug("bring a layer ahead of its turn")
	}
	return nil
}

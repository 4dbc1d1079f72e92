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
	// siblingsAtOnce is how many lazy layers of an image are opened at once ahead of their turn. Each is one small request.
	siblingsAtOnce = 8
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
		var lazy, whole errgroup.Group
		lazy.SetLimit(siblingsAtOnce)
		whole.SetLimit(plainAtOnce)
		defer func() {
			_ = lazy.Wait() // never an error
			_ = whole.Wait()
		}()
		lazy.Go(func() error {
			for _, desc := range m.Layers {
				if sibling := src.sibling(desc); f.takes(desc) && sibling.TOCDigest == "" && src.provable() && desc.Digest != src.Digest {
					sibling.mediaType = desc.MediaType
					whole.Go(func() error {
						ahead(ctx, sibling, f.ensure(ctx, sibling))
						return nil
					})
				}
			}
			return nil
		})
		for _, desc := range m.Layers {
			if sibling := src.sibling(desc); sibling.TOCDigest != "" && desc.Digest != src.Digest {
				lazy.Go(func() error {
					_, err := f.bring(ctx, sibling)
					ahead(ctx, sibling, err)
					return nil
				})
			}
		}
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

// sibling is another layer of src's image.
func (src Source) sibling(desc ocispec.Descriptor) Source {
	return Source{Ref: src.Ref, Digest: desc.Digest, TOCDigest: tocDigest(desc.Annotations), Size: desc.Size}
}

func ahead(ctx context.Context, src Source, err error) {
	if err != nil {
		log.G(ctx).WithError(err).WithField("layer", src.Digest).Debug("bring a layer ahead of its turn")
	}
}

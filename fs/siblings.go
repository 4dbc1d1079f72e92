package fs

import (
	"context"

	"github.com/containerd/log"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sync/errgroup"
)

const (
	// siblingsAtOnce is how many lazy layers of an image are opened at once ahead of their turn. Each is one small request.
	siblingsAtOnce = 8
	// ordinaryAtOnce is how many ordinary layers are taken at once ahead of their turn. Two keep two cores busy; with more, a small
	// one is not kept waiting by large ones.
	ordinaryAtOnce = 4
)

// bringSiblings brings the other layers of an image into the store, in the background: the TOCs of lazy ones, ordinary ones as a
// whole, in the order in which containerd will ask for them. One that fails will say so when it is mounted itself.
func (f *FS) bringSiblings(ctx context.Context, m ocispec.Manifest, src Source) {
	f.tasks.start(ctx, func(ctx context.Context) {
		var lazy, ordinary errgroup.Group
		lazy.SetLimit(siblingsAtOnce)
		ordinary.SetLimit(ordinaryAtOnce)
		defer func() {
			_ = lazy.Wait() // never an error
			_ = ordinary.Wait()
		}()
		lazy.Go(func() error {
			for _, desc := range m.Layers {
				if sibling := src.sibling(desc); f.takes(desc) && sibling.TOCDigest == "" && src.provable() && desc.Digest != src.Digest {
					sibling.mediaType = desc.MediaType
					ordinary.Go(func() error {
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

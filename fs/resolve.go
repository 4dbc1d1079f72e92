package fs

import (
	"context"
	"errors"
	"fmt"
	iofs "io/fs"
	"slices"
	"time"

	"github.com/containerd/log"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/sluice-snapshotter/sluice/cache"
	"github.com/sluice-snapshotter/sluice/fs/layer"
	"github.com/sluice-snapshotter/sluice/fs/toc"
)

// bring makes the store have the layer: at once if it has it, else by its TOC from the registry. It returns src with
// what was learned. If that is a plain layer, it is for bringWhole to do that.
func (f *FS) bring(ctx context.Context, src Source) (Source, error) {
	var err error
	began := time.Now()
	resolved := src.TOCDigest == "" && src.DiffID == ""
	if resolved { // also if the store has it, which may be on the word of another image
		if src, err = f.resolve(ctx, src); err != nil {
			return src, err
		}
	}
	st, err := f.opts.Store.Get(src.Digest)
	if err == nil {
		info := st.Info()
		if err := st.Close(); err != nil {
			return src, err
		}
		if src, err = src.has(info); err != nil {
			return src, err
		}
		if err := f.entitle(ctx, src); err != nil {
			return src, err
		}
		return src, f.remembered(src)
	}
	if !errors.Is(err, iofs.ErrNotExist) {
		return src, err
	}
	if !resolved {
		if src, err = f.resolve(ctx, src); err != nil {
			return src, err
		}
	}
	if m, ok := f.manifests.find(src.Manifest); ok { // of an earlier pull, or the others are on their way already
		f.bringSiblings(ctx, m, src)
	}
	if src.plain() {
		return src, nil
	}
	if err := f.remembered(src); err != nil {
		return src, err
	}
	err = f.share(ctx, src.Digest, func(ctx context.Context) error {
		if found, err := f.stored(src.Digest); found || err != nil { // since the look above
			return err
		}
		err := f.create(ctx, src)
		if f.opts.Resolved != nil {
			f.opts.Resolved(time.Since(began))
		}
		if err != nil {
			f.rights.forget(src.Digest)
		}
		return err
	})
	if err != nil {
		return src, err
	}
	return src, f.entitle(ctx, src) // it may be another image that has brought it
}

// stored says whether the store has a layer.
func (f *FS) stored(d digest.Digest) (bool, error) {
	st, err := f.opts.Store.Get(d)
	switch {
	case err == nil:
		return true, st.Close()
	case errors.Is(err, iofs.ErrNotExist):
		return false, nil
	}
	return false, err
}

// create brings the layer into the store from the registry.
func (f *FS) create(ctx context.Context, src Source) error {
	if src.Size == 0 { // no manifest to tell
		blob, err := f.opts.Registry.Blob(src.Ref, src.Digest, 0)
		if err != nil {
			return err
		}
		if src.Size, err = blob.Size(ctx); err != nil {
			return err
		}
	}
	l, err := f.open(ctx, src)
	if err != nil {
		return err
	}
	f.keepAhead(ctx, l)
	return nil
}

// open opens the layer, without the network if the store has it.
func (f *FS) open(ctx context.Context, src Source) (*openLayer, error) {
	places := f.newSources(src.Digest)
	if err := f.addSource(places, src); err != nil {
		return nil, err
	}
	var blob layer.Blob = places
	if src.plain() {
		blob = lostBlob{}
	}
	l, err := layer.Open(ctx, layer.Options{
		Ref:            src.Ref,
		Digest:         src.Digest,
		Store:          f.opts.Store,
		Scheduler:      f.opts.Scheduler,
		Blob:           blob,
		BlobSize:       src.Size,
		TOCDigest:      src.TOCDigest,
		TOCPlace:       src.place,
		PrefetchListed: src.listed,
		PrefetchSize:   src.begins,
		Whole:          src.whole,
		External:       func(ctx context.Context) ([]byte, error) { return f.externalTOC(ctx, src) },
		Skeleton:       f.opts.ProveOf(src.Ref) || f.opts.Untrusted(src.Ref),
		Sparse:         !f.opts.BackgroundOf(src.Ref),
		Observer:       f.observer(ctx, src),
	})
	if err != nil {
		return nil, err
	}
	return &openLayer{l, places}, nil
}

func (f *FS) addSource(places *sources, src Source) error {
	repository, err := repositoryOf(src.Ref)
	if err != nil {
		return err
	}
	blob, err := f.opts.Registry.Blob(src.Ref, src.Digest, src.Size)
	if err != nil {
		return err
	}
	places.add(repository, blob)
	return nil
}

// observer is the one of the options, and logs what happens in the background, where no reader gets the error.
func (f *FS) observer(ctx context.Context, src Source) layer.Observer {
	o := f.opts.Observer
	tell, fetched, logger := o.Error, o.Fetched, log.G(ctx).WithFields(log.Fields{"image": src.Ref, "layer": src.Digest})
	var seen faults
	o.Error = func(err error) {
		if entry := seen.entry(logger, err); entry != nil {
			entry.Warn("background fetch failed, and will try again")
		}
		if tell != nil {
			tell(err)
		}
	}
	o.Fetched = func(r layer.Range) {
		if errors.Is(r.Err, cache.ErrNotStored) {
			if entry := seen.entry(logger, r.Err); entry != nil {
				entry.Debug("contents are not stored: readers get them, and whoever reads them again fetches them again")
			}
		}
		if fetched != nil {
			fetched(r)
		}
	}
	return o
}

// resolve fills in the TOC digest, or the media type, and the size of a layer from its image's manifest. Where that had to be fetched,
// all other layers of the image are brought too: containerd will ask for them, but one after the other.
func (f *FS) resolve(ctx context.Context, src Source) (Source, error) {
	if src.Manifest != "" {
		m, fetched, err := f.manifests.get(ctx, f.opts.Registry, src)
		if err != nil {
			return src, err
		}
		if src, err = f.from(src, m); err != nil {
			return src, err
		}
		if fetched {
			f.bringSiblings(ctx, m, src)
		}
	}
	if src.TOCDigest == "" && !src.plain() {
		return src, ErrNotLazy
	}
	return src, nil
}

// from adds to src what its manifest says of it.
func (f *FS) from(src Source, m ocispec.Manifest) (Source, error) {
	for _, desc := range m.Layers {
		if desc.Digest == src.Digest {
			if f.takes(desc) && src.provable() {
				src.mediaType = desc.MediaType
			}
			return src.told(desc, m, f.opts.SmallLayers)
		}
	}
	return src, fmt.Errorf("manifest %s has no such layer", src.Manifest)
}

// told adds to src what its descriptor in m says. small is Options.SmallLayers.
func (src Source) told(desc ocispec.Descriptor, m ocispec.Manifest, small int64) (Source, error) {
	d, place := toc.Annotated(desc.Annotations)
	src.listed = desc.Annotations[toc.PrefetchAnnotation]
	src.begins = toc.PrefetchSize(desc.Annotations)
	src.place, src.whole = place, desc.Size <= wholeSize(m.Layers, small)
	return src.with(d, desc.Size)
}

// wholeSize is up to what size layers of an image are fetched whole: the smallest ones, up to limit bytes together. One that is larger than
// a tail never is: it would take longer than the request that it saves.
func wholeSize(layers []ocispec.Descriptor, limit int64) (size int64) {
	sizes := make([]int64, 0, len(layers))
	for _, desc := range layers {
		sizes = append(sizes, desc.Size)
	}
	slices.Sort(sizes)
	sum := int64(0)
	for _, n := range sizes {
		if sum += n; n > toc.TailSize || sum > limit {
			return min(size, n-1) // all layers of a size, or none
		}
		size = n
	}
	return size
}

// with adds a TOC digest and a size, where they are known. Another TOC digest than that of a label is an error: only one
// of them can be that of the blob.
func (src Source) with(d digest.Digest, size int64) (Source, error) {
	if src.TOCDigest != "" && d != "" && src.TOCDigest != d {
		return src, fmt.Errorf("the label says TOC %s, but it is %s", src.TOCDigest, d)
	}
	if d != "" {
		src.TOCDigest = d
	}
	if size > 0 {
		src.Size = size
	}
	return src, nil
}

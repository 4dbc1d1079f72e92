package fs

import (
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/containerd/log"
	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/identity"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/sluice-snapshotter/sluice/cache"
	"github.com/sluice-snapshotter/sluice/fs/layer"
	"github.com/sluice-snapshotter/sluice/fs/plain"
	"github.com/sluice-snapshotter/sluice/fs/toc"
)

// errUnproven says that the store has a layer that came by its TOC, and not as the plain layer that is asked for: nobody has
// computed its diffID.
var errUnproven = errors.New("the node has this layer for an image that names its TOC, which does not tell its diffID")

// errLost is what readers get of a plain layer that is not all there.
var errLost = errors.New("the disk has lost contents of this layer, which has no TOC: it is fetched again as a whole")

// takes says whether a layer is one to be taken as a whole.
func (f *FS) takes(desc ocispec.Descriptor) bool {
	d, _ := toc.Annotated(desc.Annotations)
	return !f.opts.NoPlain && d == "" && plain.Takes(desc)
}

// plain says whether src is known to be a plain layer.
func (src Source) plain() bool {
	return src.TOCDigest == "" && (src.mediaType != "" || src.DiffID != "")
}

// provable says whether src can tell what diffID its layer must have.
func (src Source) provable() bool { return src.DiffID != "" || src.Chain != "" }

// prove checks that a layer with the given diffID is the one that src means. Snapshots are shared between images by their chain IDs,
// so that a layer under a wrong one would be in other images too.
func (src Source) prove(diffID digest.Digest) error {
	want, got := src.DiffID, diffID
	if want == "" {
		want = src.Chain
		if src.Below != "" {
			got = identity.ChainID([]digest.Digest{src.Below, diffID})
		}
	}
	switch {
	case diffID == "":
		return errUnproven
	case want == "":
		return ErrNotLazy
	case diffID == layer.NoDiffID:
		return fmt.Errorf("the layer has no diffID, as its TOC is not that of its tar, and should be %s, as the image has it", want)
	case got != want:
		return fmt.Errorf("the layer's diffID is %s, which makes it %s, and not %s, as the image has it", diffID, got, want)
	}
	return nil
}

// has returns src with what the store knows of its layer, in the form in which the store has it.
func (src Source) has(info cache.Info) (Source, error) {
	if info.TOCDigest != "" {
		if src.plain() {
			if err := src.awaits(info.DiffIDs()); err != nil {
				return src, err
			}
		}
		if err := src.proven(info.DiffIDs()); err != nil {
			return src, err
		}
		return src.with(info.TOCDigest, info.BlobSize)
	}
	if err := src.fits(info.DiffID); err != nil {
		return src, err
	}
	src.TOCDigest, src.DiffID, src.Size = "", info.DiffID, info.BlobSize
	return src, nil
}

// bringWhole makes the store have a plain layer, and checks that it is the one that src means.
func (f *FS) bringWhole(ctx context.Context, src Source) (Source, error) {
	t := f.takings.join(src.Digest)
	defer f.takings.leave(src.Digest)
	t.want()
	if err := f.ensure(ctx, src); err != nil {
		return src, err
	}
	if err := f.entitle(ctx, src); err != nil { // it may be another image that has brought it
		return src, err
	}
	st, err := f.opts.Store.Get(src.Digest)
	if err != nil {
		return src, err
	}
	info := st.Info()
	if err := st.Close(); err != nil {
		return src, err
	}
	return src.has(info)
}

// ensure makes the store have a plain layer, whatever its diffID.
func (f *FS) ensure(ctx context.Context, src Source) error {
	return f.share(ctx, src.Digest, func(ctx context.Context) error {
		if found, err := f.stored(src.Digest); found || err != nil {
			return err
		}
		if err := f.refused.find(src.Digest); err != nil {
			return err
		}
		places := f.newSources(src.Digest)
		if err := f.addSource(places, src); err != nil {
			return err
		}
		t := f.takings.join(src.Digest)
		defer f.takings.leave(src.Digest)
		err := f.fetchWhole(ctx, src, places, t.wanted)
		if _, ok := errors.AsType[*plain.RefusedError](err); ok {
			f.refused.keep(src.Digest, err)
		}
		if err != nil {
			f.rights.forget(src.Digest)
		}
		return err
	})
}

// fetchWhole takes a plain layer from the registry. If the store has it and lacks some of it, that is mended.
func (f *FS) fetchWhole(ctx context.Context, src Source, from *sources, wanted <-chan struct{}) error {
	began := time.Now()
	err := plain.Take(ctx, plain.Options{
		Ref:       src.Ref,
		Digest:    src.Digest,
		Size:      src.Size,
		MediaType: src.mediaType,
		Store:     f.opts.Store,
		Scheduler: f.opts.Scheduler,
		Blob:      from,
		Observer:  f.opts.Observer,
		Awaited:   wanted,
	})
	if err == nil {
		log.G(ctx).WithFields(log.Fields{"image": src.Ref, "layer": src.Digest}).WithField("took", time.Since(began)).Debug("took plain layer")
	}
	return err
}

// mend looks whether the disk still has all of a plain layer, and if not, fetches it again.
func (f *FS) mend(ctx context.Context, m *mounted) error {
	st := m.shown.layer.Store()
	if err := m.shown.layer.Look(ctx); err != nil || st.Complete() {
		return err
	}
	m.shown.logger.Warn(errLost.Error())
	src := m.src
	if src.mediaType == "" { // it was mounted from what the store had
		resolving, cancel := context.WithTimeoutCause(ctx, f.patience, errSlow)
		defer cancel()
		var err error
		if src, err = f.resolve(resolving, src); err != nil {
			return err
		}
	}
	t := f.takings.join(src.Digest)
	defer f.takings.leave(src.Digest)
	t.want() // readers get errors
	_, err, _ := f.opening.Do(src.Digest.String(), func() (any, error) { return nil, f.fetchWhole(ctx, src, m.places, t.wanted) })
	if err == nil && !st.Complete() { // it was somebody else's look for the layer
		err = errLost
	}
	return err
}

// Implied returns the directories that a mounted plain layer has files in and does not describe: see cache.Info.
func (f *FS) Implied(d digest.Digest) []string {
	m, err := f.lookup(d)
	if err != nil {
		return nil
	}
	return m.shown.layer.Store().Info().Implied
}

// lostBlob stands where a layer's blob is, for a plain layer: there is nothing to be fetched piece by piece.
type lostBlob struct{}

func (lostBlob) ReadRange(context.Context, int64, int64) (io.ReadCloser, error) { return nil, errLost }
func (lostBlob) Host() string                                                   { return "" }
func (lostBlob) Distrust(string)                                                {}
func (lostBlob) Link() layer.Link                                               { return layer.Link{} }

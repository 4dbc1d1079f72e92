package endpoint

import (
	"context"
	"fmt"
	"io"

	"github.com/containerd/containerd/v2/core/content"
	"github.com/containerd/containerd/v2/core/images"
	"github.com/containerd/containerd/v2/core/remotes"
	"github.com/containerd/errdefs"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// Containerd is containerd's stores, in the namespace that each call's context carries. While a Target is in use
// the context must also carry a lease, or containerd collects what is not tagged yet.
type Containerd struct {
	Content content.Store
	Images  images.Store
}

// Source reads the image that containerd calls ref.
func (c Containerd) Source(ref string) Source {
	return &containerdSource{c, Spec{KindContainerd, "", ref}}
}

// Target names a new image ref in containerd, without unpacking it.
func (c Containerd) Target(ref string) Target {
	return &containerdTarget{c, Spec{KindContainerd, "", ref}}
}

type containerdSource struct {
	Containerd
	spec Spec
}

func (s *containerdSource) String() string { return s.spec.String() }
func (s *containerdSource) Close() error   { return nil }

func (s *containerdSource) Resolve(ctx context.Context) (ocispec.Descriptor, error) {
	img, err := s.Images.Get(ctx, s.spec.Name)
	if err != nil {
		return ocispec.Descriptor{}, err
	}
	return img.Target, nil
}

func (s *containerdSource) Fetch(ctx context.Context, desc ocispec.Descriptor) (io.ReadCloser, error) {
	ra, err := s.open(ctx, desc)
	if err != nil {
		return nil, err
	}
	return struct {
		io.Reader
		io.Closer
	}{io.NewSectionReader(ra, 0, ra.Size()), ra}, nil
}

func (s *containerdSource) ReaderAt(ctx context.Context, desc ocispec.Descriptor) (ReaderAt, error) {
	return s.open(ctx, desc)
}

func (s *containerdSource) open(ctx context.Context, desc ocispec.Descriptor) (content.ReaderAt, error) {
	ra, err := s.Content.ReaderAt(ctx, desc)
	if errdefs.IsNotFound(err) {
		return nil, fmt.Errorf("blob %s is not in containerd's content store, as with images that were pulled lazily or for another platform (`ctr content fetch` brings it): %w", desc.Digest, err)
	}
	return ra, err
}

type containerdTarget struct {
	Containerd
	spec Spec
}

func (t *containerdTarget) String() string { return t.spec.String() }
func (t *containerdTarget) Close() error   { return nil } // the lease's end collects what is not tagged

func (t *containerdTarget) Push(ctx context.Context, desc ocispec.Descriptor, open Opener) error {
	w, err := content.OpenWriter(ctx, t.Content, content.WithRef(remotes.MakeRefKey(ctx, desc)), content.WithDescriptor(desc))
	if err == nil {
		defer w.Close()
		err = t.copy(ctx, w, desc, open)
	}
	if err != nil && !errdefs.IsAlreadyExists(err) {
		return fmt.Errorf("write blob %s: %w", desc.Digest, err)
	}
	if !images.IsManifestType(desc.MediaType) && !images.IsIndexType(desc.MediaType) {
		return nil
	}
	// The references that keep a manifest's children from being collected are labels on it.
	label := images.SetChildrenMappedLabels(t.Content, images.ChildrenHandler(t.Content), images.ChildGCLabels)
	if _, err := label(ctx, desc); err != nil {
		return fmt.Errorf("label %s: %w", desc.Digest, err)
	}
	return nil
}

func (t *containerdTarget) copy(ctx context.Context, w content.Writer, desc ocispec.Descriptor, open Opener) error {
	r, err := open()
	if err != nil {
		return err
	}
	defer r.Close()
	// An earlier run may have left the beginning of this blob under the same reference: Copy goes on from there.
	return content.Copy(ctx, w, Verify(ctx, r, desc), desc.Size, desc.Digest)
}

func (t *containerdTarget) Tag(ctx context.Context, root ocispec.Descriptor, raw []byte) error {
	if err := t.Push(ctx, root, Bytes(raw)); err != nil {
		return err
	}
	img := images.Image{Name: t.spec.Name, Target: root}
	_, err := t.Images.Update(ctx, img, "target")
	if errdefs.IsNotFound(err) {
		_, err = t.Images.Create(ctx, img)
	}
	if err != nil {
		return fmt.Errorf("name image %s: %w", t.spec.Name, err)
	}
	return nil
}

package fs

import (
	"cmp"
	"context"
	"fmt"
	"io"
	"strings"

	"github.com/containerd/containerd/v2/pkg/reference"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/sluice-snapshotter/sluice/fs/toc"
)

// externalTOC fetches the TOC of a layer from the image of TOCs beside its own. What that image says is believed in nothing: the TOC
// is compared with its digest.
func (f *FS) externalTOC(ctx context.Context, src Source) ([]byte, error) {
	ref, err := externalRef(src.Ref)
	if err != nil {
		return nil, err
	}
	m, err := f.externalImage(ctx, src, ref)
	if err != nil {
		return nil, err
	}
	for _, desc := range m.Layers {
		if desc.Annotations[toc.LayerAnnotation] == src.Digest.String() {
			return f.readBlob(ctx, ref, desc)
		}
	}
	return nil, fmt.Errorf("image %s has no TOC of layer %s", ref, src.Digest)
}

// externalRef names the image that has the TOCs of image ref, by its tag.
func externalRef(ref string) (string, error) {
	spec, err := reference.Parse(ref)
	if err != nil {
		return "", err
	}
	tag, _, _ := strings.Cut(spec.Object, "@")
	if tag == "" {
		return "", fmt.Errorf("external TOC: %s has no tag, by which its image of TOCs is found", ref)
	}
	return spec.Locator + ":" + tag + toc.ExternalSuffix, nil
}

// externalImage returns the manifest of the image that has the TOCs of src's. It is resolved once for all layers.
func (f *FS) externalImage(ctx context.Context, src Source, ref string) (ocispec.Manifest, error) {
	key := cmp.Or(src.Manifest, digest.FromString(ref))
	if m, ok := f.external.find(key); ok {
		return m, nil
	}
	v, err, _ := f.external.flights.Do(key.String(), func() (any, error) {
		if m, ok := f.external.find(key); ok {
			return m, nil
		}
		d, err := f.opts.Registry.Resolve(ctx, ref)
		if err != nil {
			return nil, err
		}
		m, err := f.opts.Registry.Manifest(ctx, ref, d)
		if err == nil {
			f.external.keep(keptManifest{key, m})
		}
		return m, err
	})
	if err != nil {
		return ocispec.Manifest{}, err
	}
	return v.(ocispec.Manifest), nil
}

// readBlob reads a blob that is a TOC.
func (f *FS) readBlob(ctx context.Context, ref string, desc ocispec.Descriptor) ([]byte, error) {
	if desc.Size <= 0 || desc.Size > toc.MaxCompressedTOCSize {
		return nil, fmt.Errorf("TOC %s of %s has %d bytes, at most %d are read", desc.Digest, ref, desc.Size, toc.MaxCompressedTOCSize)
	}
	blob, err := f.opts.Registry.Blob(ref, desc.Digest, desc.Size)
	if err != nil {
		return nil, err
	}
	body, err := blob.ReadRange(ctx, 0, desc.Size)
	if err != nil {
		return nil, err
	}
	defer body.Close()
	return io.ReadAll(body)
}

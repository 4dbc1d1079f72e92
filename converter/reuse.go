package converter

import (
	"context"
	"fmt"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/sluice-snapshotter/sluice/fs/toc"
)

// TOCDigest is the digest of a layer's TOC as its descriptor is annotated, "" for a layer that is not lazy.
func TOCDigest(desc ocispec.Descriptor) digest.Digest {
	d, _ := toc.Annotated(desc.Annotations)
	return d
}

// reuse keeps a layer whose TOC is what its annotation says. One whose is not gets converted: its contents are
// still held to the layer's own digest then.
func (c *conversion) reuse(ctx context.Context, l *layer) (bool, error) {
	want := TOCDigest(l.source)
	if want == "" {
		return false, nil
	}
	r, err := c.src.ReaderAt(ctx, l.source)
	if err != nil {
		return false, fmt.Errorf("open: %w", err)
	}
	defer r.Close()
	t, err := toc.Read(r, l.source.Size, want)
	if err != nil {
		return false, context.Cause(ctx)
	}
	layout, err := t.Layout()
	if err != nil {
		return false, nil //nolint:nilerr // a TOC that nobody could mount: build another
	}
	l.keep(Reused, string(t.Format))
	l.report.TOC, l.report.Files = t.Digest, layout.Files
	l.report.PrefetchBytes = toc.ParseListed(l.source.Annotations[toc.PrefetchAnnotation], layout.PrefetchChunks).Bytes(layout)
	return true, c.copyBlob(ctx, l)
}

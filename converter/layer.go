package converter

import (
	"cmp"
	"context"
	"crypto/sha256"
	"fmt"
	"io"
	"maps"
	"os"
	"slices"
	"strconv"
	"time"

	"github.com/containerd/stargz-snapshotter/estargz"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/sluice-snapshotter/sluice/converter/endpoint"
	"github.com/sluice-snapshotter/sluice/converter/image"
	"github.com/sluice-snapshotter/sluice/converter/pack"
	"github.com/sluice-snapshotter/sluice/fs/toc"
)

const maxChunkSize = toc.MaxChunkSize

// layerKey tells layers apart: the same blob under two media types gives two descriptors.
type layerKey struct {
	digest    digest.Digest
	mediaType string
}

func keyOf(desc ocispec.Descriptor) layerKey { return layerKey{desc.Digest, desc.MediaType} }

// layer is one layer on its way. What stands below the blank line is the outcome.
type layer struct {
	source       ocispec.Descriptor
	sourceDiffID digest.Digest
	kind         image.LayerKind

	target      ocispec.Descriptor // without the source's annotations
	annotations map[string]string  // to be set on every reference to the target; nil for one that was kept
	diffID      digest.Digest
	hits        []bool            // lines of the prefetch list that named something here
	first       []string          // files that come first
	parts       map[string][]span // what is wanted of those of which that is not all
	skipped     []string          // of first, those that could not be
	report      LayerReport
}

func (l *layer) key() layerKey { return keyOf(l.source) }

// keep makes the source's blob the outcome.
func (l *layer) keep(action Action, format string) {
	l.target, l.diffID = l.source, l.sourceDiffID
	l.report = LayerReport{
		Action: action, Format: format,
		Source: l.source.Digest, SourceSize: l.source.Size, Target: l.source.Digest, Size: l.source.Size,
	}
}

func (c *conversion) convertLayer(ctx context.Context, l *layer) error {
	start := time.Now()
	err := c.convertByKind(ctx, l)
	if err != nil {
		return err
	}
	l.report.Seconds = time.Since(start).Seconds()
	c.progress(l, Finished, l.target.Size, l.target.Size)
	return nil
}

func (c *conversion) convertByKind(ctx context.Context, l *layer) error {
	if l.kind == image.ForeignLayer {
		l.keep(Foreign, "foreign")
		if len(l.source.URLs) > 0 {
			return nil
		}
		return c.copyBlob(ctx, l)
	}
	if c.opts.Reuse {
		if reused, err := c.reuse(ctx, l); reused || err != nil {
			return err
		}
	}
	return c.rebuild(ctx, l)
}

func (c *conversion) copyBlob(ctx context.Context, l *layer) error {
	c.progress(l, Pushing, 0, 0)
	return c.push(ctx, l.source, func() (io.ReadCloser, error) { return c.src.Fetch(ctx, l.source) })
}

// rebuild is the ordinary case: fetch, compress anew, push.
func (c *conversion) rebuild(ctx context.Context, l *layer) error {
	sp, err := c.spool(ctx, l)
	if err != nil {
		return err
	}
	defer sp.file.Close()
	blob, err := c.build(ctx, l, sp)
	if err != nil {
		return err
	}
	defer blob.Close()
	if err := l.describe(blob); err != nil {
		return fmt.Errorf("check what was built: %w", err)
	}
	c.progress(l, Pushing, 0, 0)
	return c.push(ctx, l.target, func() (io.ReadCloser, error) {
		return struct {
			io.ReadSeeker
			io.Closer
		}{io.NewSectionReader(blob, 0, l.target.Size), io.NopCloser(nil)}, nil
	})
}

func (c *conversion) push(ctx context.Context, desc ocispec.Descriptor, open endpoint.Opener) error {
	if err := c.dst.Push(ctx, desc, open); err != nil {
		return fmt.Errorf("target %s: %w", c.dst, err)
	}
	return nil
}

// build makes the lazy blob of a spooled tar, in a temporary file, and sets the layer's target and diffID.
func (c *conversion) build(ctx context.Context, l *layer, sp *spooled) (*os.File, error) {
	c.progress(l, Compressing, 0, 0)
	l.pick(c.opts.Prefetch, sp.tar)
	out, err := tempFile()
	if err != nil {
		return nil, err
	}
	compressor, annotations := c.opts.compressor()
	hash := sha256.New()
	count := &counter{c: c, l: l, stage: Compressing}
	packed, err := sp.tar.Pack(ctx, sp.file, io.MultiWriter(out, hash, count), pack.Options{
		First: l.first, Edges: l.edges(), Compressor: compressor, Memory: c.memory,
		ChunkSize: cmp.Or(int64(c.opts.ChunkSize), chunkSize(sp.tar.Content())), MinChunkSize: int64(c.opts.MinChunkSize),
	})
	if err != nil {
		out.Close()
		return nil, fmt.Errorf("build %s: %w", c.opts.format(), err)
	}
	l.diffID, l.skipped = packed.DiffID, packed.Skipped
	l.target = ocispec.Descriptor{
		MediaType: c.layerType(l.source.MediaType),
		Digest:    digest.NewDigest(digest.SHA256, hash),
		Size:      count.bytes,
	}
	l.annotations = map[string]string{
		estargz.TOCJSONDigestAnnotation:         packed.TOCDigest.String(),
		estargz.StoreUncompressedSizeAnnotation: fmt.Sprint(packed.UncompressedSize),
	}
	maps.Copy(l.annotations, annotations)
	return out, nil
}

// layerType is the media type of a layer of mediaType after it has been converted.
func (c *conversion) layerType(mediaType string) string {
	if c.opts.format() == toc.ZstdChunked {
		return ocispec.MediaTypeImageLayerZstd
	}
	return image.GzipLayerType(mediaType)
}

// describe reads the new blob as the snapshotter will, with the digest that it prefers of the two that zstd:chunked has:
// what it would refuse must not leave this package.
func (l *layer) describe(blob io.ReaderAt) error {
	t, err := toc.Read(blob, l.target.Size, digest.Digest(l.annotations[estargz.TOCJSONDigestAnnotation]))
	if err != nil {
		return err
	}
	layout, err := t.Layout()
	if err != nil {
		return err
	}
	if t.Format == toc.EStargz {
		place := toc.Place{Format: t.Format, Offset: t.PayloadSize, Size: t.BlobSize - estargz.FooterSize - t.PayloadSize}
		l.annotations[toc.EStargzPositionAnnotation] = place.String()
	}
	l.report = LayerReport{
		Action: Converted, Format: string(t.Format), TOC: t.Digest,
		Source: l.source.Digest, SourceSize: l.source.Size, Target: l.target.Digest, Size: l.target.Size,
		Files: layout.Files,
	}
	listed := l.listed(layout)
	if slices.Contains(listed, false) {
		l.annotations[toc.PrefetchAnnotation] = listed.String()
	}
	if end, bytes := listed.Extent(layout); bytes > 0 && bytes >= end/2 {
		l.annotations[toc.PrefetchSizeAnnotation] = strconv.FormatInt(end, 10)
	}
	l.report.PrefetchBytes = listed.Bytes(layout)
	return nil
}

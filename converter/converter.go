// Package converter rewrites ordinary container images into lazily pullable ones: every layer becomes eStargz or
// zstd:chunked, and configurations, manifests and indexes are changed just as much as that needs.
//
// What Convert guarantees: the unpacked tree of a converted layer is the source's; the same source and options give
// the same digests, on any number of cores; whatever is not converted passes through byte by byte; and the target's
// name moves last, when everything is there, or not at all.
//
// Words: a *layer* is a blob that holds a file system change as a tar; its *diffID* is the digest of that tar,
// uncompressed; the *prefetch list* names the files that should come first.
//
// Convert may be called by several goroutines at once, with targets of their own. Temporary files go to the system's
// folder for them (os.TempDir) and take at most the uncompressed size of the layers that are in work plus their
// new compressed size; they are gone when Convert returns.
package converter

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"slices"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/sluice-snapshotter/sluice/converter/endpoint"
	"github.com/sluice-snapshotter/sluice/converter/image"
	"github.com/sluice-snapshotter/sluice/converter/pack"
	"github.com/sluice-snapshotter/sluice/converter/prefetch"
	"github.com/sluice-snapshotter/sluice/fs/toc"
)

// Options say how to convert. The zero value converts the host's platform to eStargz with the format's defaults.
type Options struct {
	Selection image.Selection
	// Format is what layers become; "" means toc.EStargz.
	Format toc.Format
	// OCI turns Docker's media types into OCI's. Without it each image keeps its own, except with toc.ZstdChunked: Docker's
	// manifests have no type for zstd, so those images become OCI's always.
	OCI bool
	// Reuse keeps layers that are lazy already, in whichever format, and whose TOC is the annotated one.
	Reuse bool
	// Prefetch lists the files that come first in their layers, and which of their bytes are wanted.
	Prefetch prefetch.List
	// FailOnMissing makes a line of the prefetch list that names nothing in an image an error.
	FailOnMissing bool

	// CompressionLevel is gzip's, 0 (stored) to 9, or, with toc.ZstdChunked, zstd's, 1 to 22, of which the encoder tells four
	// apart (1, 3, 6, 10). nil means 9 and 3, as with stargz-snapshotter.
	CompressionLevel *int
	// ChunkSize is the most uncompressed bytes of a file in one chunk; 0 means 256 KiB, and up to 4 MiB in layers that
	// would have many.
	ChunkSize int
	// MinChunkSize is the least bytes in one gzip stream, so that small files share one; 0 gives each its own. Only
	// toc.EStargz has it: other readers of zstd:chunked expect one chunk in a frame.
	MinChunkSize int

	// Parallel is how many layers are converted at once; 0 means one per core, at most 4.
	Parallel int
	// Progress, if not nil, is called as layers advance, by several goroutines at once. It must not block.
	Progress func(Progress)
}

func (o Options) parallel() int {
	if o.Parallel > 0 {
		return o.Parallel
	}
	return min(runtime.GOMAXPROCS(0), 4)
}

func (o Options) format() toc.Format {
	if o.Format == "" {
		return toc.EStargz
	}
	return o.Format
}

// Validate says what is wrong with the options, if anything.
func (o Options) Validate() error {
	level, ok := levelsOf[o.format()]
	switch {
	case !ok:
		return fmt.Errorf("format %q: not one that can be written", o.Format)
	case o.CompressionLevel != nil && (*o.CompressionLevel < level.least || *o.CompressionLevel > level.most):
		return fmt.Errorf("compression level %d: not from %d to %d", *o.CompressionLevel, level.least, level.most)
	case o.ChunkSize < 0 || o.ChunkSize > maxChunkSize:
		return fmt.Errorf("chunk size %d: not from 0 to %d", o.ChunkSize, maxChunkSize)
	case o.MinChunkSize < 0 || o.MinChunkSize > maxChunkSize:
		return fmt.Errorf("minimal chunk size %d: not from 0 to %d", o.MinChunkSize, maxChunkSize)
	case o.MinChunkSize > 0 && o.format() != toc.EStargz:
		return fmt.Errorf("minimal chunk size %d: %s has none", o.MinChunkSize, o.format())
	}
	return nil
}

// ErrMissing is wrapped by the error for prefetch paths that are in no layer, with FailOnMissing.
var ErrMissing = errors.New("not in the image")

// Convert reads the image at src and gives a converted one the target's name. Errors wrap image.ErrUnsuitable when
// the image cannot be converted by its nature. src and dst stay open; they must not be the same image, unless it is
// meant to be replaced.
func Convert(ctx context.Context, src endpoint.Source, dst endpoint.Target, o Options) (*Report, error) {
	if err := o.Validate(); err != nil {
		return nil, err
	}
	start := time.Now()
	root, err := image.Load(ctx, src, o.Selection)
	if err != nil {
		return nil, fmt.Errorf("source %s: %w", src, err)
	}
	c := &conversion{src: src, dst: dst, opts: o, memory: pack.NewMemory()}
	if err := c.convertLayers(ctx, root); err != nil {
		return nil, err
	}
	report := &Report{Source: src.String(), Target: dst.String(), SourceDigest: root.Desc.Digest}
	for _, n := range root.Images() {
		if err := c.report(report, n.Manifest); err != nil {
			return nil, fmt.Errorf("source %s: %w", src, err)
		}
	}
	desc, raw, err := c.assemble(ctx, root)
	if err != nil {
		return nil, err
	}
	if err := dst.Tag(ctx, desc, raw); err != nil {
		return nil, fmt.Errorf("target %s: %w", dst, err)
	}
	report.Digest, report.MediaType = desc.Digest, desc.MediaType
	report.Seconds = time.Since(start).Seconds()
	return report, nil
}

// conversion is one call of Convert. done is written by convertLayers and only read afterwards.
type conversion struct {
	src    endpoint.Source
	dst    endpoint.Target
	opts   Options
	memory *pack.Memory
	done   map[layerKey]*layer
}

// convertLayers converts every layer of every selected image, each once, and pushes the results.
func (c *conversion) convertLayers(ctx context.Context, root *image.Node) error {
	c.done = make(map[layerKey]*layer)
	var order []*layer
	for _, n := range root.Images() {
		for i, desc := range n.Manifest.Layers {
			kind, err := image.ClassifyLayer(desc)
			if err != nil {
				return fmt.Errorf("source %s: manifest %s: %w", c.src, n.Desc.Digest, err)
			}
			l := &layer{source: desc, sourceDiffID: n.Manifest.Config.RootFS.DiffIDs[i], kind: kind}
			switch same := c.done[l.key()]; {
			case same == nil:
				c.done[l.key()] = l
				order = append(order, l)
			case same.sourceDiffID != l.sourceDiffID:
				return fmt.Errorf("source %s: layer %s: its diffID is %s in one place and %s in another",
					c.src, desc.Digest, same.sourceDiffID, l.sourceDiffID)
			}
		}
	}
	// Large layers first: the last one to finish is then a small one.
	slices.SortStableFunc(order, func(a, b *layer) int { return int(min(max(b.source.Size-a.source.Size, -1), 1)) })
	eg, ctx := errgroup.WithContext(ctx)
	eg.SetLimit(c.opts.parallel())
	for _, l := range order {
		eg.Go(func() error {
			if err := c.convertLayer(ctx, l); err != nil {
				return fmt.Errorf("layer %s of %s: %w", l.source.Digest, c.src, err)
			}
			return nil
		})
	}
	return eg.Wait()
}

// Package inspect says what a lazy image claims about itself, and whether it is true.
//
// Inspect reads manifests and TOCs: a request or two for each layer. Verify reads everything. Both may be called by
// several goroutines at once.
package inspect

import (
	"context"
	"fmt"

	"github.com/containerd/stargz-snapshotter/estargz"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/sluice-snapshotter/sluice/converter"
	"github.com/sluice-snapshotter/sluice/converter/endpoint"
	"github.com/sluice-snapshotter/sluice/converter/image"
	"github.com/sluice-snapshotter/sluice/fs/toc"
)

// Image is what Inspect found.
type Image struct {
	Ref    string        `json:"ref"`
	Digest digest.Digest `json:"digest"`
	Layers []Layer       `json:"layers"` // of all selected platforms, one after the other, lowest first
}

// Layer is one layer of one platform's image.
type Layer struct {
	Platform  string        `json:"platform"`
	Manifest  digest.Digest `json:"manifest"`
	Digest    digest.Digest `json:"digest"`
	MediaType string        `json:"media_type"`
	Size      int64         `json:"size"` // bytes of the blob
	// Format is the lazy format, or else the compression: "estargz", "zstd:chunked", "gzip", "zstd", "tar"; "foreign"
	// for a layer that is not distributed.
	Format string        `json:"format"`
	TOC    digest.Digest `json:"toc,omitempty"`
	// What follows is known of lazy layers only.
	Files         int   `json:"files,omitempty"`  // regular files
	Chunks        int   `json:"chunks,omitempty"` // pieces of files that can be fetched and verified on their own
	DataSize      int64 `json:"data_size,omitempty"`
	PrefetchFiles int   `json:"prefetch_files,omitempty"`
	PrefetchBytes int64 `json:"prefetch_bytes,omitempty"` // uncompressed
}

// Lazy tells whether the layer can be pulled lazily.
func (l Layer) Lazy() bool { return l.TOC != "" }

// Inspect describes the selected images that src resolves to. A TOC that is not the annotated one is an error.
func Inspect(ctx context.Context, src endpoint.Source, sel image.Selection) (*Image, error) {
	root, err := image.Load(ctx, src, sel)
	if err != nil {
		return nil, fmt.Errorf("image %s: %w", src, err)
	}
	img := &Image{Ref: src.String(), Digest: root.Desc.Digest}
	for _, n := range root.Images() {
		for _, desc := range n.Manifest.Layers {
			l, err := describe(ctx, src, desc)
			if err != nil {
				return nil, fmt.Errorf("image %s: layer %s: %w", src, desc.Digest, err)
			}
			l.Platform, l.Manifest = n.Manifest.Platform(), n.Desc.Digest
			img.Layers = append(img.Layers, l)
		}
	}
	return img, nil
}

// outline is what the descriptor alone says.
func outline(desc ocispec.Descriptor) (Layer, error) {
	l := Layer{Digest: desc.Digest, MediaType: desc.MediaType, Size: desc.Size}
	kind, err := image.ClassifyLayer(desc)
	switch {
	case err != nil:
		return l, err
	case kind == image.ForeignLayer:
		l.Format = "foreign"
		return l, nil
	}
	if l.Format = image.Compression(desc.MediaType); l.Format == "" {
		l.Format = "tar"
	}
	l.TOC = converter.TOCDigest(desc)
	return l, nil
}

func describe(ctx context.Context, src endpoint.Source, desc ocispec.Descriptor) (Layer, error) {
	l, err := outline(desc)
	if err != nil || !l.Lazy() {
		return l, err
	}
	_, err = l.readTOC(ctx, src, desc)
	return l, err
}

// readTOC reads the layer's TOC and fills in what it says.
func (l *Layer) readTOC(ctx context.Context, src endpoint.Source, desc ocispec.Descriptor) (*toc.Layout, error) {
	r, err := src.ReaderAt(ctx, desc)
	if err != nil {
		return nil, fmt.Errorf("open: %w", err)
	}
	defer r.Close()
	t, err := toc.Read(r, desc.Size, l.TOC)
	if err != nil {
		return nil, fmt.Errorf("read TOC: %w", err)
	}
	l.Format = string(t.Format)
	layout, err := t.Layout()
	if err != nil {
		return nil, fmt.Errorf("read TOC: %w", err)
	}
	l.Files, l.Chunks, l.DataSize = layout.Files, len(layout.Chunks), layout.DataSize
	if layout.PrefetchChunks > 0 {
		l.PrefetchFiles = prefetchFiles(t.Entries)
	}
	l.PrefetchBytes = toc.ParseListed(desc.Annotations[toc.PrefetchAnnotation], layout.PrefetchChunks).Bytes(layout)
	return layout, nil
}

// prefetchFiles counts the files with contents before the landmark.
func prefetchFiles(entries []*estargz.TOCEntry) int {
	n := 0
	for _, e := range entries {
		if e.Name == estargz.PrefetchLandmark {
			break
		}
		if e.Type == "reg" && e.Size > 0 {
			n++
		}
	}
	return n
}

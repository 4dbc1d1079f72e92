package converter

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"maps"

	"github.com/containerd/containerd/v2/core/images"
	"github.com/containerd/stargz-snapshotter/estargz"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/sluice-snapshotter/sluice/converter/endpoint"
	"github.com/sluice-snapshotter/sluice/converter/image"
	"github.com/sluice-snapshotter/sluice/fs/toc"
)

// document is a JSON object of which only some fields are changed: all others, known or not, keep their bytes.
type document map[string]json.RawMessage

func parseDocument(raw []byte) (document, error) {
	var d document
	err := json.Unmarshal(raw, &d)
	return d, err
}

func (d document) set(field string, value any) error {
	raw, err := json.Marshal(value)
	d[field] = raw
	return err
}

// assemble returns the new root document, after everything below it has been pushed.
func (c *conversion) assemble(ctx context.Context, n *image.Node) (ocispec.Descriptor, []byte, error) {
	switch {
	case n.Opaque:
		return n.Desc, n.Raw, c.copyOpaque(ctx, n.Desc, n.Raw)
	case n.Manifest != nil:
		return c.assembleManifest(ctx, n)
	}
	return c.assembleIndex(ctx, n)
}

func (c *conversion) assembleIndex(ctx context.Context, n *image.Node) (ocispec.Descriptor, []byte, error) {
	var children []ocispec.Descriptor
	for _, child := range n.Children {
		desc, raw, err := c.assemble(ctx, child)
		if err != nil {
			return ocispec.Descriptor{}, nil, err
		}
		if raw != nil {
			if err := c.push(ctx, desc, endpoint.Bytes(raw)); err != nil {
				return ocispec.Descriptor{}, nil, err
			}
		}
		children = append(children, desc)
	}
	doc, err := parseDocument(n.Raw)
	if err != nil {
		return ocispec.Descriptor{}, nil, err
	}
	if err := doc.set("manifests", children); err != nil {
		return ocispec.Descriptor{}, nil, err
	}
	return c.finish(n.Desc, doc)
}

func (c *conversion) assembleManifest(ctx context.Context, n *image.Node) (ocispec.Descriptor, []byte, error) {
	none := ocispec.Descriptor{}
	config, raw, err := c.rewriteConfig(n.Manifest)
	if err != nil {
		return none, nil, fmt.Errorf("configuration %s: %w", n.Manifest.Manifest.Config.Digest, err)
	}
	if err := c.push(ctx, config, endpoint.Bytes(raw)); err != nil {
		return none, nil, err
	}
	layers := make([]ocispec.Descriptor, len(n.Manifest.Layers))
	for i, desc := range n.Manifest.Layers {
		layers[i] = c.reference(desc)
	}
	doc, err := parseDocument(n.Raw)
	if err != nil {
		return none, nil, err
	}
	if err := doc.set("config", config); err != nil {
		return none, nil, err
	}
	if err := doc.set("layers", layers); err != nil {
		return none, nil, err
	}
	return c.finish(n.Desc, doc)
}

// finish serialises a document and describes it, keeping what its old descriptor said beside digest and size.
func (c *conversion) finish(desc ocispec.Descriptor, doc document) (ocispec.Descriptor, []byte, error) {
	desc.MediaType = c.mediaType(desc.MediaType)
	if _, ok := doc["mediaType"]; ok || images.IsDockerType(desc.MediaType) {
		if err := doc.set("mediaType", desc.MediaType); err != nil {
			return desc, nil, err
		}
	}
	raw, err := json.Marshal(doc)
	desc.Digest, desc.Size, desc.Data = digest.FromBytes(raw), int64(len(raw)), nil
	return desc, raw, err
}

func (c *conversion) mediaType(mediaType string) string {
	if c.opts.OCI || c.opts.format() == toc.ZstdChunked {
		return image.OCIType(mediaType)
	}
	return mediaType
}

// rewriteConfig sets the new diffIDs. history needs no change: there are as many layers as before.
func (c *conversion) rewriteConfig(m *image.Manifest) (ocispec.Descriptor, []byte, error) {
	desc := m.Manifest.Config
	desc.MediaType = c.mediaType(desc.MediaType)
	doc, err := parseDocument(m.ConfigRaw)
	if err != nil {
		return desc, nil, err
	}
	rootfs, err := parseDocument(doc["rootfs"])
	if err != nil {
		return desc, nil, err
	}
	diffIDs := make([]digest.Digest, len(m.Layers))
	for i, l := range m.Layers {
		diffIDs[i] = c.done[keyOf(l)].diffID
	}
	if err := rootfs.set("diff_ids", diffIDs); err != nil {
		return desc, nil, err
	}
	if err := doc.set("rootfs", rootfs); err != nil {
		return desc, nil, err
	}
	raw, err := json.Marshal(doc)
	desc.Digest, desc.Size, desc.Data = digest.FromBytes(raw), int64(len(raw)), nil
	return desc, raw, err
}

// stale are the annotations that describe a blob's lazy format: they do not survive the blob.
var stale = []string{
	estargz.TOCJSONDigestAnnotation, estargz.StoreUncompressedSizeAnnotation, toc.EStargzPositionAnnotation,
	toc.PrefetchAnnotation, toc.PrefetchSizeAnnotation,
	toc.ZstdChecksumAnnotation, toc.ZstdPositionAnnotation, toc.PodmanChecksumAnnotation, toc.PodmanPositionAnnotation,
	"io.github.containers.zstd-chunked.tarsplit-position", "io.github.containers.zstd-chunked.tarsplit-checksum",
}

// reference is a manifest's new reference to a layer, made of its old one: other annotations are kept.
func (c *conversion) reference(old ocispec.Descriptor) ocispec.Descriptor {
	l := c.done[keyOf(old)]
	if l.annotations == nil {
		old.MediaType = c.mediaType(old.MediaType)
		return old
	}
	annotations := maps.Clone(old.Annotations)
	if annotations == nil {
		annotations = make(map[string]string)
	}
	for _, key := range stale {
		delete(annotations, key)
	}
	maps.Copy(annotations, l.annotations)
	return ocispec.Descriptor{
		MediaType: c.mediaType(l.target.MediaType), Digest: l.target.Digest, Size: l.target.Size,
		Annotations: annotations,
	}
}

// copyOpaque pushes what an opaque document refers to. The document itself is the caller's to push, except when its
// type is not known, and it is therefore copied like any blob.
func (c *conversion) copyOpaque(ctx context.Context, desc ocispec.Descriptor, raw []byte) error {
	if raw == nil {
		return c.copyContent(ctx, desc)
	}
	var doc struct {
		Config    *ocispec.Descriptor  `json:"config"`
		Layers    []ocispec.Descriptor `json:"layers"`
		Manifests []ocispec.Descriptor `json:"manifests"`
	}
	if err := json.Unmarshal(raw, &doc); err != nil {
		return fmt.Errorf("parse %s: %w", desc.Digest, err)
	}
	blobs := doc.Layers
	if doc.Config != nil {
		blobs = append(blobs, *doc.Config)
	}
	for _, d := range blobs {
		if len(d.URLs) > 0 {
			continue
		}
		if err := c.copyContent(ctx, d); err != nil {
			return err
		}
	}
	for _, d := range doc.Manifests {
		raw, err := endpoint.ReadDocument(ctx, c.src, d)
		if err != nil {
			return fmt.Errorf("source %s: %w", c.src, err)
		}
		if err := c.copyOpaque(ctx, d, raw); err != nil {
			return err
		}
		if err := c.push(ctx, d, endpoint.Bytes(raw)); err != nil {
			return err
		}
	}
	return nil
}

func (c *conversion) copyContent(ctx context.Context, desc ocispec.Descriptor) error {
	if err := desc.Digest.Validate(); err != nil {
		return fmt.Errorf("source %s: descriptor %q: %w", c.src, desc.Digest, err)
	}
	return c.push(ctx, desc, func() (io.ReadCloser, error) {
		r, err := c.src.Fetch(ctx, desc)
		if err != nil {
			return nil, fmt.Errorf("source %s: fetch %s: %w", c.src, desc.Digest, err)
		}
		return r, nil
	})
}

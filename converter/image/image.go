// Package image reads the documents of an image, manifests, indexes and configurations, into a tree.
//
// An image is a tree of Nodes: indexes with manifests (or more indexes) under them. A manifest is an *image
// manifest* when its configuration is one of a container image; everything else in an index (attestations,
// signatures, what is not known) is *opaque*: kept as the bytes it is.
//
// Every document is verified against the descriptor that refers to it. A tree is not changed once it is loaded.
package image

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"

	"github.com/containerd/containerd/v2/core/images"
	"github.com/containerd/platforms"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/sluice-snapshotter/sluice/converter/endpoint"
)

// maxDepth bounds indexes in indexes. Real images have one; a registry's lies must not recurse for ever.
const maxDepth = 4

// Node is one document of an image.
type Node struct {
	Desc     ocispec.Descriptor // as its parent refers to it, or as it was resolved
	Raw      []byte
	Children []*Node // of an index; those that the selection left out are not there
	Dropped  int     // children that the selection left out
	Manifest *Manifest
	Opaque   bool
}

// Manifest is an image manifest and its configuration.
type Manifest struct {
	ocispec.Manifest
	Config    ocispec.Image
	ConfigRaw []byte
}

// Platform is how people write the platform, "linux/arm64" say.
func (m *Manifest) Platform() string { return platforms.Format(m.Config.Platform) }

// Selection says which images of an index are wanted. The zero value wants the host's platform.
type Selection struct {
	Platforms []ocispec.Platform
	All       bool // every platform, and everything else that is in the index
}

func (s Selection) match(p ocispec.Platform) bool {
	if len(s.Platforms) == 0 {
		return platforms.DefaultStrict().Match(p)
	}
	return slices.ContainsFunc(s.Platforms, func(want ocispec.Platform) bool {
		return platforms.OnlyStrict(want).Match(p)
	})
}

// Load reads the tree of the image that src resolves to. Errors wrap ErrUnsuitable when there is nothing in it for
// the selection, or when it is no image at all.
func Load(ctx context.Context, src endpoint.Source, sel Selection) (*Node, error) {
	desc, err := src.Resolve(ctx)
	if err != nil {
		return nil, err
	}
	l := loader{src: src, sel: sel}
	root, err := l.load(ctx, desc, 0)
	if err != nil {
		return nil, err
	}
	if len(root.Images()) == 0 {
		return nil, fmt.Errorf("%s: no image for the selected platforms, there are: %v: %w", desc.Digest, l.seen, ErrUnsuitable)
	}
	return root, nil
}

// Images are the image manifests in the tree, in order.
func (n *Node) Images() []*Node {
	if n.Manifest != nil {
		return []*Node{n}
	}
	var all []*Node
	for _, c := range n.Children {
		all = append(all, c.Images()...)
	}
	return all
}

type loader struct {
	src  endpoint.Source
	sel  Selection
	seen []string // platforms met, for the error that none fits
}

func (l *loader) load(ctx context.Context, desc ocispec.Descriptor, depth int) (*Node, error) {
	switch {
	case desc.MediaType == images.MediaTypeDockerSchema1Manifest:
		return nil, fmt.Errorf("manifest %s: schema 1 (%s) is too old: %w", desc.Digest, desc.MediaType, ErrUnsuitable)
	case !images.IsIndexType(desc.MediaType) && !images.IsManifestType(desc.MediaType):
		return nil, fmt.Errorf("document %s: media type %q is not a manifest's: %w", desc.Digest, desc.MediaType, ErrUnsuitable)
	case depth > maxDepth:
		return nil, fmt.Errorf("index %s: more than %d indexes in each other: %w", desc.Digest, maxDepth, ErrUnsuitable)
	}
	raw, err := endpoint.ReadDocument(ctx, l.src, desc)
	if err != nil {
		return nil, err
	}
	if err := checkType(raw, desc); err != nil {
		return nil, err
	}
	n := &Node{Desc: desc, Raw: raw}
	if images.IsIndexType(desc.MediaType) {
		return n, l.loadIndex(ctx, n, depth)
	}
	if err := l.loadManifest(ctx, n); err != nil {
		return nil, fmt.Errorf("manifest %s: %w", desc.Digest, err)
	}
	if depth == 0 && n.Opaque {
		return nil, fmt.Errorf("manifest %s: not a container image: %w", desc.Digest, ErrUnsuitable)
	}
	if depth == 0 && len(l.sel.Platforms) > 0 && !l.wants(n) {
		return nil, fmt.Errorf("manifest %s: the image is for %s only: %w", desc.Digest, n.Manifest.Platform(), ErrUnsuitable)
	}
	return n, nil
}

// checkType refuses a document that calls itself something else than its descriptor does, or that could be read
// as both index and manifest (CVE-2021-41190).
func checkType(raw []byte, desc ocispec.Descriptor) error {
	var doc struct {
		MediaType string          `json:"mediaType"`
		Manifests json.RawMessage `json:"manifests"`
		Layers    json.RawMessage `json:"layers"`
		FSLayers  json.RawMessage `json:"fsLayers"`
	}
	if err := json.Unmarshal(raw, &doc); err != nil {
		return fmt.Errorf("parse %s: %w", desc.Digest, err)
	}
	switch {
	case doc.FSLayers != nil:
		return fmt.Errorf("manifest %s: schema 1 is too old: %w", desc.Digest, ErrUnsuitable)
	case doc.MediaType != "" && doc.MediaType != desc.MediaType:
		return fmt.Errorf("document %s: calls itself %q, and its descriptor calls it %q", desc.Digest, doc.MediaType, desc.MediaType)
	case doc.Manifests != nil && doc.Layers != nil:
		return fmt.Errorf("document %s: both an index and a manifest", desc.Digest)
	}
	return nil
}

func (l *loader) loadIndex(ctx context.Context, n *Node, depth int) error {
	var index ocispec.Index
	if err := json.Unmarshal(n.Raw, &index); err != nil {
		return fmt.Errorf("parse index %s: %w", n.Desc.Digest, err)
	}
	for _, desc := range index.Manifests {
		child, err := l.loadChild(ctx, desc, depth+1)
		if err != nil {
			return fmt.Errorf("index %s: %w", n.Desc.Digest, err)
		}
		if child == nil {
			n.Dropped++
			continue
		}
		n.Children = append(n.Children, child)
	}
	return nil
}

// loadChild returns nil for a child that is not selected.
func (l *loader) loadChild(ctx context.Context, desc ocispec.Descriptor, depth int) (*Node, error) {
	known := images.IsManifestType(desc.MediaType) || images.IsIndexType(desc.MediaType)
	if opaque(desc) || !known {
		if !l.sel.All {
			return nil, nil
		}
		if !known {
			return &Node{Desc: desc, Opaque: true}, nil
		}
		raw, err := endpoint.ReadDocument(ctx, l.src, desc)
		return &Node{Desc: desc, Raw: raw, Opaque: true}, err
	}
	if p := desc.Platform; p != nil && !l.sel.All && images.IsManifestType(desc.MediaType) {
		if !l.sel.match(*p) {
			l.seen = append(l.seen, platforms.Format(*p))
			return nil, nil
		}
	}
	n, err := l.load(ctx, desc, depth)
	switch {
	case err != nil:
		return nil, err
	case l.sel.All || desc.Platform != nil:
		return n, nil
	case n.Manifest != nil && !l.wants(n):
		return nil, nil
	case n.Opaque, n.Manifest == nil && len(n.Children) == 0:
		return nil, nil
	}
	return n, nil
}

// wants judges an image whose descriptor names no platform by its configuration.
func (l *loader) wants(n *Node) bool {
	if l.sel.All || l.sel.match(n.Manifest.Config.Platform) {
		return true
	}
	l.seen = append(l.seen, n.Manifest.Platform())
	return false
}

// opaque tells attestations as BuildKit marks them, by annotation or by their platform "unknown/unknown".
func opaque(desc ocispec.Descriptor) bool {
	const reference = "vnd.docker.reference.type"
	if desc.Annotations[reference] != "" {
		return true
	}
	return desc.Platform != nil && desc.Platform.OS == "unknown"
}

func (l *loader) loadManifest(ctx context.Context, n *Node) error {
	m := &Manifest{}
	if err := json.Unmarshal(n.Raw, &m.Manifest); err != nil {
		return fmt.Errorf("parse: %w", err)
	}
	if !images.IsConfigType(m.Manifest.Config.MediaType) {
		n.Opaque = true
		return nil
	}
	raw, err := endpoint.ReadDocument(ctx, l.src, m.Manifest.Config)
	if err != nil {
		return fmt.Errorf("configuration: %w", err)
	}
	m.ConfigRaw = raw
	if err := json.Unmarshal(raw, &m.Config); err != nil {
		return fmt.Errorf("parse configuration %s: %w", m.Manifest.Config.Digest, err)
	}
	if err := m.check(); err != nil {
		return err
	}
	n.Manifest = m
	return nil
}

func (m *Manifest) check() error {
	if got, want := len(m.Config.RootFS.DiffIDs), len(m.Layers); got != want {
		return fmt.Errorf("configuration lists %d diff_ids for %d layers", got, want)
	}
	var errs []error
	for i, d := range m.Config.RootFS.DiffIDs {
		errs = append(errs, d.Validate(), m.Layers[i].Digest.Validate())
		if m.Layers[i].Size < 0 {
			errs = append(errs, fmt.Errorf("layer %s: size %d", m.Layers[i].Digest, m.Layers[i].Size))
		}
	}
	return errors.Join(errs...)
}

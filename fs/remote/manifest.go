package remote

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"

	"github.com/containerd/containerd/v2/core/images"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// MaxManifestSize is the largest manifest in bytes that Manifest reads. The OCI distribution specification asks registries
// to take 4 MiB at least, the distribution registry takes no more (maxManifestBodySize), and containerd resolves
// about as much (docker.MaxManifestSize); twice that leaves room for registries that take more.
const MaxManifestSize = 8 << 20

var (
	// ErrIndex is wrapped by Manifest's error for a digest that names an index (a manifest list): choose one of its
	// manifests.
	ErrIndex = errors.New("an index, not a manifest")
	// ErrManifest is wrapped by Manifest's errors for what is no image manifest of a known kind.
	ErrManifest = errors.New("not an image manifest")
)

// manifestTypes are asked for in this order. Indexes are among them so that the answer to a wrong digest is an index,
// and not a registry's conversion of it or a 404.
var manifestTypes = strings.Join([]string{
	ocispec.MediaTypeImageManifest, images.MediaTypeDockerSchema2Manifest,
	ocispec.MediaTypeImageIndex, images.MediaTypeDockerSchema2ManifestList,
}, ", ")

// Manifest returns the image manifest d of the repository that ref names, its digest checked. It blocks on the network, unless containerd
// has it.
func (r *Registry) Manifest(ctx context.Context, ref string, d digest.Digest) (ocispec.Manifest, error) {
	s := subject{op: "manifest", ref: ref, digest: d}
	repo, err := r.repository(ref, d)
	if err != nil {
		return ocispec.Manifest{}, s.explain(&Error{Err: err})
	}
	if m, err := r.pulled(d); err == nil { // for all else the registry has an answer
		return m, nil
	}
	hosts, err := repo.endpoints(ctx)
	if err != nil {
		return ocispec.Manifest{}, s.explain(&Error{Err: err})
	}
	t := newTrial(r, s, hosts, 0)
	for {
		c, err := t.next(ctx)
		if err != nil {
			return ocispec.Manifest{}, err
		}
		p, mediaType, err := c.manifest(ctx, d)
		if err == nil {
			m, err := parseManifest(p, mediaType)
			if err != nil { // the digest is right: every host would say the same
				return ocispec.Manifest{}, s.explain(c.fault(nil, err))
			}
			return m, nil
		}
		if err := t.failed(ctx, c, err); err != nil {
			return ocispec.Manifest{}, err
		}
	}
}

// manifest returns the bytes that have the digest d, and what the host says they are.
func (c *candidate) manifest(ctx context.Context, d digest.Digest) (p []byte, mediaType string, err error) {
	header := http.Header{"Accept": {manifestTypes}, "Accept-Encoding": {"identity"}}
	resp, err := c.get(ctx, request{url: c.url("manifests", d), header: header, order: order{ticket: c.ticket}})
	if err != nil {
		return nil, "", err
	}
	b := &body{resp: resp, from: c.endpoint}
	defer b.close()
	p, err = readManifest(ctx, b)
	if err != nil {
		return nil, "", err
	}
	if got := d.Algorithm().FromBytes(p); got != d {
		return nil, "", c.fault(resp.Request.URL, fmt.Errorf("the answer's digest is %s", got))
	}
	mediaType, _, _ = strings.Cut(resp.Header.Get("Content-Type"), ";")
	return p, strings.TrimSpace(mediaType), nil
}

func readManifest(ctx context.Context, b *body) ([]byte, error) {
	length := b.resp.ContentLength
	if b.resp.StatusCode != http.StatusOK {
		return nil, b.wrong("status %d without a range", b.resp.StatusCode)
	}
	if length > MaxManifestSize {
		return nil, b.wrong("%d bytes, more than %d", length, MaxManifestSize)
	}
	var p []byte
	for {
		p = slices.Grow(p, 16<<10) // and not what Content-Length promises
		n, err := b.raw(ctx, p[len(p):cap(p)])
		p = p[:len(p)+n]
		switch {
		case len(p) > MaxManifestSize:
			return nil, b.wrong("more than %d bytes", MaxManifestSize)
		case err == io.EOF: //nolint:errorlint // raw's own, never wrapped
			return p, nil
		case err != nil:
			return nil, err
		}
	}
}

// parseManifest reads an image manifest of OCI or Docker. What it is stands in it, or, in older OCI ones, in the
// Content-Type only; one that could pass for two things is refused, as containerd refuses it.
func parseManifest(p []byte, mediaType string) (m ocispec.Manifest, err error) {
	var shape struct {
		MediaType string          `json:"mediaType"`
		Config    json.RawMessage `json:"config"`
		Layers    json.RawMessage `json:"layers"`
		Manifests json.RawMessage `json:"manifests"`
		FSLayers  json.RawMessage `json:"fsLayers"`
	}
	if err := json.Unmarshal(p, &shape); err != nil {
		return m, fmt.Errorf("%w: %w", ErrManifest, err)
	}
	if shape.MediaType != "" {
		mediaType = shape.MediaType
	}
	image := shape.Config != nil || shape.Layers != nil
	switch {
	case shape.FSLayers != nil:
		return m, fmt.Errorf("%w: Docker schema 1, which containerd dropped in 2.0", ErrManifest)
	case image && shape.Manifests != nil:
		return m, fmt.Errorf("%w: both a manifest and an index", ErrManifest)
	case images.IsIndexType(mediaType) || shape.Manifests != nil:
		return m, ErrIndex
	case shape.MediaType != "" && !images.IsManifestType(shape.MediaType):
		return m, fmt.Errorf("%w: media type %q", ErrManifest, printable(shape.MediaType, 128))
	case !image:
		return m, fmt.Errorf("%w: no config and no layers", ErrManifest)
	}
	if err := json.Unmarshal(p, &m); err != nil {
		return m, fmt.Errorf("%w: %w", ErrManifest, err)
	}
	return m, nil
}

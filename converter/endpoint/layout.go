package endpoint

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// NewLayoutSource reads an image from an OCI image layout in a folder. Without a tag it is the only image there,
// or the one called "latest".
func NewLayoutSource(dir, tag string) (Source, error) {
	s := &layoutSource{spec: Spec{KindLayout, dir, tag}}
	if _, err := os.Stat(filepath.Join(dir, ocispec.ImageIndexFile)); err != nil {
		return nil, fmt.Errorf("open %s: not an OCI image layout: %w", s.spec, err)
	}
	return s, nil
}

type layoutSource struct{ spec Spec }

func (s *layoutSource) String() string { return s.spec.String() }
func (s *layoutSource) Close() error   { return nil }

func (s *layoutSource) Resolve(context.Context) (ocispec.Descriptor, error) {
	raw, err := readBounded(filepath.Join(s.spec.Path, ocispec.ImageIndexFile))
	if err != nil {
		return ocispec.Descriptor{}, err
	}
	return resolveTag(raw, s.spec.Name)
}

func (s *layoutSource) Fetch(_ context.Context, desc ocispec.Descriptor) (io.ReadCloser, error) {
	return s.open(desc)
}

func (s *layoutSource) ReaderAt(_ context.Context, desc ocispec.Descriptor) (ReaderAt, error) {
	return s.open(desc)
}

func (s *layoutSource) open(desc ocispec.Descriptor) (*os.File, error) {
	if err := desc.Digest.Validate(); err != nil {
		return nil, fmt.Errorf("blob %q: %w", desc.Digest, err)
	}
	return os.Open(filepath.Join(s.spec.Path, blobPath(desc.Digest)))
}

// blobPath is where a layout keeps a blob; the digest must be valid.
func blobPath(d digest.Digest) string {
	return path.Join(ocispec.ImageBlobsDir, d.Algorithm().String(), d.Encoded())
}

func readBounded(name string) ([]byte, error) {
	f, err := os.Open(name)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	raw, err := io.ReadAll(io.LimitReader(f, MaxDocument+1))
	if err == nil && len(raw) > MaxDocument {
		err = fmt.Errorf("read %s: more than %d bytes", name, MaxDocument)
	}
	return raw, err
}

// resolveTag finds an image in a layout's index.json.
func resolveTag(raw []byte, tag string) (ocispec.Descriptor, error) {
	var index ocispec.Index
	if err := json.Unmarshal(raw, &index); err != nil {
		return ocispec.Descriptor{}, fmt.Errorf("parse %s: %w", ocispec.ImageIndexFile, err)
	}
	if tag == "" && len(index.Manifests) == 1 {
		return index.Manifests[0], nil
	}
	var found []ocispec.Descriptor
	var tags []string
	for _, m := range index.Manifests {
		name := m.Annotations[ocispec.AnnotationRefName]
		if name == orDefault(tag) {
			found = append(found, m)
		}
		if name != "" && !slices.Contains(tags, name) {
			tags = append(tags, name)
		}
	}
	switch {
	case len(found) == 1:
		return found[0], nil
	case len(found) > 1:
		return ocispec.Descriptor{}, fmt.Errorf("resolve tag %q: %d images have it", orDefault(tag), len(found))
	}
	return ocispec.Descriptor{}, fmt.Errorf("resolve tag %q: not there; %d images, tags: %s",
		orDefault(tag), len(index.Manifests), strings.Join(tags, " "))
}

// setTag returns index.json with the tag moved to root. raw is nil when there is none yet.
func setTag(raw []byte, root ocispec.Descriptor, tag string) ([]byte, error) {
	index := ocispec.Index{MediaType: ocispec.MediaTypeImageIndex}
	index.SchemaVersion = 2
	if raw != nil {
		if err := json.Unmarshal(raw, &index); err != nil {
			return nil, fmt.Errorf("parse %s: %w", ocispec.ImageIndexFile, err)
		}
	}
	index.Manifests = slices.DeleteFunc(index.Manifests, func(m ocispec.Descriptor) bool {
		return m.Annotations[ocispec.AnnotationRefName] == tag
	})
	index.Manifests = append(index.Manifests, ocispec.Descriptor{
		MediaType: root.MediaType, Digest: root.Digest, Size: root.Size, Platform: root.Platform,
		Annotations: map[string]string{ocispec.AnnotationRefName: tag},
	})
	return json.Marshal(index)
}

package image

import (
	"errors"
	"fmt"
	"strings"

	"github.com/containerd/containerd/v2/core/images"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// ErrUnsuitable is wrapped by every error that says: the image is intact, but not of a kind that can be used here.
var ErrUnsuitable = errors.New("unsuitable image")

// LayerKind says what can be done with a layer.
type LayerKind int

const (
	// TarLayer is a tar, compressed or not.
	TarLayer LayerKind = iota
	// ForeignLayer is not to be distributed through registries; it is referred to and left alone.
	ForeignLayer
)

// ClassifyLayer sorts a layer by its media type; the error for all but the two kinds wraps ErrUnsuitable.
func ClassifyLayer(desc ocispec.Descriptor) (LayerKind, error) {
	switch mt := desc.MediaType; {
	case images.IsNonDistributable(mt):
		return ForeignLayer, nil
	case strings.HasSuffix(mt, "+encrypted"):
		return 0, fmt.Errorf("layer %s: encrypted layers (%s) must be decrypted first: %w", desc.Digest, mt, ErrUnsuitable)
	case tarTypes[mt]:
		return TarLayer, nil
	}
	return 0, fmt.Errorf("layer %s: media type %q is not a layer's that is known: %w", desc.Digest, desc.MediaType, ErrUnsuitable)
}

var tarTypes = map[string]bool{
	ocispec.MediaTypeImageLayer: true, ocispec.MediaTypeImageLayerGzip: true, ocispec.MediaTypeImageLayerZstd: true,
	images.MediaTypeDockerSchema2Layer: true, images.MediaTypeDockerSchema2LayerGzip: true, images.MediaTypeDockerSchema2LayerZstd: true,
}

// Compression is the compression that a layer's media type names: "gzip", "zstd" or "" for a plain tar.
func Compression(mediaType string) string {
	switch {
	case strings.HasSuffix(mediaType, "gzip"):
		return "gzip"
	case strings.HasSuffix(mediaType, "zstd"):
		return "zstd"
	}
	return ""
}

// GzipLayerType is the media type of a layer of mediaType after it has been compressed with gzip.
func GzipLayerType(mediaType string) string {
	if images.IsDockerType(mediaType) {
		return images.MediaTypeDockerSchema2LayerGzip
	}
	return ocispec.MediaTypeImageLayerGzip
}

var toOCI = map[string]string{
	images.MediaTypeDockerSchema2ManifestList:     ocispec.MediaTypeImageIndex,
	images.MediaTypeDockerSchema2Manifest:         ocispec.MediaTypeImageManifest,
	images.MediaTypeDockerSchema2Config:           ocispec.MediaTypeImageConfig,
	images.MediaTypeDockerSchema2Layer:            ocispec.MediaTypeImageLayer,
	images.MediaTypeDockerSchema2LayerGzip:        ocispec.MediaTypeImageLayerGzip,
	images.MediaTypeDockerSchema2LayerZstd:        ocispec.MediaTypeImageLayerZstd,
	images.MediaTypeDockerSchema2LayerForeign:     ocispec.MediaTypeImageLayerNonDistributable,     //nolint:staticcheck // deprecated for new images, which this is not
	images.MediaTypeDockerSchema2LayerForeignGzip: ocispec.MediaTypeImageLayerNonDistributableGzip, //nolint:staticcheck // as above
}

// OCIType is the OCI media type that corresponds to a Docker one; others are returned as they are.
func OCIType(mediaType string) string {
	if t, ok := toOCI[mediaType]; ok {
		return t
	}
	return mediaType
}

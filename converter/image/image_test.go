package image

import (
	"bytes"
	"context"
	"errors"
	"io"
	"strconv"
	"testing"

	"github.com/containerd/containerd/v2/core/images"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/sluice-snapshotter/sluice/converter/endpoint"
)

func TestClassifyLayer(t *testing.T) {
	for mediaType, want := range map[string]struct {
		kind LayerKind
		ok   bool
		gzip string
	}{
		ocispec.MediaTypeImageLayer:                {TarLayer, true, ocispec.MediaTypeImageLayerGzip},
		ocispec.MediaTypeImageLayerZstd:            {TarLayer, true, ocispec.MediaTypeImageLayerGzip},
		images.MediaTypeDockerSchema2LayerZstd:     {TarLayer, true, images.MediaTypeDockerSchema2LayerGzip},
		images.MediaTypeDockerSchema2Layer:         {TarLayer, true, images.MediaTypeDockerSchema2LayerGzip},
		images.MediaTypeDockerSchema2LayerForeign:  {ForeignLayer, true, ""},
		images.MediaTypeImageLayerGzipEncrypted:    {},
		"application/vnd.in-toto+json":             {},
		"application/vnd.erofs.layer.v1":           {},
		ocispec.MediaTypeImageLayer + "+zstd+gzip": {},
		"": {},
	} {
		t.Run(mediaType, func(t *testing.T) {
			kind, err := ClassifyLayer(ocispec.Descriptor{MediaType: mediaType})
			if (err == nil) != want.ok || kind != want.kind || err != nil && !errors.Is(err, ErrUnsuitable) {
				t.Errorf("got %v, %v", kind, err)
			}
			if want.gzip != "" && GzipLayerType(mediaType) != want.gzip {
				t.Errorf("with gzip: %s", GzipLayerType(mediaType))
			}
		})
	}
}

// memory is a source of documents that all descriptors of its one digest lead to.
type memory struct {
	root ocispec.Descriptor
	docs map[digest.Digest][]byte
}

func (m memory) String() string { return "memory" }
func (m memory) Close() error   { return nil }

func (m memory) Resolve(context.Context) (ocispec.Descriptor, error) { return m.root, nil }

func (m memory) Fetch(_ context.Context, desc ocispec.Descriptor) (io.ReadCloser, error) {
	return io.NopCloser(bytes.NewReader(m.docs[desc.Digest])), nil
}

func (m memory) ReaderAt(context.Context, ocispec.Descriptor) (endpoint.ReaderAt, error) {
	return nil, errors.ErrUnsupported
}

// FuzzLoad: whatever manifest and configuration say, what is loaded is consistent in itself.
func FuzzLoad(f *testing.F) {
	config := `{"os":"linux","architecture":"amd64","rootfs":{"type":"layers","diff_ids":["` + digest.FromString("").String() + `"]}}`
	configDesc := `{"mediaType":"` + ocispec.MediaTypeImageConfig + `","digest":"` + digest.FromString(config).String() + `","size":` + strconv.Itoa(len(config)) + `}`
	layer := `{"mediaType":"` + ocispec.MediaTypeImageLayer + `","digest":"` + digest.FromString("").String() + `","size":0}`
	f.Add([]byte(`{"config":`+configDesc+`,"layers":[`+layer+`]}`), []byte(config), false)
	f.Add([]byte(`{"manifests":[`+layer+`,{"mediaType":"`+ocispec.MediaTypeImageManifest+`","digest":"sha256:x"}]}`), []byte(config), true)
	f.Add([]byte(`[]`), []byte(`null`), false)
	f.Fuzz(func(t *testing.T, root, config []byte, index bool) {
		m := memory{docs: map[digest.Digest][]byte{digest.FromBytes(root): root, digest.FromBytes(config): config}}
		m.root = ocispec.Descriptor{MediaType: ocispec.MediaTypeImageManifest, Digest: digest.FromBytes(root), Size: int64(len(root))}
		if index {
			m.root.MediaType = ocispec.MediaTypeImageIndex
		}
		n, err := Load(t.Context(), m, Selection{All: true})
		if err != nil {
			return
		}
		for _, img := range n.Images() {
			if len(img.Manifest.Layers) != len(img.Manifest.Config.RootFS.DiffIDs) {
				t.Fatal("layers without diffIDs")
			}
			for _, l := range img.Manifest.Layers {
				if l.Digest.Validate() != nil || l.Size < 0 {
					t.Fatalf("layer %v", l)
				}
			}
		}
	})
}

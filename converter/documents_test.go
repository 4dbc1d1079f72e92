package converter_test

import (
	"bytes"
	"reflect"
	"slices"
	"testing"

	"github.com/containerd/containerd/v2/core/images"
	"github.com/containerd/platforms"
	"github.com/containerd/stargz-snapshotter/estargz"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/sluice-snapshotter/sluice/converter"
	"github.com/sluice-snapshotter/sluice/converter/image"
	"github.com/sluice-snapshotter/sluice/fs/toc"
)

func TestDocumentsAreKept(t *testing.T) {
	src := newLayout(t)
	foreign := testLayer{tar: tarOf(t, file("f", "f")), mediaType: images.MediaTypeDockerSchema2LayerForeign}
	plain := testLayer{
		tar: everything(t), compression: "gzip", mediaType: images.MediaTypeDockerSchema2LayerGzip,
		annotations: map[string]string{"mine": "yes", estargz.TOCJSONDigestAnnotation: "sha256:stale"},
	}
	src.tag(src.imageAs(images.MediaTypeDockerSchema2Manifest, images.MediaTypeDockerSchema2Config, host, plain, foreign))
	for _, tt := range []struct {
		name                            string
		opts                            converter.Options
		manifest, config, layer, second string
	}{
		{"docker", converter.Options{}, images.MediaTypeDockerSchema2Manifest, images.MediaTypeDockerSchema2Config,
			images.MediaTypeDockerSchema2LayerGzip, images.MediaTypeDockerSchema2LayerForeign},
		{"oci", converter.Options{OCI: true}, ocispec.MediaTypeImageManifest, ocispec.MediaTypeImageConfig,
			ocispec.MediaTypeImageLayerGzip, "application/vnd.oci.image.layer.nondistributable.v1.tar"},
		{"zstd:chunked", converter.Options{Format: toc.ZstdChunked}, ocispec.MediaTypeImageManifest, ocispec.MediaTypeImageConfig,
			ocispec.MediaTypeImageLayerZstd, "application/vnd.oci.image.layer.nondistributable.v1.tar"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			out, report := convertTo(t, src.source(), tt.opts)
			var m ocispec.Manifest
			out.parse(report.Digest, &m)
			if m.MediaType != tt.manifest || m.Config.MediaType != tt.config || m.Layers[0].MediaType != tt.layer || m.Layers[1].MediaType != tt.second {
				t.Errorf("media types: %s %s %s %s", m.MediaType, m.Config.MediaType, m.Layers[0].MediaType, m.Layers[1].MediaType)
			}
			if m.Annotations["a"] != "kept" || m.Layers[0].Annotations["mine"] != "yes" {
				t.Errorf("annotations: %v, %v", m.Annotations, m.Layers[0].Annotations)
			}
			if got := m.Layers[0].Annotations[estargz.TOCJSONDigestAnnotation]; got != report.Layers[0].TOC.String() {
				t.Errorf("TOC annotation %s, want %s", got, report.Layers[0].TOC)
			}
			checkConfig(t, out, m, plain, foreign)
		})
	}
}

// checkConfig compares diffIDs with what the layers hold, and everything else with what imageAs wrote.
func checkConfig(t *testing.T, out *layout, m ocispec.Manifest, layers ...testLayer) {
	t.Helper()
	var config ocispec.Image
	out.parse(m.Config.Digest, &config)
	for i, l := range m.Layers {
		want := digest.FromBytes(layers[i].tar)
		if images.IsNonDistributable(l.MediaType) {
			// copied as it is
		} else {
			want = digest.FromBytes(unpacked(t, out.read(l.Digest)))
		}
		if config.RootFS.DiffIDs[i] != want {
			t.Errorf("layer %d: diffID %s, content is %s", i, config.RootFS.DiffIDs[i], want)
		}
	}
	if len(config.History) != 2*len(layers) || !config.History[1].EmptyLayer || config.Config.Cmd[0] != "/bin/true" {
		t.Errorf("configuration: %+v", config)
	}
	if !bytes.Contains(out.read(m.Config.Digest), []byte(`"x-unknown":1.5`)) {
		t.Error("an unknown field is gone from the configuration")
	}
}

func TestPlatforms(t *testing.T) {
	src := newLayout(t)
	var index ocispec.Index
	index.SchemaVersion, index.MediaType = 2, ocispec.MediaTypeImageIndex
	index.Annotations = map[string]string{"index": "kept"}
	for _, arch := range []string{"amd64", "arm64"} {
		p := ocispec.Platform{OS: "linux", Architecture: arch}
		index.Manifests = append(index.Manifests, src.image(p, testLayer{tar: tarOf(t, file("arch", arch)), compression: "gzip"}))
	}
	statement := src.blob("application/vnd.in-toto+json", []byte(`{"_type":"statement"}`))
	attestation := src.json(ocispec.MediaTypeImageManifest, ocispec.Manifest{
		MediaType: ocispec.MediaTypeImageManifest, Config: src.blob(ocispec.MediaTypeImageConfig, []byte(`{}`)), Layers: []ocispec.Descriptor{statement},
	})
	attestation.Platform = &ocispec.Platform{OS: "unknown", Architecture: "unknown"}
	attestation.Annotations = map[string]string{"vnd.docker.reference.type": "attestation-manifest"}
	unknown := src.blob("application/x-unknown", []byte("anything"))
	index.Manifests = append(index.Manifests, attestation, unknown)
	src.tag(src.json(ocispec.MediaTypeImageIndex, index))

	for _, tt := range []struct {
		name string
		sel  image.Selection
		want []string
	}{
		{"one", image.Selection{Platforms: []ocispec.Platform{{OS: "linux", Architecture: "arm64"}}}, []string{"linux/arm64"}},
		{"all", image.Selection{All: true}, []string{"linux/amd64", "linux/arm64", "unknown/unknown", ""}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			out, report := convertTo(t, src.source(), converter.Options{Selection: tt.sel})
			var got ocispec.Index
			out.parse(report.Digest, &got)
			var names []string
			for _, m := range got.Manifests {
				name := ""
				if m.Platform != nil {
					name = platforms.Format(*m.Platform)
				}
				names = append(names, name)
			}
			if !slices.Equal(names, tt.want) || got.Annotations["index"] != "kept" {
				t.Fatalf("index has %q, %v", names, got.Annotations)
			}
			if !tt.sel.All {
				return
			}
			if !reflect.DeepEqual(got.Manifests[2:], index.Manifests[2:]) {
				t.Errorf("attestation and unknown: got %v, want %v", got.Manifests[2:], index.Manifests[2:])
			}
			out.read(attestation.Digest)
			out.read(statement.Digest)
			out.read(unknown.Digest)
		})
	}
}

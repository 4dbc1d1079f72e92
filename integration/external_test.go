package integration

import (
	"bytes"
	"errors"
	"io"
	"os"
	"path/filepath"
	"testing"

	"github.com/containerd/stargz-snapshotter/estargz"
	"github.com/containerd/stargz-snapshotter/estargz/externaltoc"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/sluice-snapshotter/sluice/fs/toc"
	"github.com/sluice-snapshotter/sluice/integration/images"
	"github.com/sluice-snapshotter/sluice/integration/link"
	"github.com/sluice-snapshotter/sluice/integration/stack"
)

// TestExternalTOC pulls an image whose TOCs are in an image beside it, and without that image: then its layers are ordinary ones.
func TestExternalTOC(t *testing.T) {
	plain := plainImage(t, odd)
	im, tables := external(t, plain)
	dirs := []string{images.OddDir, "/etc", "/probe", "/tmp"}
	eachMount(t, func(t *testing.T, mount string) {
		reg := registry(t)
		n := node(t, mount)
		ordinary := stack.Container{Ref: upload(t, reg, plain, "test/odd:plain")}
		if err := n.Pull(t.Context(), ordinary); err != nil {
			t.Fatal(err)
		}
		want := walk(t, n, ordinary, dirs...)
		upload(t, reg, tables, "test/odd:lazy"+toc.ExternalSuffix)
		c := stack.Container{Ref: upload(t, reg, im, "test/odd:lazy")}
		reg.Link.ResetCounts()
		pull(t, n, c)
		fewBytes(t, reg, im)
		// containerd's two, the image's, and two for the image of TOCs.
		if got := reg.Link.Counts().Kinds[link.Manifest].Requests; got != 5 {
			t.Errorf("%d requests for manifests", got)
		}
		layersOf(t, n, string(toc.EStargz), len(im.Manifest.Layers))
		got := walk(t, n, lazily(c), dirs...)
		for _, tree := range []map[string]entry{got, want} { // estargz's writer rounds times
			for path, e := range tree {
				e.Mtime = (e.Mtime + 5e8) / 1e9
				tree[path] = e
			}
		}
		sameTree(t, got, want)
	})
	t.Run("no TOCs", func(t *testing.T) {
		reg := registry(t)
		n := node(t, "auto")
		c := stack.Container{Ref: upload(t, reg, im, "test/odd:lazy"), Args: []string{"/probe", "walk", "/probe"}}
		pull(t, n, c)
		run(t, n, c)
		layersOf(t, n, string(toc.EStargz), 0)
	})
}

// external packs the layers of an image as eStargz with external TOCs, and makes the image of these.
func external(t *testing.T, plain *images.Image) (im, tables *images.Image) {
	t.Helper()
	dir := t.TempDir()
	if err := os.MkdirAll(filepath.Join(dir, "blobs", "sha256"), 0o755); err != nil {
		t.Fatal(err)
	}
	var config ocispec.Image
	readBlob(t, plain.Dir, plain.Manifest.Config.Digest, &config)
	config.RootFS.DiffIDs = nil
	manifest, list := plain.Manifest, plain.Manifest
	manifest.Layers, list.Layers = nil, nil
	for _, l := range plain.Manifest.Layers {
		layer, table, diffID := externalLayer(t, dir, blobPath(plain.Dir, l.Digest))
		manifest.Layers, list.Layers = append(manifest.Layers, layer), append(list.Layers, table)
		config.RootFS.DiffIDs = append(config.RootFS.DiffIDs, diffID)
	}
	manifest.Config = writeBlob(t, dir, manifest.Config.MediaType, config)
	list.Config = writeBlob(t, dir, manifest.Config.MediaType, ocispec.Image{})
	return &images.Image{Dir: dir, Target: writeBlob(t, dir, plain.Target.MediaType, manifest), Manifest: manifest},
		&images.Image{Dir: dir, Target: writeBlob(t, dir, plain.Target.MediaType, list), Manifest: list}
}

func externalLayer(t *testing.T, dir, path string) (layer, table ocispec.Descriptor, diffID digest.Digest) {
	t.Helper()
	packed, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	c := externaltoc.NewGzipCompressionWithLevel(nil, 1).(*externaltoc.GzipCompression)
	b, err := estargz.Build(io.NewSectionReader(bytes.NewReader(packed), 0, int64(len(packed))), estargz.WithCompression(c))
	if err != nil {
		t.Fatal(err)
	}
	blob, err := io.ReadAll(b)
	var toc bytes.Buffer
	_, tocErr := c.WriteTOCTo(&toc)
	if err := errors.Join(err, tocErr, b.Close()); err != nil {
		t.Fatal(err)
	}
	put := func(p []byte, key, value string) ocispec.Descriptor {
		d := digest.FromBytes(p)
		if err := os.WriteFile(blobPath(dir, d), p, 0o644); err != nil {
			t.Fatal(err)
		}
		return ocispec.Descriptor{MediaType: ocispec.MediaTypeImageLayerGzip, Digest: d, Size: int64(len(p)), Annotations: map[string]string{key: value}}
	}
	layer = put(blob, estargz.TOCJSONDigestAnnotation, b.TOCDigest().String())
	return layer, put(toc.Bytes(), "containerd.io/snapshot/stargz/layer.digest", layer.Digest.String()), b.DiffID()
}

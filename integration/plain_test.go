package integration

import (
	"compress/gzip"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/klauspost/compress/zstd"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/sluice-snapshotter/sluice/integration/images"
	"github.com/sluice-snapshotter/sluice/integration/link"
	"github.com/sluice-snapshotter/sluice/integration/stack"
)

// TestPlain runs images that were never converted, in each way of compressing layers, and compares what a container sees with what
// it sees on overlayfs, before and after a restart of the daemon. containerd has downloaded none of their layers.
func TestPlain(t *testing.T) {
	dirs := []string{images.OddDir, "/etc", "/probe", "/tmp"}
	for name, im := range map[string]func(t *testing.T) *images.Image{
		"gzip": func(t *testing.T) *images.Image { return plainImage(t, odd) },
		"zstd": func(t *testing.T) *images.Image {
			return recompressed(t, plainImage(t, odd), ocispec.MediaTypeImageLayerZstd)
		},
		"tar": func(t *testing.T) *images.Image {
			return recompressed(t, plainImage(t, odd), ocispec.MediaTypeImageLayer)
		},
	} {
		t.Run(name, func(t *testing.T) {
			eachMount(t, func(t *testing.T, mount string) {
				reg := registry(t)
				im := im(t)
				n := node(t, mount)
				c := stack.Container{Ref: upload(t, reg, im, "test/odd:"+name)}
				pull(t, n, c)
				noLayers(t, n, im)
				wholeLayers(t, n, im, name)
				got := walk(t, n, lazily(c), dirs...)
				counts := reg.Link.Counts().Kinds[link.Blob]
				if most := im.Size() + 1<<20; counts.Bytes > most {
					t.Errorf("%d bytes at the link, of %d", counts.Bytes, im.Size())
				}
				n.KillDaemon()
				if err := n.RestartDaemon(t.Context()); err != nil {
					t.Fatal(err)
				}
				again := walk(t, n, lazily(c), dirs...)
				if after := reg.Link.Counts().Kinds[link.Blob]; after != counts {
					t.Errorf("after the restart: %+v, before: %+v", after, counts)
				}
				other := stack.Container{Ref: c.Ref, Namespace: "other"}
				if err := n.Pull(t.Context(), other); err != nil {
					t.Fatal(err)
				}
				want := walk(t, n, other, dirs...)
				sameTree(t, got, want)
				sameTree(t, again, want)
			})
		})
	}
}

// noLayers checks that containerd has no blob of the image's layers.
func noLayers(t *testing.T, n *stack.Node, im *images.Image) {
	t.Helper()
	have, err := n.Ctr(t.Context(), "content", "ls", "-q")
	if err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(have, im.Manifest.Config.Digest.String()) {
		t.Errorf("not even the configuration is in the content store: %s", have)
	}
	for _, l := range im.Manifest.Layers {
		if strings.Contains(have, l.Digest.String()) {
			t.Errorf("containerd has downloaded layer %s", l.Digest)
		}
	}
}

// wholeLayers checks what status says of the image's layers.
func wholeLayers(t *testing.T, n *stack.Node, im *images.Image, format string) {
	t.Helper()
	s, err := n.Status(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	complete := make(map[string]bool)
	for _, l := range s.Layers {
		complete[l.Digest] = l.Format == format && l.State == "complete" && l.Fetched == l.Size
	}
	for _, l := range im.Manifest.Layers {
		if !complete[l.Digest.String()] {
			t.Errorf("layer %s is not complete: %+v", l.Digest, s.Layers)
		}
	}
}

// TestPlainClaim pulls an image whose configuration claims the diffIDs of another one. containerd refuses it, and the other stays right.
func TestPlainClaim(t *testing.T) {
	reg := registry(t)
	n := node(t, "auto")
	good, other := plainImage(t, odd), plainImage(t, posix)
	lie := claiming(t, other, good)
	bad := stack.Container{Ref: upload(t, reg, lie, "test/lie:plain")}
	if err := n.Pull(t.Context(), lazily(bad)); err == nil || !strings.Contains(err.Error(), "wrong diff id") {
		t.Errorf("the lie was pulled: %v", err)
	}
	c := stack.Container{Ref: upload(t, reg, good, "test/odd:plain")}
	pull(t, n, c)
	if err := n.Pull(t.Context(), stack.Container{Ref: c.Ref, Namespace: "other"}); err != nil {
		t.Fatal(err)
	}
	dirs := []string{images.OddDir, "/etc", "/probe"}
	sameTree(t, walk(t, n, lazily(c), dirs...), walk(t, n, stack.Container{Ref: c.Ref, Namespace: "other"}, dirs...))
}

// claiming is im with the diffIDs of victim, as far as it has layers.
func claiming(t *testing.T, im, victim *images.Image) *images.Image {
	t.Helper()
	var config, claimed ocispec.Image
	readBlob(t, im.Dir, im.Manifest.Config.Digest, &config)
	readBlob(t, victim.Dir, victim.Manifest.Config.Digest, &claimed)
	copy(config.RootFS.DiffIDs, claimed.RootFS.DiffIDs)
	dir := t.TempDir()
	for _, l := range im.Manifest.Layers {
		copyBlob(t, im.Dir, dir, l.Digest)
	}
	return assembled(t, dir, im, config, im.Manifest.Layers)
}

// recompressed is im with layers of another media type.
func recompressed(t *testing.T, im *images.Image, mediaType string) *images.Image {
	t.Helper()
	dir := t.TempDir()
	var config ocispec.Image
	readBlob(t, im.Dir, im.Manifest.Config.Digest, &config)
	var layers []ocispec.Descriptor
	for _, l := range im.Manifest.Layers {
		layers = append(layers, recompress(t, im, dir, l, mediaType))
	}
	return assembled(t, dir, im, config, layers)
}

// recompress writes a layer of gzip as one of another media type.
func recompress(t *testing.T, im *images.Image, dir string, l ocispec.Descriptor, mediaType string) ocispec.Descriptor {
	t.Helper()
	in, err := os.Open(blobPath(im.Dir, l.Digest))
	if err != nil {
		t.Fatal(err)
	}
	defer in.Close()
	z, err := gzip.NewReader(in)
	if err != nil {
		t.Fatal(err)
	}
	content, err := io.ReadAll(z)
	if err != nil {
		t.Fatal(err)
	}
	if mediaType == ocispec.MediaTypeImageLayerZstd {
		w, err := zstd.NewWriter(nil)
		if err != nil {
			t.Fatal(err)
		}
		content = w.EncodeAll(content, nil)
	}
	d := ocispec.Descriptor{MediaType: mediaType, Digest: digest.FromBytes(content), Size: int64(len(content))}
	path := blobPath(dir, d.Digest)
	if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o755), os.WriteFile(path, content, 0o644)); err != nil {
		t.Fatal(err)
	}
	return d
}

// assembled is an image of layers that are in dir already.
func assembled(t *testing.T, dir string, like *images.Image, config ocispec.Image, layers []ocispec.Descriptor) *images.Image {
	t.Helper()
	manifest := like.Manifest
	manifest.Layers = layers
	manifest.Config = writeBlob(t, dir, manifest.Config.MediaType, config)
	return &images.Image{Dir: dir, Target: writeBlob(t, dir, like.Target.MediaType, manifest), Manifest: manifest}
}

package steady

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"runtime"
	"testing"

	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/sluice-snapshotter/sluice/integration/bench/system"
	"github.com/sluice-snapshotter/sluice/integration/images"
	"github.com/sluice-snapshotter/sluice/integration/link"
	"github.com/sluice-snapshotter/sluice/integration/stack"
)

// The large file ends with zeros, so that it is large enough for a container with memory for half of it.
const (
	noiseSize = 9<<20 + 4
	largeSize = 2 * leastMemory
)

// layout makes an image of one layer: a large file, enough small ones, and before them one that no operation reads. Another seed makes other contents of the same sizes.
func layout(t *testing.T, seed uint64) *images.Image {
	t.Helper()
	var blob bytes.Buffer
	z, err := gzip.NewWriterLevel(&blob, gzip.BestSpeed)
	check(t, err)
	diff := digest.Canonical.Digester()
	w := tar.NewWriter(io.MultiWriter(z, diff.Hash()))
	for _, dir := range []string{"dev", "etc", "proc", "run", "sys", "tmp", "usr", "usr/small"} {
		check(t, w.WriteHeader(&tar.Header{Typeflag: tar.TypeDir, Name: dir + "/", Mode: 0o755}))
	}
	file := func(name string, content []byte) {
		check(t, w.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: name, Mode: 0o644, Size: int64(len(content))}))
		_, err := w.Write(content)
		check(t, err)
	}
	large, r := make([]byte, largeSize), rand.New(rand.NewPCG(seed, 0))
	for i := 0; i < noiseSize; i += 4 {
		binary.NativeEndian.PutUint32(large[i:], r.Uint32())
	}
	file("unread", large[:noiseSize])
	file("usr/large", large)
	for i := range smallFiles + 1 {
		file(fmt.Sprintf("usr/small/%05d", i), fmt.Appendf(nil, "%d of %d\n", i, seed))
	}
	check(t, w.Close())
	check(t, z.Close())

	dir := t.TempDir()
	put := func(mediaType string, content []byte) ocispec.Descriptor {
		d := ocispec.Descriptor{MediaType: mediaType, Digest: digest.FromBytes(content), Size: int64(len(content))}
		path := filepath.Join(dir, ocispec.ImageBlobsDir, d.Digest.Algorithm().String(), d.Digest.Encoded())
		check(t, os.MkdirAll(filepath.Dir(path), 0o755))
		check(t, os.WriteFile(path, content, 0o644))
		return d
	}
	m := ocispec.Manifest{Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageManifest}
	m.Layers = []ocispec.Descriptor{put(ocispec.MediaTypeImageLayerGzip, blob.Bytes())}
	m.Config = put(ocispec.MediaTypeImageConfig, text(t, ocispec.Image{
		Platform: ocispec.Platform{Architecture: runtime.GOARCH, OS: "linux"},
		RootFS:   ocispec.RootFS{Type: "layers", DiffIDs: []digest.Digest{diff.Digest()}},
	}))
	index := ocispec.Index{Versioned: m.Versioned, MediaType: ocispec.MediaTypeImageIndex}
	index.Manifests = []ocispec.Descriptor{put(m.MediaType, text(t, m))}
	check(t, os.WriteFile(filepath.Join(dir, ocispec.ImageIndexFile), text(t, index), 0o644))
	im, err := images.Open(dir)
	check(t, err)
	return im
}

func text(t *testing.T, v any) []byte {
	t.Helper()
	p, err := json.Marshal(v)
	check(t, err)
	return p
}

func check(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// registry has the image of each seed as "seed:plain" and "seed:esgz".
func registry(t *testing.T, seeds ...uint64) *stack.Registry {
	t.Helper()
	reg, err := stack.StartMemoryRegistry(t.Context(), link.Options{})
	check(t, err)
	t.Cleanup(func() {
		if err := reg.Close(); err != nil {
			t.Error(err)
		}
	})
	for _, seed := range seeds {
		_, err := reg.Push(t.Context(), layout(t, seed), tag(seed, system.Plain))
		check(t, err)
		_, err = stack.CtrRemote(t.Context(), "image", "convert", reg.Ref(tag(seed, system.Plain)), reg.Ref(tag(seed, system.ESGZ)))
		check(t, err)
	}
	return reg
}

func tag(seed uint64, f system.Form) string { return fmt.Sprintf("seed%d:%s", seed, f) }

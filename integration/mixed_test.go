package integration

import (
	"encoding/json"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/sluice-snapshotter/sluice/integration/images"
	"github.com/sluice-snapshotter/sluice/integration/stack"
)

// TestMixed runs images in which lazy and ordinary layers lie on one another, in several orders: "l" is lazy, "p" plain, from the
// bottom.
func TestMixed(t *testing.T) {
	plain, lazy := plainImage(t, odd), lazyImage(t, odd)
	dirs := []string{images.OddDir, "/etc", "/probe"}
	for _, order := range []string{"lplplpl", "plplplp", "lllpppp", "pppllll", "ppppppp", "llllllp", "pllllll"} {
		t.Run(order, func(t *testing.T) {
			eachMount(t, func(t *testing.T, mount string) {
				reg := registry(t)
				n := node(t, mount)
				mixed := mix(t, order, plain, lazy)
				ref := upload(t, reg, mixed, "test/odd:mixed")
				pull(t, n, stack.Container{Ref: ref})
				got := walk(t, n, lazily(stack.Container{Ref: ref}), dirs...)
				if err := n.Pull(t.Context(), stack.Container{Ref: ref, Namespace: "other"}); err != nil {
					t.Fatal(err)
				}
				want := walk(t, n, stack.Container{Ref: ref, Namespace: "other"}, dirs...)
				sameTree(t, got, want)
			})
		})
	}
}

// mix makes an image whose layers are those of plain or of lazy, as order says.
func mix(t *testing.T, order string, plain, lazy *images.Image) *images.Image {
	t.Helper()
	if len(order) != len(plain.Manifest.Layers) || len(order) != len(lazy.Manifest.Layers) {
		t.Fatalf("%q for %d and %d layers", order, len(plain.Manifest.Layers), len(lazy.Manifest.Layers))
	}
	dir := t.TempDir()
	var config, lazyConfig ocispec.Image
	readBlob(t, plain.Dir, plain.Manifest.Config.Digest, &config)
	readBlob(t, lazy.Dir, lazy.Manifest.Config.Digest, &lazyConfig)
	manifest := plain.Manifest
	manifest.Layers = append([]ocispec.Descriptor(nil), manifest.Layers...)
	for i, kind := range strings.Split(order, "") {
		from := plain
		if kind == "l" {
			from = lazy
			config.RootFS.DiffIDs[i] = lazyConfig.RootFS.DiffIDs[i]
		}
		manifest.Layers[i] = from.Manifest.Layers[i]
		copyBlob(t, from.Dir, dir, manifest.Layers[i].Digest)
	}
	manifest.Config = writeBlob(t, dir, manifest.Config.MediaType, config)
	target := writeBlob(t, dir, plain.Target.MediaType, manifest)
	return &images.Image{Dir: dir, Target: target, Manifest: manifest}
}

func blobPath(dir string, d digest.Digest) string {
	return filepath.Join(dir, ocispec.ImageBlobsDir, d.Algorithm().String(), d.Encoded())
}

func readBlob(t *testing.T, dir string, d digest.Digest, v any) {
	t.Helper()
	p, err := os.ReadFile(blobPath(dir, d))
	if err == nil {
		err = json.Unmarshal(p, v)
	}
	if err != nil {
		t.Fatal(err)
	}
}

func writeBlob(t *testing.T, dir, mediaType string, v any) ocispec.Descriptor {
	t.Helper()
	p, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	d := ocispec.Descriptor{MediaType: mediaType, Digest: digest.FromBytes(p), Size: int64(len(p))}
	path := blobPath(dir, d.Digest)
	if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o755), os.WriteFile(path, p, 0o644)); err != nil {
		t.Fatal(err)
	}
	return d
}

func copyBlob(t *testing.T, from, to string, d digest.Digest) {
	t.Helper()
	path := blobPath(to, d)
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	in, err := os.Open(blobPath(from, d))
	if err != nil {
		t.Fatal(err)
	}
	defer in.Close()
	out, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	_, err = io.Copy(out, in)
	if err = errors.Join(err, out.Close()); err != nil {
		t.Fatal(err)
	}
}

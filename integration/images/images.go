// Package images makes ordinary container images for tests and benchmarks, without a network unless it says so.
//
// An Image is an OCI layout on disk with one manifest. It is made once and kept under the checkout's .cache/images, named by what
// it is made from, so that a change of the code that makes it makes another. Functions may be called from many goroutines and
// processes at once: one makes the image, the others wait for it.
package images

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/sluice-snapshotter/sluice/integration/checkout"
)

// Image is an OCI layout with one single-platform image, tagged "latest" in its index.
type Image struct {
	Dir      string // of the layout; not to be written to
	Target   ocispec.Descriptor
	Manifest ocispec.Manifest
}

// Size is the compressed bytes of all layers.
func (im *Image) Size() int64 {
	var n int64
	for _, l := range im.Manifest.Layers {
		n += l.Size
	}
	return n
}

// blob is the file of a blob in the layout.
func (im *Image) blob(d digest.Digest) string { return blobPath(im.Dir, d) }

func blobPath(dir string, d digest.Digest) string {
	return filepath.Join(dir, ocispec.ImageBlobsDir, d.Algorithm().String(), d.Encoded())
}

// Open reads an image back from its layout.
func Open(dir string) (*Image, error) {
	im := &Image{Dir: dir}
	var index ocispec.Index
	if err := readJSON(filepath.Join(dir, ocispec.ImageIndexFile), &index); err != nil {
		return nil, fmt.Errorf("open image: %w", err)
	}
	if len(index.Manifests) != 1 {
		return nil, fmt.Errorf("open image %s: %d manifests, want 1", dir, len(index.Manifests))
	}
	im.Target = index.Manifests[0]
	if err := readJSON(im.blob(im.Target.Digest), &im.Manifest); err != nil {
		return nil, fmt.Errorf("open image %s: %w", dir, err)
	}
	return im, nil
}

func readJSON(path string, v any) error {
	p, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	return json.Unmarshal(p, v)
}

// recipe is what an image is made of, bottom layer first.
type recipe struct {
	name   string
	key    string // hash of everything that the content depends on
	layers []layer
	config ocispec.ImageConfig

	// prepare, if set, adds layers, with a scratch folder that lives until they are written. It is called only if the image has to
	// be made.
	prepare func(ctx context.Context, scratch string) ([]layer, error)
}

// make returns the image from the cache, or makes it there.
func (r recipe) make(ctx context.Context) (_ *Image, err error) {
	cache, err := checkout.Cache("images")
	if err != nil {
		return nil, err
	}
	dir := filepath.Join(cache, r.name+"-"+r.key)
	if im, err := Open(dir); err == nil || !errors.Is(err, fs.ErrNotExist) {
		return im, err
	}
	unlock, err := checkout.Lock(dir + ".lock")
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, unlock()) }()
	if im, err := Open(dir); err == nil {
		return im, nil // another process made it
	}
	// The lock is ours, so a folder of this name is what a killed process left.
	unfinished := dir + ".new"
	if err := os.RemoveAll(unfinished); err != nil {
		return nil, err
	}
	if err := r.write(ctx, unfinished); err != nil {
		return nil, errors.Join(fmt.Errorf("make image %s: %w", r.name, err), os.RemoveAll(unfinished))
	}
	if err := os.Rename(unfinished, dir); err != nil {
		return nil, err
	}
	return Open(dir)
}

// write makes the OCI layout in dir.
func (r recipe) write(ctx context.Context, dir string) error {
	if err := os.MkdirAll(filepath.Join(dir, ocispec.ImageBlobsDir, "sha256"), 0o755); err != nil {
		return err
	}
	sources, err := r.prepared(ctx, filepath.Join(dir, "scratch"))
	if err != nil {
		return err
	}
	layers, diffIDs, err := writeLayers(ctx, dir, sources)
	if err != nil {
		return err
	}
	if err := os.RemoveAll(filepath.Join(dir, "scratch")); err != nil {
		return err
	}
	config, err := writeJSON(dir, ocispec.MediaTypeImageConfig, ocispec.Image{
		Platform: platform(),
		Config:   r.config,
		RootFS:   ocispec.RootFS{Type: "layers", DiffIDs: diffIDs},
	})
	if err != nil {
		return err
	}
	manifest, err := writeJSON(dir, ocispec.MediaTypeImageManifest, ocispec.Manifest{
		Versioned: specs.Versioned{SchemaVersion: 2},
		MediaType: ocispec.MediaTypeImageManifest,
		Config:    config,
		Layers:    layers,
	})
	if err != nil {
		return err
	}
	return writeIndex(dir, manifest)
}

// prepared is all layers.
func (r recipe) prepared(ctx context.Context, scratch string) ([]layer, error) {
	if r.prepare == nil {
		return r.layers, nil
	}
	if err := os.Mkdir(scratch, 0o755); err != nil {
		return nil, err
	}
	more, err := r.prepare(ctx, scratch)
	return append(r.layers[:len(r.layers):len(r.layers)], more...), err
}

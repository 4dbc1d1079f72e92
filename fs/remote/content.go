package remote

import (
	"encoding/json"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// maxConfigSize is of the largest configuration that Image reads. Docker's are a few KiB; what is said of the history of an image is most of them.
const maxConfigSize = 1 << 20

// pulled reads a manifest from Options.ContentPath. Whoever pulls an image has just fetched it, and there are registries that count how often
// that is done.
func (r *Registry) pulled(d digest.Digest) (m ocispec.Manifest, err error) {
	p, err := r.content(d, MaxManifestSize)
	if err != nil {
		return m, err
	}
	return parseManifest(p, "")
}

// Image returns the layers and the configuration of the image whose manifest is d, if containerd has both: no registry is asked. The error is
// fs.ErrNotExist if it has not.
func (r *Registry) Image(d digest.Digest) (layers []ocispec.Descriptor, _ ocispec.ImageConfig, err error) {
	var image struct {
		Config ocispec.ImageConfig `json:"config"`
	}
	m, err := r.pulled(d)
	if err == nil {
		var p []byte
		if p, err = r.content(m.Config.Digest, maxConfigSize); err == nil {
			err = json.Unmarshal(p, &image)
		}
	}
	if err != nil {
		return nil, ocispec.ImageConfig{}, fmt.Errorf("image of manifest %s: %w", d, err)
	}
	return m.Layers, image.Config, nil
}

// content reads a blob of at most limit bytes from Options.ContentPath, and checks its digest.
func (r *Registry) content(d digest.Digest, limit int64) ([]byte, error) {
	if err := d.Validate(); err != nil { // it is part of a path
		return nil, err
	}
	if r.opts.ContentPath == "" {
		return nil, os.ErrNotExist
	}
	f, err := os.Open(filepath.Join(r.opts.ContentPath, "blobs", d.Algorithm().String(), d.Encoded()))
	if err != nil {
		return nil, err
	}
	defer f.Close()
	p, err := io.ReadAll(io.LimitReader(f, limit))
	if err != nil {
		return nil, err
	}
	if got := d.Algorithm().FromBytes(p); got != d {
		return nil, fmt.Errorf("the digest of %s is %s", f.Name(), got)
	}
	return p, nil
}

package remote

import (
	"fmt"
	"io"
	"os"
	"path/filepath"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// pulled reads a manifest from Options.ContentPath. Whoever pulls an image has just fetched it, and there are registries that count how often
// that is done.
func (r *Registry) pulled(d digest.Digest) (m ocispec.Manifest, err error) {
	if r.opts.ContentPath == "" {
		return m, os.ErrNotExist
	}
	f, err := os.Open(filepath.Join(r.opts.ContentPath, "blobs", d.Algorithm().String(), d.Encoded()))
	if err != nil {
		return m, err
	}
	defer f.Close()
	p, err := io.ReadAll(io.LimitReader(f, MaxManifestSize))
	if err != nil {
		return m, err
	}
	if got := d.Algorithm().FromBytes(p); got != d {
		return m, fmt.Errorf("the digest of %s is %s", f.Name(), got)
	}
	return parseManifest(p, "")
}

package remote

import (
	"errors"
	"os"
	"path/filepath"
	"testing"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// TestManifestOfContainerd: what containerd has is not asked for, and for what it has not, or not right, the registry is.
func TestManifestOfContainerd(t *testing.T) {
	for name, c := range map[string]struct {
		has   string // "" for nothing
		asked int
	}{
		"there":    {has: ociManifest},
		"missing":  {asked: 1},
		"damaged":  {has: ociManifest[1:], asked: 1},
		"cut off":  {has: ociManifest[:10], asked: 1},
		"another":  {has: dockerManifest, asked: 1},
		"too long": {has: ociManifest + string(make([]byte, MaxManifestSize)), asked: 1},
	} {
		t.Run(name, func(t *testing.T) {
			h := newHost(t, nil)
			d := h.addManifest(ocispec.MediaTypeImageManifest, []byte(ociManifest))
			content := t.TempDir()
			if c.has != "" {
				name := filepath.Join(content, "blobs", "sha256", d.Encoded())
				err := errors.Join(os.MkdirAll(filepath.Dir(name), 0o700), os.WriteFile(name, []byte(c.has), 0o600))
				if err != nil {
					t.Fatal(err)
				}
			}
			r, _ := newRegistry(t, h, Options{ContentPath: content})
			m, err := r.Manifest(t.Context(), testRef, d)
			if err != nil || len(m.Layers) != 1 {
				t.Errorf("got %+v, %v", m, err)
			}
			if got := len(h.seen()); got != c.asked {
				t.Errorf("%d requests, want %d", got, c.asked)
			}
		})
	}
}

// TestIndexOfContainerd: what containerd has is no image, and so is what the registry has.
func TestIndexOfContainerd(t *testing.T) {
	h := newHost(t, nil)
	d := h.addManifest(ocispec.MediaTypeImageIndex, []byte(index))
	content := t.TempDir()
	name := filepath.Join(content, "blobs", "sha256", d.Encoded())
	if err := errors.Join(os.MkdirAll(filepath.Dir(name), 0o700), os.WriteFile(name, []byte(index), 0o600)); err != nil {
		t.Fatal(err)
	}
	r, _ := newRegistry(t, h, Options{ContentPath: content})
	if _, err := r.Manifest(t.Context(), testRef, d); !errors.Is(err, ErrIndex) || asError(t, err).Host != h.host() {
		t.Errorf("got %v", err)
	}
}

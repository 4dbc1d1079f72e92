package remote

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/opencontainers/go-digest"
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

// TestImageOfContainerd: what an image's configuration says is known where containerd has it, as it should be.
func TestImageOfContainerd(t *testing.T) {
	const config = `{"architecture":"amd64","config":{"Entrypoint":["/bin/sh"],"Env":["PATH=/bin"]}}`
	layer := digest.FromString("layer")
	put := func(content, p string) digest.Digest {
		d := digest.FromString(p)
		name := filepath.Join(content, "blobs", "sha256", d.Encoded())
		if err := errors.Join(os.MkdirAll(filepath.Dir(name), 0o700), os.WriteFile(name, []byte(p), 0o600)); err != nil {
			t.Fatal(err)
		}
		return d
	}
	manifest := func(config digest.Digest) string {
		return fmt.Sprintf(`{"schemaVersion":2,"config":{"mediaType":%q,"digest":%q},"layers":[{"digest":%q}]}`, ocispec.MediaTypeImageConfig, config, layer)
	}
	content := t.TempDir()
	damaged := put(content, config+" ")
	if err := os.WriteFile(filepath.Join(content, "blobs", "sha256", damaged.Encoded()), []byte(config), 0o600); err != nil {
		t.Fatal(err)
	}
	r := New(Options{ContentPath: content})
	layers, got, err := r.Image(put(content, manifest(put(content, config))))
	if err != nil || len(layers) != 1 || layers[0].Digest != layer || len(got.Entrypoint) != 1 || got.Entrypoint[0] != "/bin/sh" || len(got.Env) != 1 {
		t.Errorf("got %+v, %v", got, err)
	}
	for name, d := range map[string]digest.Digest{
		"no manifest":         digest.FromString("nothing"),
		"no configuration":    put(content, manifest(digest.FromString("nothing"))),
		"damaged":             put(content, manifest(damaged)),
		"no JSON":             put(content, manifest(put(content, "x"))),
		"too long":            put(content, manifest(put(content, config+strings.Repeat(" ", maxConfigSize)))),
		"an index":            put(content, index),
		"a path for a digest": put(content, manifest("sha256:../../etc/passwd")),
	} {
		_, _, err := r.Image(d)
		if err == nil || !strings.Contains(err.Error(), d.String()) {
			t.Errorf("%s: %v", name, err)
		}
		if missing := strings.HasPrefix(name, "no ") && name != "no JSON"; errors.Is(err, os.ErrNotExist) != missing {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, _, err := New(Options{}).Image(digest.FromString("x")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("without a content store: %v", err)
	}
}

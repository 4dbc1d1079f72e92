package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"testing"

	"github.com/containerd/containerd/v2/core/content"
	"github.com/containerd/containerd/v2/plugins/content/local"
	"github.com/containerd/platforms"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

type fixedImage struct{ target ocispec.Descriptor }

func (i fixedImage) Target() ocispec.Descriptor        { return i.target }
func (i fixedImage) Platform() platforms.MatchComparer { return platforms.All }

// brokenStore cannot say what it has.
type brokenStore struct{ content.Store }

func (brokenStore) Info(context.Context, digest.Digest) (content.Info, error) {
	return content.Info{}, errors.New("broken")
}

func TestSayWhole(t *testing.T) {
	store, err := local.NewStore(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	put := func(mediaType string, raw []byte) ocispec.Descriptor {
		t.Helper()
		desc := ocispec.Descriptor{MediaType: mediaType, Digest: digest.FromBytes(raw), Size: int64(len(raw))}
		if err := content.WriteBlob(t.Context(), store, desc.Digest.String(), bytes.NewReader(raw), desc); err != nil {
			t.Fatal(err)
		}
		return desc
	}
	lazy := ocispec.Descriptor{MediaType: ocispec.MediaTypeImageLayerGzip, Digest: digest.FromString("lazy"), Size: 4}
	whole := put(ocispec.MediaTypeImageLayerGzip, []byte("whole"))
	raw, err := json.Marshal(ocispec.Manifest{
		MediaType: ocispec.MediaTypeImageManifest,
		Config:    put(ocispec.MediaTypeImageConfig, []byte("{}")),
		Layers:    []ocispec.Descriptor{lazy, whole},
	})
	if err != nil {
		t.Fatal(err)
	}
	img := fixedImage{put(ocispec.MediaTypeImageManifest, raw)}

	var out bytes.Buffer
	if err := sayWhole(t.Context(), &out, store, img); err != nil {
		t.Fatal(err)
	}
	if want := "layer " + whole.Digest.String() + " was not taken lazily; the daemon's log says why\n"; out.String() != want {
		t.Errorf("got %q, want %q", out.String(), want)
	}
	if err := sayWhole(t.Context(), &out, brokenStore{store}, img); err == nil {
		t.Error("a store that cannot say: got no error")
	}
}

package endpoint

import (
	"encoding/json"
	"errors"
	"path/filepath"
	"testing"

	"github.com/containerd/containerd/v2/core/metadata"
	"github.com/containerd/containerd/v2/pkg/namespaces"
	contentlocal "github.com/containerd/containerd/v2/plugins/content/local"
	"github.com/containerd/errdefs"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"go.etcd.io/bbolt"
)

// stores are containerd's own, without a daemon around them.
func stores(t *testing.T) Containerd {
	t.Helper()
	content, err := contentlocal.NewStore(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	bolt, err := bbolt.Open(filepath.Join(t.TempDir(), "meta.db"), 0o600, nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := bolt.Close(); err != nil {
			t.Error(err)
		}
	})
	db := metadata.NewDB(bolt, content, nil)
	if err := db.Init(t.Context()); err != nil {
		t.Fatal(err)
	}
	return Containerd{Content: db.ContentStore(), Images: metadata.NewImageStore(db)}
}

func TestContainerd(t *testing.T) {
	c, ctx := stores(t), namespaces.WithNamespace(t.Context(), "test")
	layer, openLayer := blobOf("a blob")
	layer.MediaType = ocispec.MediaTypeImageLayerGzip
	config, openConfig := blobOf("{}")
	config.MediaType = ocispec.MediaTypeImageConfig
	raw, err := json.Marshal(ocispec.Manifest{Config: config, Layers: []ocispec.Descriptor{layer}})
	if err != nil {
		t.Fatal(err)
	}
	root, _ := blobOf(string(raw))

	for _, ref := range []string{"example.com/a:1", "example.com/a:1", "example.com/b:1"} { // new, moved, everything there
		dst := c.Target(ref)
		err := errors.Join(dst.Push(ctx, layer, openLayer), dst.Push(ctx, config, openConfig), dst.Tag(ctx, root, raw), dst.Close())
		if err != nil {
			t.Fatalf("%s: %v", ref, err)
		}
	}
	info, err := c.Content.Info(ctx, root.Digest)
	if err != nil || info.Labels["containerd.io/gc.ref.content.l.0"] != layer.Digest.String() {
		t.Errorf("labels of the manifest: %v, %v", info.Labels, err)
	}

	src := c.Source("example.com/b:1")
	if got, err := src.Resolve(ctx); err != nil || got.Digest != root.Digest {
		t.Errorf("resolve: %v, %v", got, err)
	}
	if raw, err := ReadDocument(ctx, src, layer); err != nil || string(raw) != "a blob" {
		t.Errorf("read: %q, %v", raw, err)
	}
	missing, _ := blobOf("missing")
	if _, err := src.Fetch(ctx, missing); !errdefs.IsNotFound(err) {
		t.Errorf("missing blob: %v", err)
	}
	if _, err := c.Source("example.com/c:1").Resolve(ctx); !errdefs.IsNotFound(err) {
		t.Errorf("missing image: %v", err)
	}
	if err := c.Target("example.com/d:1").Push(ctx, missing, Bytes([]byte("other"))); err == nil {
		t.Error("wrong content was taken")
	}
}

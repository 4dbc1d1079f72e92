package snapshotter_test

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/containerd/containerd/v2/core/images"
	"github.com/containerd/containerd/v2/core/mount"
	"github.com/containerd/containerd/v2/core/snapshots"
	"github.com/containerd/containerd/v2/pkg/archive"
	"github.com/containerd/containerd/v2/pkg/snapshotters"
	"github.com/containerd/errdefs"
	"github.com/containerd/stargz-snapshotter/estargz"
	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/identity"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// registry serves blobs and manifests over HTTP, as much of a registry as a
// pull needs.
type registry struct {
	host     string
	down     atomic.Bool
	requests atomic.Int64
	hung     atomic.Pointer[chan struct{}] // until it is closed, nothing is answered
	gaveUp   atomic.Int64                  // requests that did not wait for that
	content  map[string][]byte             // by digest
}

func newRegistry(t *testing.T) *registry {
	r := &registry{content: make(map[string][]byte)}
	server := httptest.NewServer(r)
	t.Cleanup(server.Close)
	r.host = strings.TrimPrefix(server.URL, "http://")
	return r
}

func (r *registry) ServeHTTP(w http.ResponseWriter, req *http.Request) {
	r.requests.Add(1)
	if hung := r.hung.Load(); hung != nil {
		select {
		case <-*hung:
		case <-req.Context().Done():
			r.gaveUp.Add(1)
			return
		}
	}
	if r.down.Load() {
		http.Error(w, "down", http.StatusNotFound)
		return
	}
	b, ok := r.content[req.URL.Path[strings.LastIndexByte(req.URL.Path, '/')+1:]]
	if !ok {
		http.NotFound(w, req)
		return
	}
	if strings.Contains(req.URL.Path, "/manifests/") {
		w.Header().Set("Content-Type", ocispec.MediaTypeImageManifest)
	}
	http.ServeContent(w, req, "", time.Time{}, bytes.NewReader(b))
}

func (r *registry) add(b []byte) digest.Digest {
	d := digest.FromBytes(b)
	r.content[d.String()] = b
	return d
}

// layer is a layer of an image, in the registry.
type layer struct {
	desc   ocispec.Descriptor
	diffID digest.Digest
	tar    []byte
	lazy   bool
}

// lazyLayer makes an eStargz layer of files.
func (r *registry) lazyLayer(t *testing.T, files map[string]string) layer {
	t.Helper()
	return r.lazyTar(t, tarOf(t, files))
}

func (r *registry) lazyTar(t *testing.T, content []byte) layer {
	t.Helper()
	blob, err := estargz.Build(io.NewSectionReader(bytes.NewReader(content), 0, int64(len(content))))
	if err != nil {
		t.Fatal(err)
	}
	defer blob.Close()
	b, err := io.ReadAll(blob)
	if err != nil {
		t.Fatal(err)
	}
	return layer{
		desc: ocispec.Descriptor{
			MediaType: ocispec.MediaTypeImageLayerGzip, Digest: r.add(b), Size: int64(len(b)),
			Annotations: map[string]string{estargz.TOCJSONDigestAnnotation: blob.TOCDigest().String()},
		},
		diffID: blob.DiffID(), tar: content, lazy: true,
	}
}

// foreignLayer makes a layer of files that Sluice leaves to containerd.
func (r *registry) foreignLayer(t *testing.T, files map[string]string) layer {
	t.Helper()
	l := r.plainLayer(t, files)
	l.desc.MediaType = images.MediaTypeDockerSchema2LayerForeignGzip
	return l
}

// plainLayer makes a plain layer of files.
func (r *registry) plainLayer(t *testing.T, files map[string]string) layer {
	t.Helper()
	return r.plainTar(t, tarOf(t, files))
}

func (r *registry) plainTar(t *testing.T, content []byte) layer {
	t.Helper()
	var b bytes.Buffer
	w := gzip.NewWriter(&b)
	if _, err := w.Write(content); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return layer{
		desc:   ocispec.Descriptor{MediaType: ocispec.MediaTypeImageLayerGzip, Digest: r.add(b.Bytes()), Size: int64(b.Len())},
		diffID: digest.FromBytes(content), tar: content,
	}
}

func tarOf(t *testing.T, files map[string]string) []byte {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for name, content := range files {
		h := &tar.Header{Name: name, Mode: 0o644, Size: int64(len(content)), ModTime: time.Unix(1e9, 0)}
		if err := w.WriteHeader(h); err != nil {
			t.Fatal(err)
		}
		if _, err := io.WriteString(w, content); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// image is an image in the registry.
type image struct {
	ref      string
	manifest digest.Digest
	layers   []layer
	chain    []string // chain ID of each layer
}

func (r *registry) image(t *testing.T, name string, layers ...layer) *image {
	t.Helper()
	img := &image{ref: r.host + "/" + name + ":latest", layers: layers}
	m := ocispec.Manifest{MediaType: ocispec.MediaTypeImageManifest, Config: ocispec.DescriptorEmptyJSON}
	m.SchemaVersion = 2
	var diffIDs []digest.Digest
	for _, l := range layers {
		m.Layers = append(m.Layers, l.desc)
		diffIDs = append(diffIDs, l.diffID)
	}
	for _, id := range identity.ChainIDs(diffIDs) {
		img.chain = append(img.chain, id.String())
	}
	b, err := json.Marshal(m)
	if err != nil {
		t.Fatal(err)
	}
	img.manifest = r.add(b)
	return img
}

func (img *image) top() string { return img.chain[len(img.chain)-1] }

// labels are those that containerd gives to the Prepare of a layer.
func (img *image) labels(i int) map[string]string {
	labels := map[string]string{
		snapshots.LabelSnapshotRef:             img.chain[i],
		snapshotters.TargetRefLabel:            img.ref,
		snapshotters.TargetManifestDigestLabel: img.manifest.String(),
		snapshotters.TargetLayerDigestLabel:    img.layers[i].desc.Digest.String(),
		"containerd.io/gc.root":                "test", // a lease, in real life
	}
	for k, v := range img.layers[i].desc.Annotations {
		labels[k] = v
	}
	return labels
}

// pull does what containerd's unpacker does, and returns which layers it had to
// unpack. Keys have to be unique among pulls.
func (img *image) pull(ctx context.Context, sn snapshots.Snapshotter, pull string) (unpacked []int, err error) {
	parent := ""
	for i, l := range img.layers {
		key := fmt.Sprintf(snapshots.UnpackKeyFormat, pull, img.chain[i])
		mounts, err := sn.Prepare(ctx, key, parent, snapshots.WithLabels(img.labels(i)))
		switch {
		case errdefs.IsAlreadyExists(err):
			if info, err := sn.Stat(ctx, img.chain[i]); err != nil || info.Kind != snapshots.KindCommitted {
				return nil, fmt.Errorf("layer %d: said to exist, but: %+v, %w", i, info, err)
			}
		case err != nil:
			return nil, fmt.Errorf("layer %d: %w", i, err)
		default:
			unpacked = append(unpacked, i)
			if err := unpack(ctx, mounts, l.tar); err != nil {
				return nil, fmt.Errorf("layer %d: unpack: %w", i, err)
			}
			err := sn.Commit(ctx, img.chain[i], key, snapshots.WithLabels(img.labels(i)))
			if errdefs.IsAlreadyExists(err) { // another pull was faster
				err = sn.Remove(ctx, key)
			}
			if err != nil {
				return nil, fmt.Errorf("layer %d: %w", i, err)
			}
		}
		parent = img.chain[i]
	}
	return unpacked, nil
}

// unpack does what containerd does (core/diff/apply/apply_linux.go).
func unpack(ctx context.Context, mounts []mount.Mount, content []byte) error {
	var upper string
	var parents []string
	for _, o := range mounts[0].Options {
		if dir, ok := strings.CutPrefix(o, "upperdir="); ok {
			upper = dir
		} else if dirs, ok := strings.CutPrefix(o, "lowerdir="); ok {
			parents = strings.Split(dirs, ":")
		}
	}
	if upper != "" {
		_, err := archive.Apply(ctx, upper, bytes.NewReader(content),
			archive.WithConvertWhiteout(archive.OverlayConvertWhiteout), archive.WithParents(parents))
		return err
	}
	return mount.WithTempMount(ctx, mounts, func(root string) error {
		_, err := archive.Apply(ctx, root, bytes.NewReader(content))
		return err
	})
}

// remove makes all snapshots of the image in a namespace garbage.
func (img *image) remove(ctx context.Context, sn snapshots.Snapshotter) error {
	var errs []error
	for i := len(img.chain) - 1; i >= 0; i-- {
		errs = append(errs, sn.Remove(ctx, img.chain[i]))
	}
	return errors.Join(errs...)
}

package snapshotter_test

import (
	"strings"
	"testing"

	"github.com/containerd/containerd/v2/core/images"
	"github.com/containerd/containerd/v2/core/snapshots"
	"github.com/containerd/errdefs"
	"github.com/containerd/stargz-snapshotter/estargz"
	"github.com/opencontainers/go-digest"

	"github.com/sluice-snapshotter/sluice/fs"
)

// TestFallback checks that what cannot be lazy is unpacked by containerd.
func TestFallback(t *testing.T) {
	for _, test := range []struct {
		name  string
		spoil func(r *registry, img *image, labels map[string]string)
	}{
		{"foreign layer", func(r *registry, img *image, labels map[string]string) {
			delete(labels, estargz.TOCJSONDigestAnnotation)
		}},
		{"wrong TOC digest", func(r *registry, img *image, labels map[string]string) {
			labels[estargz.TOCJSONDigestAnnotation] = digest.FromString("another").String()
		}},
		{"malformed TOC digest", func(r *registry, img *image, labels map[string]string) {
			labels[estargz.TOCJSONDigestAnnotation] = "sha256:beef"
		}},
		{"malformed layer digest", func(r *registry, img *image, labels map[string]string) {
			labels["containerd.io/snapshot/cri.layer-digest"] = "beef"
		}},
		{"malformed reference", func(r *registry, img *image, labels map[string]string) {
			labels["containerd.io/snapshot/cri.image-ref"] = "no host"
		}},
		{"two sources", func(r *registry, img *image, labels map[string]string) {
			labels["containerd.io/snapshot/remote/stargz.reference"] = "another.example/app:latest"
			labels["containerd.io/snapshot/remote/stargz.digest"] = img.layers[0].desc.Digest.String()
		}},
		{"no labels", func(r *registry, img *image, labels map[string]string) {
			delete(labels, "containerd.io/snapshot/cri.image-ref")
		}},
		{"registry down", func(r *registry, img *image, labels map[string]string) { r.down.Store(true) }},
		{"truncated blob", func(r *registry, img *image, labels map[string]string) {
			d := img.layers[0].desc.Digest.String()
			r.content[d] = r.content[d][:len(r.content[d])/2]
		}},
		{"without its parent", func(r *registry, img *image, labels map[string]string) {
			labels["containerd.io/snapshot/parent-chain-id"] = digest.FromString("parent").String()
		}},
	} {
		t.Run(test.name, func(t *testing.T) {
			eachMode(t, func(t *testing.T, mode fs.Mode) {
				r := newRegistry(t)
				img := r.image(t, "app", r.lazyLayer(t, bottomFiles))
				labels := img.labels(0)
				if test.name == "foreign layer" {
					img.layers[0].desc.Annotations = nil
					img.layers[0].desc.MediaType = images.MediaTypeDockerSchema2LayerForeignGzip
					img = r.image(t, "app", img.layers[0])
					labels = img.labels(0)
				}
				test.spoil(r, img, labels)
				s := newStand(t, mode, t.TempDir())
				mounts, err := throughMetadata(s).Prepare(namespace(t, "test"), "extract-1 x", "", snapshots.WithLabels(labels))
				if err != nil || len(mounts) != 1 || mounts[0].Type != "bind" {
					t.Fatalf("got %+v, %v, want a directory to unpack into", mounts, err)
				}
				if layers := s.fs.Status(); len(layers) != 0 {
					t.Errorf("layers left: %+v", layers)
				}
			})
		})
	}
}

// TestStargzLabels checks that clients made for stargz-snapshotter are served.
func TestStargzLabels(t *testing.T) {
	needRoot(t)
	r := newRegistry(t)
	img := r.image(t, "app", r.lazyLayer(t, bottomFiles))
	s := newStand(t, fs.Auto, t.TempDir())
	_, err := s.snapshotter.Prepare(t.Context(), "key", "", snapshots.WithLabels(map[string]string{
		snapshots.LabelSnapshotRef:                            img.chain[0],
		"containerd.io/snapshot/remote/stargz.reference":      img.ref,
		"containerd.io/snapshot/remote/stargz.digest":         img.layers[0].desc.Digest.String(),
		"containerd.io/snapshot/stargz/toc.digest":            img.layers[0].desc.Annotations[estargz.TOCJSONDigestAnnotation],
		"containerd.io/snapshot/remote/sluice.layer.unheard":  "dropped",
		"containerd.io/snapshot/something-that-is-not-ours-x": "kept",
	}))
	if !errdefs.IsAlreadyExists(err) {
		t.Fatalf("got %v, want ErrAlreadyExists", err)
	}
	info, err := s.snapshotter.Stat(t.Context(), img.chain[0])
	if err != nil {
		t.Fatal(err)
	}
	for label, want := range map[string]string{
		snapshots.LabelSnapshotRef:                            img.chain[0],
		"containerd.io/snapshot/remote":                       "remote snapshot",
		"containerd.io/snapshot/remote/sluice.reference":      img.ref,
		"containerd.io/snapshot/remote/sluice.digest":         img.layers[0].desc.Digest.String(),
		"containerd.io/snapshot/remote/sluice.layer.unheard":  "",
		"containerd.io/snapshot/something-that-is-not-ours-x": "kept",
	} {
		if got := info.Labels[label]; got != want {
			t.Errorf("label %s is %q, want %q", label, got, want)
		}
	}
}

// plain one of a remote one, by its labels.
func TestLabelsAreOurs(t *testing.T) {
	needRoot(t)
	r := newRegistry(t)
	img := r.image(t, "app", r.lazyLayer(t, topFiles))
	s := newStand(t, fs.Auto, t.TempDir())
	ctx, sn := t.Context(), s.snapshotter
	if _, err := sn.Prepare(ctx, "x", "", snapshots.WithLabels(img.labels(0))); !errdefs.IsAlreadyExists(err) {
		t.Fatal(err)
	}
	before, err := sn.Stat(ctx, img.chain[0])
	if err != nil {
		t.Fatal(err)
	}
	for _, fields := range [][]string{nil, {"labels"}, {"labels.containerd.io/snapshot/remote/sluice.digest"}} {
		info := snapshots.Info{Name: img.chain[0], Labels: map[string]string{"mine": "yes"}}
		if _, err := sn.Update(ctx, info, fields...); err != nil {
			t.Fatal(err)
		}
		after, err := sn.Stat(ctx, img.chain[0])
		if err != nil {
			t.Fatal(err)
		}
		for k, v := range before.Labels {
			if (strings.Contains(k, "/remote") || k == snapshots.LabelSnapshotRef) && after.Labels[k] != v {
				t.Errorf("update of %q: label %s is %q, was %q", fields, k, after.Labels[k], v)
			}
		}
	}

	forged := snapshots.WithLabels(before.Labels)
	if _, err := sn.Prepare(ctx, "key", "", snapshots.WithLabels(map[string]string{
		"containerd.io/snapshot/remote/sluice.digest": before.Labels["containerd.io/snapshot/remote/sluice.digest"],
	})); err != nil {
		t.Fatal(err)
	}
	if err := sn.Commit(ctx, "forged", "key", forged); err != nil {
		t.Fatal(err)
	}
	mounts, err := sn.View(ctx, "view", "forged")
	if err != nil {
		t.Fatal(err)
	}
	if got := see(t, mounts); len(got) != 0 {
		t.Errorf("a forged snapshot shows %v", got)
	}
}

package snapshotter_test

import (
	"reflect"
	"strings"
	"testing"

	"github.com/containerd/containerd/v2/core/snapshots"
	"github.com/containerd/containerd/v2/pkg/snapshotters"
	"github.com/containerd/stargz-snapshotter/estargz"

	"github.com/sluice-snapshotter/sluice/fs"
)

// TestAdoptWithoutRight offers a layer that another namespace has, for an image whose registry does not have it: the snapshot that there is is
// not for it. When the registry has it, it is.
func TestAdoptWithoutRight(t *testing.T) {
	eachMode(t, func(t *testing.T, mode fs.Mode) {
		r, other := newRegistry(t), newRegistry(t)
		img := r.image(t, "app", r.lazyLayer(t, bottomFiles))
		s := newStand(t, mode, t.TempDir())
		sn := throughMetadata(s)
		if unpacked, err := img.pull(namespace(t, "one"), sn, "1"); err != nil || len(unpacked) > 0 {
			t.Fatalf("unpacked %v, %v", unpacked, err)
		}
		ctx := namespace(t, "two")
		elsewhere := *img
		elsewhere.ref = strings.Replace(img.ref, r.host, other.host, 1)
		if unpacked, err := elsewhere.pull(ctx, sn, "2"); err != nil || len(unpacked) != 1 {
			t.Errorf("unpacked %v, %v, want the layer", unpacked, err)
		}
		if err := elsewhere.remove(ctx, sn); err != nil {
			t.Fatal(err)
		}
		other.content = r.content
		if unpacked, err := elsewhere.pull(ctx, sn, "3"); err != nil || len(unpacked) != 0 {
			t.Errorf("unpacked %v, %v, want nothing", unpacked, err)
		}
	})
}

// TestAdoptOtherBlob claims the diffID of a layer that another namespace has, with a blob that is none: the registry of who claims it does not have
// the layer's own blob, so there is nothing to be had by the claim. When it has it, there is.
func TestAdoptOtherBlob(t *testing.T) {
	eachMode(t, func(t *testing.T, mode fs.Mode) {
		for _, kind := range []string{"lazy", "plain"} {
			t.Run(kind, func(t *testing.T) {
				r, other := newRegistry(t), newRegistry(t)
				secret := r.lazyLayer(t, bottomFiles)
				if kind == "plain" {
					secret = r.plainLayer(t, bottomFiles)
				}
				s := newStand(t, mode, t.TempDir())
				sn := throughMetadata(s)
				if unpacked, err := r.image(t, "app", secret).pull(namespace(t, "one"), sn, "1"); err != nil || len(unpacked) > 0 {
					t.Fatalf("unpacked %v, %v", unpacked, err)
				}
				junk := other.lazyLayer(t, moreFiles)
				junk.diffID = secret.diffID
				thief := other.image(t, "thief", junk)
				ctx := namespace(t, "two")
				if unpacked, err := thief.pull(ctx, sn, "2"); err != nil || len(unpacked) != 1 {
					t.Errorf("unpacked %v, %v, want the layer", unpacked, err)
				}
				if got := run(t, ctx, sn, thief, "container"); !reflect.DeepEqual(got, moreFiles) {
					t.Errorf("sees %d files, want those of its own layer", len(got))
				}
				other.content[secret.desc.Digest.String()] = r.content[secret.desc.Digest.String()]
				if unpacked, err := thief.pull(namespace(t, "three"), sn, "3"); err != nil || len(unpacked) != 0 {
					t.Errorf("unpacked %v, %v, want nothing", unpacked, err)
				}
			})
		}
	})
}

// TestAdoptLost claims a layer that the node's snapshots have and its store has lost, from a registry that does not have it, and without naming a
// layer that there can be.
func TestAdoptLost(t *testing.T) {
	r, other := newRegistry(t), newRegistry(t)
	img := r.image(t, "app", r.lazyLayer(t, bottomFiles))
	s := newStand(t, fs.FUSE, t.TempDir())
	if unpacked, err := img.pull(namespace(t, "one"), s.containerd(), "1"); err != nil || len(unpacked) > 0 {
		t.Fatalf("unpacked %v, %v", unpacked, err)
	}
	elsewhere := *img
	elsewhere.ref = strings.Replace(img.ref, r.host, other.host, 1)
	nameless, wrong := elsewhere.labels(0), elsewhere.labels(0)
	delete(nameless, snapshotters.TargetRefLabel)
	wrong[estargz.TOCJSONDigestAnnotation] = "none"
	offers := map[string]map[string]string{"nameless": nameless, "wrong label": wrong, "elsewhere": elsewhere.labels(0)}
	for _, lost := range []bool{false, true} {
		if lost {
			r.down.Store(true)
			if err := s.fs.Unmount(t.Context(), img.layers[0].desc.Digest); err != nil {
				t.Fatal(err)
			}
		}
		for name, labels := range offers {
			if _, err := s.snapshotter.Prepare(t.Context(), name, "", snapshots.WithLabels(labels)); err != nil {
				t.Errorf("%s, lost %v: %v, want a snapshot to unpack into", name, lost, err)
			}
			_ = s.snapshotter.Remove(t.Context(), name)
		}
	}
}

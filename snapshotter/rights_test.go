package snapshotter_test

import (
	"strings"
	"testing"

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

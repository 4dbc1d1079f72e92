package snapshotter_test

import (
	"fmt"
	"reflect"
	"slices"
	"testing"

	"github.com/containerd/stargz-snapshotter/estargz"

	"github.com/sluice-snapshotter/sluice/fs"
)

// TestForms has two images with one layer, of which one names a TOC, and one does not. The layer is removed for want of room, and comes again for
// the other image: the snapshots of both go on with it, also after a restart without the registry.
func TestForms(t *testing.T) {
	for _, order := range []string{"plain after lazy", "lazy after plain"} {
		t.Run(order, func(t *testing.T) {
			eachMode(t, func(t *testing.T, mode fs.Mode) {
				r := newRegistry(t)
				withTOC := r.lazyLayer(t, topFiles)
				without := withTOC
				without.desc.Annotations, without.lazy = nil, false
				lazy, plain := r.image(t, "lazy", withTOC), r.image(t, "plain", r.plainLayer(t, bottomFiles), without)
				first, second := lazy, plain
				if order == "lazy after plain" {
					first, second = plain, lazy
				}
				s := newStand(t, mode, t.TempDir())
				ctx, sn := namespace(t, "test"), s.containerd()
				for _, img := range []*image{first, second} {
					if unpacked, err := img.pull(ctx, sn, img.ref); err != nil || len(unpacked) > 0 {
						t.Fatalf("%s: unpacked %v, %v", img.ref, unpacked, err)
					}
					if img == first {
						if _, err := s.fs.Remove(ctx, withTOC.desc.Digest); err != nil {
							t.Fatal(err)
						}
					}
				}
				var containers []string
				start := func(when string, images ...*image) {
					t.Helper()
					for _, img := range images {
						name := fmt.Sprint(when, " ", img.ref, " ", len(containers))
						containers = append(containers, name)
						want := map[*image]map[string]string{lazy: topFiles, plain: merged(bottomFiles, topFiles)}[img]
						got := run(t, ctx, s.containerd(), img, name)
						delete(got, estargz.TOCTarName) // a lazy layer shows neither
						delete(got, estargz.NoPrefetchLandmark)
						if !reflect.DeepEqual(got, want) {
							t.Errorf("%s sees %d files, want %d", name, len(got), len(want))
						}
					}
				}
				start("first", first, second)
				s.stop(t)
				r.down.Store(true)
				s.start(t)
				start("restarted", first, second)
				r.down.Store(false)

				// What comes again for an image is what that image names.
				for _, img := range []*image{plain, lazy, plain} {
					for _, name := range containers {
						if err := s.containerd().Remove(ctx, name); err != nil {
							t.Fatal(err)
						}
					}
					s.collect(t)
					containers = nil
					if _, err := s.fs.Remove(ctx, withTOC.desc.Digest); err != nil {
						t.Fatal(err)
					}
					start("again", img)
					want := map[*image]string{lazy: "estargz", plain: "gzip"}[img]
					if i := slices.IndexFunc(s.fs.Status(), func(l fs.Status) bool { return l.Digest == withTOC.desc.Digest }); s.fs.Status()[i].Format != want {
						t.Errorf("for %s it came as %+v", img.ref, s.fs.Status()[i])
					}
				}
			})
		})
	}
}

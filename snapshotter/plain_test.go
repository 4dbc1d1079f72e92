package snapshotter_test

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/containerd/containerd/v2/core/snapshots"
	"github.com/containerd/errdefs"

	"golang.org/x/sync/errgroup"

	"github.com/sluice-snapshotter/sluice/fs"
)

// TestPlainRestart checks that plain layers come back after a restart
// without the registry, and go with their last snapshot.
func TestPlainRestart(t *testing.T) {
	eachMode(t, func(t *testing.T, mode fs.Mode) {
		r := newRegistry(t)
		img := r.image(t, "app", r.plainLayer(t, bottomFiles), r.lazyLayer(t, middleFiles), r.plainLayer(t, topFiles))
		s := newStand(t, mode, t.TempDir())
		ctx := namespace(t, "test")
		if unpacked, err := img.pull(ctx, throughMetadata(s), "pull"); err != nil || len(unpacked) > 0 {
			t.Fatalf("unpacked %v, %v", unpacked, err)
		}
		want := merged(bottomFiles, middleFiles, topFiles)
		if got := run(t, ctx, throughMetadata(s), img, "before"); !reflect.DeepEqual(got, want) {
			t.Errorf("container sees %v", slices.Collect(maps.Keys(got)))
		}
		s.stop(t)
		r.down.Store(true)
		requests := r.requests.Load()
		s.start(t)
		if got := run(t, ctx, throughMetadata(s), img, "after"); !reflect.DeepEqual(got, want) {
			t.Errorf("after a restart, container sees %v", slices.Collect(maps.Keys(got)))
		}
		for _, l := range s.fs.Status() {
			if l.State != fs.Complete && l.Format == "gzip" {
				t.Errorf("status is %+v", l)
			}
		}
		if got := r.requests.Load(); got != requests {
			t.Errorf("%d requests", got-requests)
		}
		sn := throughMetadata(s)
		if err := errors.Join(sn.Remove(ctx, "before"), sn.Remove(ctx, "after"), img.remove(ctx, sn)); err != nil {
			t.Fatal(err)
		}
		s.collect(t)
		s.empty(t)
	})
}

// TestPlainClaims checks that an image cannot have its layer under a chain ID
// that is another's, whether it comes first or later.
func TestPlainClaims(t *testing.T) {
	eachMode(t, func(t *testing.T, mode fs.Mode) {
		r := newRegistry(t)
		base, good, evil := r.plainLayer(t, bottomFiles), r.plainLayer(t, topFiles), r.plainLayer(t, moreFiles)
		victim := r.image(t, "victim", base, good)
		claimed := evil
		claimed.diffID = good.diffID
		attacker := r.image(t, "attacker", base, claimed)
		bottomless := r.image(t, "bottomless", claimed)
		for name, order := range map[string][]*image{
			"first": {bottomless, attacker, victim}, "later": {victim, attacker, bottomless},
		} {
			t.Run(name, func(t *testing.T) {
				s := newStand(t, mode, t.TempDir())
				ctx, sn := namespace(t, "test"), throughMetadata(s)
				for i, img := range order {
					if img == victim {
						if unpacked, err := img.pull(ctx, sn, "victim"); err != nil || len(unpacked) > 0 {
							t.Fatalf("victim: unpacked %v, %v", unpacked, err)
						}
						continue
					}
					// The layer that lies is offered, as the unpacker does, to a namespace of its own.
					other := namespace(t, fmt.Sprint("ns", i))
					top := len(img.layers) - 1
					parent := ""
					if top > 0 {
						if _, err := sn.Prepare(other, "base", "", snapshots.WithLabels(img.labels(0))); !errdefs.IsAlreadyExists(err) {
							t.Fatal(err)
						}
						parent = img.chain[0]
					}
					mounts, err := sn.Prepare(other, "lie", parent, snapshots.WithLabels(img.labels(top)))
					taken := errdefs.IsAlreadyExists(err)
					if order[0] == victim && img == attacker { // the name stands for the victim's layer, which is what it gets
						if !taken {
							t.Errorf("the victim's layer: %v", err)
						}
					} else if taken || err != nil || len(mounts) != 1 {
						t.Errorf("got %v, %v, want a directory to unpack into", mounts, err)
					}
				}
				want := merged(bottomFiles, topFiles)
				if got := run(t, ctx, sn, victim, "container"); !reflect.DeepEqual(got, want) {
					t.Errorf("the victim sees %v", slices.Collect(maps.Keys(got)))
				}
			})
		}
	})
}

// TestPlainNames checks that plain layers are left to containerd where the
// names of snapshots are no chain IDs: there is nothing to check them against.
func TestPlainNames(t *testing.T) {
	needRoot(t)
	r := newRegistry(t)
	img := r.image(t, "app", r.plainLayer(t, bottomFiles), r.plainLayer(t, topFiles))
	s := newStand(t, fs.Auto, t.TempDir())
	ctx := t.Context()
	named := func(i int, name string) snapshots.Opt {
		labels := img.labels(i)
		labels[snapshots.LabelSnapshotRef] = name
		return snapshots.WithLabels(labels)
	}
	if mounts, err := s.snapshotter.Prepare(ctx, "extract-1", "", named(0, "my layer")); err != nil || len(mounts) != 1 {
		t.Errorf("got %v, %v", mounts, err)
	}
	if err := s.snapshotter.Commit(ctx, "my layer", "extract-1"); err != nil {
		t.Fatal(err)
	}
	if mounts, err := s.snapshotter.Prepare(ctx, "extract-2", "my layer", named(1, img.chain[1])); err != nil || len(mounts) != 1 {
		t.Errorf("on a parent with another name: got %v, %v", mounts, err)
	}
	if len(s.fs.Status()) != 0 {
		t.Errorf("layers: %+v", s.fs.Status())
	}
}

// TestPlainNamespaces pulls into two namespaces, one of which has the lowest
// layer from containerd: the parent of the others has another name there.
func TestPlainNamespaces(t *testing.T) {
	eachMode(t, func(t *testing.T, mode fs.Mode) {
		r := newRegistry(t)
		img := r.image(t, "app", r.foreignLayer(t, bottomFiles), r.plainLayer(t, middleFiles), r.plainLayer(t, topFiles))
		s := newStand(t, mode, t.TempDir())
		sn := throughMetadata(s)
		want := merged(bottomFiles, middleFiles, topFiles)
		for name, ctx := range map[string]context.Context{"one": namespace(t, "one"), "two": namespace(t, "two")} {
			if unpacked, err := img.pull(ctx, sn, name); err != nil || !slices.Equal(unpacked, []int{0}) {
				t.Fatalf("%s: unpacked %v, %v", name, unpacked, err)
			}
			if got := run(t, ctx, sn, img, "container"); !reflect.DeepEqual(got, want) {
				t.Errorf("%s: container sees %v", name, slices.Collect(maps.Keys(got)))
			}
		}
		if got := len(s.fs.Status()); got != 2 {
			t.Errorf("%d layers mounted, want 2", got)
		}
	})
}

// TestPlainDamaged checks that wrong bytes of a layer do not come further.
func TestPlainDamaged(t *testing.T) {
	needRoot(t)
	r := newRegistry(t)
	img := r.image(t, "app", r.plainLayer(t, bottomFiles))
	d := img.layers[0].desc.Digest.String()
	damaged := bytes.Clone(r.content[d])
	damaged[len(damaged)/2] ^= 1
	whole := r.content[d]
	r.content[d] = damaged
	s := newStand(t, fs.Auto, t.TempDir())
	mounts, err := s.snapshotter.Prepare(t.Context(), "extract-1", "", snapshots.WithLabels(img.labels(0)))
	if err != nil || len(mounts) != 1 {
		t.Errorf("got %v, %v, want a directory to unpack into", mounts, err)
	}
	if stored, err := s.store.List(); err != nil || len(stored) > 0 {
		t.Errorf("stored: %v, %v", stored, err)
	}
	r.content[d] = whole
	if _, err = s.snapshotter.Prepare(t.Context(), "extract-2", "", snapshots.WithLabels(img.labels(0))); !errdefs.IsAlreadyExists(err) {
		t.Errorf("the second time: %v", err)
	}
}

// TestPlainConcurrent pulls images that share layers, many times at once.
func TestPlainConcurrent(t *testing.T) {
	eachMode(t, func(t *testing.T, mode fs.Mode) {
		r := newRegistry(t)
		bottom, middle, top := r.plainLayer(t, bottomFiles), r.plainLayer(t, middleFiles), r.plainLayer(t, topFiles)
		images := []*image{r.image(t, "one", bottom, middle, top), r.image(t, "two", bottom, top), r.image(t, "three", middle, bottom, bottom)}
		s := newStand(t, mode, t.TempDir())
		sn := throughMetadata(s)
		var g errgroup.Group
		for i := range 9 {
			ctx := namespace(t, fmt.Sprint("ns", i%2))
			g.Go(func() error {
				unpacked, err := images[i%3].pull(ctx, sn, fmt.Sprint("pull", i))
				if err == nil && len(unpacked) > 0 {
					err = fmt.Errorf("unpacked %v", unpacked)
				}
				return err
			})
		}
		if err := g.Wait(); err != nil {
			t.Fatal(err)
		}
		if got := len(s.fs.Status()); got != 3 {
			t.Errorf("%d layers mounted, want 3", got)
		}
		if got := run(t, namespace(t, "ns0"), sn, images[0], "container"); !reflect.DeepEqual(got, merged(bottomFiles, middleFiles, topFiles)) {
			t.Errorf("container sees %v", slices.Collect(maps.Keys(got)))
		}
	})
}

// TestPlainImplied checks that a directory which a layer does not describe
// looks as it would if containerd had unpacked the layer.
func TestPlainImplied(t *testing.T) {
	dir := func(name string, mode int64, uid int) tar.Header {
		return tar.Header{Typeflag: tar.TypeDir, Name: name, Mode: mode, Uid: uid, ModTime: time.Unix(1e9, 0)}
	}
	file := tar.Header{Typeflag: tar.TypeReg, Name: "home/user/file", Mode: 0o644, Size: 4, ModTime: time.Unix(1e9, 0)}
	attributed := dir("home/user/", 0o755, 0)
	attributed.PAXRecords = map[string]string{"SCHILY.xattr.user.a": "b"}
	tests := map[string]struct {
		below    []tar.Header
		unpacked []int
	}{
		"nothing below":  {[]tar.Header{dir("etc/", 0o700, 0)}, nil},
		"the same":       {[]tar.Header{dir("home/", 0o755, 0), dir("home/user/", 0o755, 0)}, nil},
		"another owner":  {[]tar.Header{dir("home/", 0o755, 0), dir("home/user/", 0o755, 1000)}, []int{1}},
		"another mode":   {[]tar.Header{dir("home/", 0o1777, 0)}, []int{1}},
		"xattrs":         {[]tar.Header{attributed}, []int{1}},
		"behind symlink": {[]tar.Header{{Typeflag: tar.TypeSymlink, Name: "home", Linkname: "/"}, dir("user/", 0o700, 0)}, []int{1}},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			eachMode(t, func(t *testing.T, mode fs.Mode) {
				r := newRegistry(t)
				img := r.image(t, "app", r.plainTar(t, headersTar(t, test.below...)), r.plainTar(t, headersTar(t, file)))
				s := newStand(t, mode, t.TempDir())
				ctx, sn := namespace(t, "test"), throughMetadata(s)
				unpacked, err := img.pull(ctx, sn, "pull")
				if err != nil || !slices.Equal(unpacked, test.unpacked) {
					t.Errorf("unpacked %v, %v, want %v", unpacked, err, test.unpacked)
				}
				requests, other := r.requests.Load(), namespace(t, "other")
				if unpacked, err = img.pull(other, sn, "again"); err != nil || !slices.Equal(unpacked, test.unpacked) || r.requests.Load() != requests {
					t.Errorf("again: unpacked %v, %v, %d requests", unpacked, err, r.requests.Load()-requests)
				}
				if err := errors.Join(img.remove(ctx, sn), img.remove(other, sn)); err != nil {
					t.Fatal(err)
				}
				s.collect(t)
				s.empty(t)
			})
		})
	}
}

func headersTar(t *testing.T, headers ...tar.Header) []byte {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for _, h := range headers {
		if err := w.WriteHeader(&h); err != nil {
			t.Fatal(err)
		}
		if _, err := io.WriteString(w, strings.Repeat("x", int(h.Size))); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

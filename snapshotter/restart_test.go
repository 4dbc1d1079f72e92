package snapshotter_test

import (
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/containerd/containerd/v2/core/snapshots"
	"github.com/containerd/errdefs"

	"github.com/sluice-snapshotter/sluice/fs"
	"github.com/sluice-snapshotter/sluice/snapshotter"
)

// TestRestart checks that a new process mounts everything again without the
// registry, and that what it reads is there.
func TestRestart(t *testing.T) {
	eachMode(t, func(t *testing.T, mode fs.Mode) {
		r := newRegistry(t)
		img := r.image(t, "app", r.lazyLayer(t, bottomFiles), r.foreignLayer(t, middleFiles), r.lazyLayer(t, topFiles))
		s := newStand(t, mode, t.TempDir())
		ctx := namespace(t, "test")
		if _, err := img.pull(ctx, throughMetadata(s), "pull"); err != nil {
			t.Fatal(err)
		}
		want := run(t, ctx, throughMetadata(s), img, "container") // fetches all of it

		s.stop(t)
		r.down.Store(true)
		r.requests.Store(0)
		s.start(t)
		if got := len(s.fs.Status()); got != 2 {
			t.Errorf("%d layers mounted after the restart, want 2", got)
		}
		mounts, err := throughMetadata(s).Mounts(ctx, "container")
		if err != nil {
			t.Fatal(err)
		}
		if got := see(t, mounts); !reflect.DeepEqual(got, want) {
			t.Errorf("container sees %v", slices.Collect(maps.Keys(got)))
		}
		if n := r.requests.Load(); n != 0 {
			t.Errorf("%d requests to the registry, want none", n)
		}
	})
}

// TestLostLayer takes the files of a layer away between two processes.
func TestLostLayer(t *testing.T) {
	eachMode(t, func(t *testing.T, mode fs.Mode) {
		r := newRegistry(t)
		img := r.image(t, "app", r.lazyLayer(t, bottomFiles), r.lazyLayer(t, topFiles))
		s := newStand(t, mode, t.TempDir())
		ctx := namespace(t, "test")
		if _, err := img.pull(ctx, throughMetadata(s), "pull"); err != nil {
			t.Fatal(err)
		}
		want := run(t, ctx, throughMetadata(s), img, "container")

		s.stop(t)
		r.down.Store(true)
		r.requests.Store(0)
		if err := os.RemoveAll(filepath.Join(s.root, "layers")); err != nil {
			t.Fatal(err)
		}
		s.start(t)
		if n := r.requests.Load(); n != 0 {
			t.Errorf("%d requests to the registry by the restart, want none", n)
		}
		_, err := throughMetadata(s).Mounts(ctx, "container")
		if !errdefs.IsUnavailable(err) || !strings.Contains(err.Error(), img.ref) || !strings.Contains(err.Error(), img.layers[1].desc.Digest.String()) {
			t.Errorf("registry down: got %v, want Unavailable, with image and layer", err)
		}

		r.down.Store(false)
		mounts, err := throughMetadata(s).Mounts(ctx, "container")
		if err != nil {
			t.Fatal(err)
		}
		if got := see(t, mounts); !reflect.DeepEqual(got, want) {
			t.Errorf("container sees %v", slices.Collect(maps.Keys(got)))
		}
	})
}

// survive a restart.
func TestAbandonedLayer(t *testing.T) {
	needRoot(t)
	r := newRegistry(t)
	img := r.image(t, "app", r.lazyLayer(t, topFiles))
	s := newStand(t, fs.Auto, t.TempDir())
	err := s.fs.Mount(t.Context(), fs.Source{Ref: img.ref, Digest: img.layers[0].desc.Digest, Manifest: img.manifest})
	if err != nil {
		t.Fatal(err)
	}
	s.stop(t)
	s.start(t)
	s.empty(t)
}

// TestSharedLayerAfterRestart: a layer that images share goes by the same one of
// them in each process, the one that it came for first.
func TestSharedLayerAfterRestart(t *testing.T) {
	needRoot(t)
	r := newRegistry(t)
	shared := r.lazyLayer(t, moreFiles)
	var images []*image
	for i := range 8 { // with two snapshots each, so numbers of two digits are among them
		images = append(images, r.image(t, fmt.Sprintf("app%d", i), r.lazyLayer(t, map[string]string{"app": strconv.Itoa(i)}), shared))
	}
	// So that no other order that snapshots may come in begins with the same one.
	slices.SortFunc(images, func(a, b *image) int { return strings.Compare(b.top(), a.top()) })
	s := newStand(t, fs.Auto, t.TempDir())
	ctx, sn := namespace(t, "test"), throughMetadata(s)
	for _, img := range images {
		if unpacked, err := img.pull(ctx, sn, img.ref); err != nil || len(unpacked) > 0 {
			t.Fatalf("unpacked %v, %v", unpacked, err)
		}
	}
	for range 4 {
		for _, l := range s.fs.Status() {
			if l.Digest == shared.desc.Digest && l.Image != images[0].ref {
				t.Errorf("the shared layer goes by %s, want %s", l.Image, images[0].ref)
			}
		}
		s.stop(t)
		s.start(t)
	}
}

// TestSymlinkedRoot has all folders behind a symlink, which the kernel does not
// list mounts by.
func TestSymlinkedRoot(t *testing.T) {
	eachMode(t, func(t *testing.T, mode fs.Mode) {
		dir, link := t.TempDir(), filepath.Join(t.TempDir(), "link")
		if err := os.Symlink(dir, link); err != nil {
			t.Fatal(err)
		}
		r := newRegistry(t)
		img := r.image(t, "app", r.lazyLayer(t, bottomFiles), r.foreignLayer(t, middleFiles), r.lazyLayer(t, topFiles))
		s := newStand(t, mode, link)
		ctx, sn := namespace(t, "test"), s.containerd()
		if _, err := img.pull(ctx, sn, "pull"); err != nil {
			t.Fatal(err)
		}
		run(t, ctx, sn, img, "container")
		mounts, err := sn.Prepare(ctx, "user", img.top(), snapshots.WithLabels(inUserNamespace))
		if err != nil {
			t.Fatal(err)
		}
		owners(t, mounts, 100_000)

		s.stop(t)
		if left := mountsBelow(t, "/proc/self/mountinfo", dir); len(left) > 0 {
			t.Errorf("mounts left: %v", left)
		}
		s.start(t)
		s.goesAway(t, img, merged(bottomFiles, middleFiles, topFiles))
	})
}

// TestOpenRoot checks the roots that New refuses.
func TestOpenRoot(t *testing.T) {
	needRoot(t)
	s := newStand(t, fs.Auto, t.TempDir())
	open := func(root string) error {
		sn, err := snapshotter.New(t.Context(), snapshotter.Options{Root: root, FS: s.fs, Store: s.store})
		if err == nil {
			err = sn.Close()
		}
		return err
	}
	if err := open(filepath.Join(s.root, "snapshotter")); !errors.Is(err, snapshotter.ErrLocked) {
		t.Errorf("in use: got %v, want ErrLocked", err)
	}
	root := filepath.Join(t.TempDir(), "root")
	if err := open(root); err != nil {
		t.Errorf("new: %v", err)
	}
	if err := open(root); err != nil {
		t.Errorf("again: %v", err)
	}
	for content, want := range map[string]error{"2\n": snapshotter.ErrNewerFormat, "one": nil} {
		if err := os.WriteFile(filepath.Join(root, "format"), []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		err := open(root)
		if err == nil || want != nil && !errors.Is(err, want) || !strings.Contains(err.Error(), root) {
			t.Errorf("format %q: got %v, want %v", content, err, want)
		}
	}
}

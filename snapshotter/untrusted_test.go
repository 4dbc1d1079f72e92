package snapshotter_test

import (
	"errors"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	"github.com/containerd/containerd/v2/core/snapshots"
	"github.com/containerd/errdefs"

	"github.com/sluice-snapshotter/sluice/fs"
)

// untrustedStand is one that does not trust guests' images.
func untrustedStand(t *testing.T) *stand {
	t.Helper()
	needRoot(t)
	return openStand(t, &stand{root: t.TempDir(), mode: fs.EROFS, untrusted: func(ref string) bool { return strings.Contains(ref, "/guests/") }})
}

// TestUntrusted: the layers of an image that is not trusted are there when its pull returns, plain ones among them, and after a restart.
func TestUntrusted(t *testing.T) {
	s := untrustedStand(t)
	r := newRegistry(t)
	img := r.image(t, "guests/app", r.lazyLayer(t, bottomFiles), r.plainLayer(t, middleFiles), r.lazyLayer(t, topFiles))
	ctx, sn := namespace(t, "test"), s.containerd()
	if unpacked, err := img.pull(ctx, sn, "pull"); err != nil || len(unpacked) > 0 {
		t.Fatalf("unpacked %v, %v", unpacked, err)
	}
	for _, l := range s.fs.Status() {
		if l.State != fs.Complete {
			t.Errorf("%+v", l)
		}
	}
	r.down.Store(true)
	s.stop(t)
	s.start(t)
	if got := len(s.fs.Status()); got != 3 {
		t.Errorf("%d layers after a restart", got)
	}
	want := merged(bottomFiles, middleFiles, topFiles)
	if got := run(t, ctx, s.containerd(), img, "container"); !reflect.DeepEqual(got, want) {
		t.Errorf("sees %d files, want %d", len(got), len(want))
	}
}

// TestUntrustedWrong: the pull of an image that is not trusted fails when it claims another one's layer, each time, and leaves nothing. The other
// one is pulled.
func TestUntrustedWrong(t *testing.T) {
	s := untrustedStand(t)
	r := newRegistry(t)
	genuine, evil := r.lazyLayer(t, bottomFiles), r.lazyLayer(t, middleFiles)
	crafted := evil
	crafted.diffID = genuine.diffID
	img, bad := r.image(t, "library/app", genuine, r.lazyLayer(t, topFiles)), r.image(t, "guests/app", crafted, r.lazyLayer(t, topFiles))
	ctx, sn := namespace(t, "test"), s.containerd()
	for _, pull := range []string{"first", "second"} {
		unpacked, err := bad.pull(ctx, sn, pull)
		if !errdefs.IsFailedPrecondition(err) || !strings.Contains(err.Error(), "not trusted") || len(unpacked) > 0 {
			t.Errorf("%s pull: unpacked %v, %v", pull, unpacked, err)
		}
		if names := s.names(t); len(names) > 0 {
			t.Errorf("%s pull: left snapshots %q", pull, names)
		}
		if left := s.fs.Status(); len(left) > 0 {
			t.Errorf("%s pull: left %+v", pull, left)
		}
		if _, err := s.store.Get(evil.desc.Digest); err == nil {
			t.Errorf("%s pull: the layer is in the store", pull)
		}
		s.stop(t)
		s.start(t)
		sn = s.containerd()
	}
	if _, err := img.pull(ctx, sn, "genuine"); err != nil {
		t.Fatal(err)
	}
	want := merged(bottomFiles, topFiles)
	if got := run(t, ctx, sn, img, "container"); !reflect.DeepEqual(got, want) {
		t.Errorf("sees %d files, want %d", len(got), len(want))
	}
}

// TestUntrustedShares: an image that is not trusted and claims a layer which another one has mounted unproven waits for the proof. What it claims
// wrongly, it does not get, and the other image stays as it is.
func TestUntrustedShares(t *testing.T) {
	s := untrustedStand(t)
	r := newRegistry(t)
	shared := r.lazyLayer(t, bottomFiles)
	wrong := shared
	wrong.diffID = r.lazyLayer(t, middleFiles).diffID
	img, same, bad := r.image(t, "library/app", shared), r.image(t, "guests/same", shared), r.image(t, "guests/bad", wrong)
	ctx, sn := namespace(t, "test"), s.containerd()
	if _, err := img.pull(ctx, sn, "trusted"); err != nil {
		t.Fatal(err)
	}
	if st := s.fs.Status()[0]; st.State != fs.Lazy {
		t.Fatalf("%+v", st)
	}
	if unpacked, err := bad.pull(ctx, sn, "bad"); !errdefs.IsFailedPrecondition(err) || len(unpacked) > 0 {
		t.Errorf("unpacked %v, %v", unpacked, err)
	}
	if got := run(t, ctx, sn, img, "container"); !reflect.DeepEqual(got, bottomFiles) {
		t.Errorf("sees %d files, want %d", len(got), len(bottomFiles))
	}
	if unpacked, err := same.pull(namespace(t, "guests"), sn, "same"); err != nil || len(unpacked) > 0 {
		t.Errorf("unpacked %v, %v", unpacked, err)
	}
}

// TestUntrustedAdopts: an image that is not trusted, of another namespace, names the same layer as one that is, which is there unproven.
func TestUntrustedAdopts(t *testing.T) {
	s := untrustedStand(t)
	r := newRegistry(t)
	shared := r.lazyLayer(t, bottomFiles)
	img, same := r.image(t, "library/app", shared), r.image(t, "guests/same", shared)
	sn := s.containerd()
	if _, err := img.pull(namespace(t, "test"), sn, "trusted"); err != nil {
		t.Fatal(err)
	}
	r.down.Store(true)
	_, err := s.snapshotter.Prepare(t.Context(), "down", "", snapshots.WithLabels(same.labels(0)))
	if err != nil {
		t.Fatalf("containerd is to unpack what cannot be proven now: %v", err)
	}
	if err := s.snapshotter.Remove(t.Context(), "down"); err != nil {
		t.Fatal(err)
	}
	r.down.Store(false)
	_, err = s.snapshotter.Prepare(t.Context(), "up", "", snapshots.WithLabels(same.labels(0)))
	if !errdefs.IsAlreadyExists(err) {
		t.Error(err)
	}
	if st := s.fs.Status()[0]; st.State != fs.Complete {
		t.Errorf("adopted unproven: %+v", st)
	}
}

// TestUntrustedAdoptsOtherBlob: an image that is not trusted names the diffID of a layer that is there unproven, and is another one: it is not given
// that for the blob that it has, nor when its repository has the other one too.
func TestUntrustedAdoptsOtherBlob(t *testing.T) {
	s := untrustedStand(t)
	r := newRegistry(t)
	genuine, crafted := r.lazyLayer(t, topFiles), r.lazyLayer(t, bottomFiles)
	crafted.diffID = genuine.diffID
	img, good := r.image(t, "library/app", crafted), r.image(t, "guests/app", genuine)
	sn := s.containerd()
	if unpacked, err := img.pull(namespace(t, "one"), sn, "1"); err != nil || len(unpacked) > 0 {
		t.Fatalf("unpacked %v, %v", unpacked, err)
	}
	crafts := r.content[crafted.desc.Digest.String()]
	delete(r.content, crafted.desc.Digest.String())
	ctx := namespace(t, "two")
	if unpacked, err := good.pull(ctx, sn, "2"); err == nil && len(unpacked) != 1 {
		t.Errorf("unpacked %v, want the layer", unpacked)
	} else if err == nil {
		if got := run(t, ctx, sn, good, "container"); !reflect.DeepEqual(got, topFiles) {
			t.Errorf("sees %d files, want %d", len(got), len(topFiles))
		}
	}
	r.content[crafted.desc.Digest.String()] = crafts
	if _, err := s.snapshotter.Prepare(t.Context(), "3", "", snapshots.WithLabels(good.labels(0))); errdefs.IsAlreadyExists(err) {
		t.Errorf("given unproven, or wrong: %v", err)
	}
}

// TestUntrustedLater: an image is there, unproven, when it is listed as untrusted. It is not mounted after the restart, nor does that wait; a
// container has it once it is proven.
func TestUntrustedLater(t *testing.T) {
	s := untrustedStand(t)
	distrust := s.untrusted
	s.stop(t)
	s.untrusted = nil
	s.start(t)
	r := newRegistry(t)
	img := r.image(t, "guests/app", r.lazyLayer(t, bottomFiles))
	ctx := namespace(t, "test")
	if _, err := img.pull(ctx, s.containerd(), "pull"); err != nil {
		t.Fatal(err)
	}
	hung := make(chan struct{})
	r.hung.Store(&hung)
	s.stop(t)
	s.untrusted = distrust
	s.start(t)
	r.down.Store(true)
	close(hung)
	if s.fs.Mounted(img.layers[0].desc.Digest) {
		t.Error("it is mounted unproven")
	}
	if _, err := s.containerd().Prepare(ctx, "early", img.top()); !errors.Is(err, errdefs.ErrUnavailable) {
		t.Errorf("a container without the proof: %v", err)
	}
	r.down.Store(false)
	if got := run(t, ctx, s.containerd(), img, "container"); !reflect.DeepEqual(got, bottomFiles) {
		t.Errorf("sees %d files, want %d", len(got), len(bottomFiles))
	}
	if n := r.gaveUp.Load(); n > 0 {
		t.Errorf("the start has waited for %d requests in vain", n)
	}
}

// TestUntrustedLost: the store has lost what was proven, and a trusted image has the layer again, unproven, when a container of the other one
// starts.
func TestUntrustedLost(t *testing.T) {
	s := untrustedStand(t)
	r := newRegistry(t)
	shared := r.lazyLayer(t, bottomFiles)
	img, guest := r.image(t, "library/app", shared), r.image(t, "guests/app", r.lazyLayer(t, middleFiles), shared)
	ctx := namespace(t, "test")
	for _, img := range []*image{guest, img} {
		if _, err := img.pull(ctx, s.containerd(), img.ref); err != nil {
			t.Fatal(err)
		}
	}
	s.stop(t)
	if err := os.RemoveAll(filepath.Join(s.root, "layers/sha256")); err != nil {
		t.Fatal(err)
	}
	s.start(t)
	if _, err := s.containerd().Prepare(ctx, "trusted", img.top()); err != nil {
		t.Fatal(err)
	}
	if st := s.fs.Status(); len(st) != 1 || st[0].State != fs.Lazy {
		t.Fatalf("%+v", st)
	}
	if _, err := s.containerd().Prepare(ctx, "guest", guest.top()); err != nil {
		t.Fatal(err)
	}
	for _, l := range s.fs.Status() {
		if l.State != fs.Complete {
			t.Errorf("a container has it unproven: %+v", l)
		}
	}
}

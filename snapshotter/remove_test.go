package snapshotter_test

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"runtime"
	"slices"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/sluice-snapshotter/sluice/cache"
	"github.com/sluice-snapshotter/sluice/fs"
)

// What a pull that came to nothing left in the store goes, but not what may be waiting for its turn in one under way.
func TestCleanupOfAbortedPulls(t *testing.T) {
	s := newStand(t, fs.FUSE, t.TempDir())
	left, ahead := digest.FromString("left"), digest.FromString("ahead")
	for _, d := range []digest.Digest{left, ahead} {
		l, err := s.store.Create(d, cache.Info{Format: "estargz"}, func(*os.File, func(cache.Chunk) error) error { return nil })
		if err != nil {
			t.Fatal(err)
		}
		if err := l.Close(); err != nil {
			t.Fatal(err)
		}
	}
	hour := time.Now().Add(-time.Hour)
	record := filepath.Join(s.root, "layers", left.Algorithm().String(), left.Encoded(), "layer.json")
	if err := os.Chtimes(record, hour, hour); err != nil {
		t.Fatal(err)
	}
	if err := s.snapshotter.Cleanup(t.Context()); err != nil {
		t.Fatal(err)
	}
	got, err := s.store.List()
	if err != nil {
		t.Fatal(err)
	}
	if !slices.Equal(got, []digest.Digest{ahead}) {
		t.Errorf("the store has %v, want %v only", got, ahead)
	}
}

// TestRemoveDuringPull: a layer that is on its way into a snapshot is not removed; it is afterwards, and its snapshot stays.
func TestRemoveDuringPull(t *testing.T) {
	needRoot(t)
	r := newRegistry(t)
	img := r.image(t, "app", r.lazyLayer(t, topFiles))
	s := newStand(t, fs.FUSE, t.TempDir())
	hung := make(chan struct{})
	r.hung.Store(&hung)
	pulled := make(chan error, 1)
	before := r.requests.Load()
	ctx, d := namespace(t, "test"), img.layers[0].desc.Digest
	go func() {
		unpacked, err := img.pull(ctx, s.containerd(), "pull")
		if err == nil && len(unpacked) > 0 {
			err = fmt.Errorf("unpacked %v", unpacked)
		}
		pulled <- err
	}()
	for r.requests.Load() == before {
		runtime.Gosched()
	}
	removed := make(chan error, 1)
	go func() { removed <- s.snapshotter.RemoveLayer(ctx, d) }()
	select {
	case err := <-removed:
		if !errors.Is(err, fs.ErrInUse) {
			t.Errorf("during the pull: %v", err)
		}
	case <-time.After(10 * time.Second):
		t.Error("removing waits for the pull")
	}
	close(hung)
	if err := <-pulled; err != nil {
		t.Fatal(err)
	}
	if err := s.snapshotter.PruneLayer(ctx, d); !errors.Is(err, fs.ErrInUse) {
		t.Errorf("pruned after the pull: %v", err)
	}
	if err := s.snapshotter.RemoveLayer(ctx, d); err != nil {
		t.Error(err)
	}
	if got := run(t, ctx, s.containerd(), img, "container"); !reflect.DeepEqual(got, topFiles) {
		t.Errorf("a container sees %v", got)
	}
}

package snapshotter_test

import (
	"os"
	"path/filepath"
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

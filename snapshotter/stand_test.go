package snapshotter_test

import (
	"context"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/containerd/containerd/v2/core/metadata"
	"github.com/containerd/containerd/v2/core/snapshots"
	"github.com/containerd/containerd/v2/pkg/namespaces"
	bolt "go.etcd.io/bbolt"

	"github.com/sluice-snapshotter/sluice/cache"
	"github.com/sluice-snapshotter/sluice/fs"
	"github.com/sluice-snapshotter/sluice/fs/remote"
	"github.com/sluice-snapshotter/sluice/snapshotter"
)

func needRoot(t *testing.T) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("mounts need root")
	}
}

// eachMode runs a test with layers mounted in each way.
func eachMode(t *testing.T, test func(t *testing.T, mode fs.Mode)) {
	needRoot(t)
	for _, mode := range []fs.Mode{fs.Auto, fs.FUSE} {
		t.Run(string(mode), func(t *testing.T) { test(t, mode) })
	}
}

// stand is a snapshotter on real parts, below containerd's own metadata store,
// which is what gives it namespaces and garbage collection.
type stand struct {
	root        string
	mode        fs.Mode
	volatile    bool
	store       *cache.Store
	fs          *fs.FS
	snapshotter *snapshotter.Snapshotter
	db          *metadata.DB
	bolt        *bolt.DB
}

// newStand starts one below root, which it leaves to the caller to remove.
func newStand(t *testing.T, mode fs.Mode, root string) *stand {
	t.Helper()
	s := &stand{root: root, mode: mode}
	if err := os.Chmod(root, 0o711); err != nil {
		t.Fatal(err)
	}
	s.start(t)
	t.Cleanup(func() { s.stop(t) })
	return s
}

func (s *stand) start(t *testing.T) {
	t.Helper()
	var err error
	if s.store, err = cache.Open(s.root); err != nil {
		t.Fatal(err)
	}
	s.fs, err = fs.New(t.Context(), fs.Options{
		StateDir:        filepath.Join(s.root, "state"),
		ProbeDir:        s.root,
		Store:           s.store,
		Registry:        remote.New(remote.Options{MaxAttempts: 1, Backoff: remote.Backoff{Min: time.Millisecond, Max: time.Millisecond}}),
		Mode:            s.mode,
		PrefetchTimeout: 100 * time.Millisecond,
	})
	if err != nil {
		t.Fatal(err)
	}
	s.snapshotter, err = snapshotter.New(t.Context(), snapshotter.Options{
		Root: filepath.Join(s.root, "snapshotter"), FS: s.fs, Store: s.store, Volatile: s.volatile,
	})
	if err != nil {
		t.Fatal(err)
	}
	if s.bolt, err = bolt.Open(filepath.Join(s.root, "containerd.db"), 0o600, nil); err != nil {
		t.Fatal(err)
	}
	s.db = metadata.NewDB(s.bolt, nil, map[string]snapshots.Snapshotter{"sluice": s.snapshotter})
	if err := s.db.Init(t.Context()); err != nil {
		t.Fatal(err)
	}
}

func (s *stand) stop(t *testing.T) {
	t.Helper()
	for _, c := range []func() error{s.snapshotter.Close, s.fs.Close, s.store.Close, s.bolt.Close} {
		if err := c(); err != nil {
			t.Error(err)
		}
	}
}

// containerd returns the snapshotter as a client of containerd sees it.
func (s *stand) containerd() snapshots.Snapshotter { return s.db.Snapshotter("sluice") }

// collect runs containerd's garbage collection.
func (s *stand) collect(t *testing.T) {
	t.Helper()
	if _, err := s.db.GarbageCollect(t.Context()); err != nil {
		t.Fatal(err)
	}
}

// names lists the snapshots of the backend.
func (s *stand) names(t *testing.T) (names []string) {
	t.Helper()
	err := s.snapshotter.Walk(t.Context(), func(_ context.Context, info snapshots.Info) error {
		names = append(names, info.Name)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return names
}

func namespace(t *testing.T, name string) context.Context {
	return namespaces.WithNamespace(t.Context(), name)
}

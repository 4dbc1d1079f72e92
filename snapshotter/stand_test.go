package snapshotter_test

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/containerd/containerd/v2/core/metadata"
	"github.com/containerd/containerd/v2/core/snapshots"
	"github.com/containerd/containerd/v2/pkg/namespaces"
	bolt "go.etcd.io/bbolt"

	"github.com/sluice-snapshotter/sluice/cache"
	"github.com/sluice-snapshotter/sluice/fs"
	fslayer "github.com/sluice-snapshotter/sluice/fs/layer"
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

// eachKind runs a test with each kind of mount, those of complete layers too, on a stand that it opens.
func eachKind(t *testing.T, test func(t *testing.T, s *stand, kind string)) {
	needRoot(t)
	for _, c := range []struct {
		name string
		mode fs.Mode
		full bool
		kind string // as fs.Status names it
	}{
		{"lazy", fs.EROFS, false, "erofs-fuse"}, {"native", fs.EROFS, true, "erofs"},
		{"lazy loop", fs.Loop, false, "erofs-fuse"}, {"native loop", fs.Loop, true, "erofs"},
		{"tree", fs.FUSE, false, "fuse"},
	} {
		t.Run(c.name, func(t *testing.T) {
			test(t, &stand{root: t.TempDir(), mode: c.mode, background: c.full}, c.kind)
		})
	}
}

// stand is a snapshotter on real parts, below containerd's own metadata store,
// which is what gives it namespaces and garbage collection.
type stand struct {
	root        string
	state       string // "": a folder in root
	mode        fs.Mode
	volatile    bool
	background  bool // layers become complete by themselves
	untrusted   func(ref string) bool
	store       *cache.Store
	fs          *fs.FS
	snapshotter *snapshotter.Snapshotter
	db          *metadata.DB
	bolt        *bolt.DB
}

// newStand starts one below root, which it leaves to the caller to remove.
func newStand(t *testing.T, mode fs.Mode, root string) *stand {
	t.Helper()
	return openStand(t, &stand{root: root, mode: mode})
}

// openStand starts one of which root and settings are filled in.
func openStand(t *testing.T, s *stand) *stand {
	t.Helper()
	if err := os.Chmod(s.root, 0o711); err != nil {
		t.Fatal(err)
	}
	s.start(t)
	t.Cleanup(func() { s.stop(t) })
	return s
}

func (s *stand) start(t *testing.T) {
	t.Helper()
	var err error
	if s.state == "" {
		s.state = filepath.Join(s.root, "state")
	}
	if s.store, err = cache.Open(s.root); err != nil {
		t.Fatal(err)
	}
	s.fs, err = fs.New(t.Context(), fs.Options{
		StateDir:        s.state,
		ProbeDir:        s.root,
		Store:           s.store,
		Scheduler:       fslayer.NewScheduler(fslayer.SchedulerOptions{TailMemory: -1}), // small layers too are lazy at first
		Registry:        remote.New(remote.Options{MaxAttempts: 1, Backoff: remote.Backoff{Min: time.Millisecond, Max: time.Millisecond}}),
		Mode:            s.mode,
		Background:      s.background,
		Untrusted:       s.untrusted,
		PrefetchTimeout: 100 * time.Millisecond,
	})
	if err != nil {
		err = errors.Join(err, s.store.Close())
		if strings.Contains(err.Error(), "mode "+string(s.mode)+": ") { // the kernel lacks it
			t.Skip(err)
		}
		t.Fatal(err)
	}
	s.snapshotter, err = snapshotter.New(t.Context(), snapshotter.Options{
		Root: filepath.Join(s.root, "snapshotter"), FS: s.fs, Store: s.store, Volatile: s.volatile,
	})
	if err != nil {
		t.Fatal(err)
	}
	s.fs.Relieve()
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

// until waits until containers that start from now on get this kind of mount of all layers.
func (s *stand) until(t *testing.T, kind string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for slices.ContainsFunc(s.fs.Status(), func(l fs.Status) bool { return l.Mount() != kind }) {
		select {
		case <-tick.C:
		case <-ctx.Done():
			t.Fatalf("not %s after a minute: %+v", kind, s.fs.Status())
		}
	}
}

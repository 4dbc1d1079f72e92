package snapshotter_test

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/containerd/containerd/v2/core/mount"
	"github.com/containerd/containerd/v2/core/snapshots"
	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"

	"github.com/sluice-snapshotter/sluice/cache"
	"github.com/sluice-snapshotter/sluice/fs"
	"github.com/sluice-snapshotter/sluice/snapshotter"
)

// smallDisk is an ext4 of 48 MiB.
func smallDisk(t *testing.T) string {
	t.Helper()
	needRoot(t)
	image, dir := filepath.Join(t.TempDir(), "image"), t.TempDir()
	for _, c := range [][]string{
		{"truncate", "-s", "48M", image}, {"mkfs.ext4", "-q", "-m", "0", "-b", "4096", image}, {"mount", "-o", "loop", image, dir},
	} {
		if out, err := exec.Command(c[0], c[1:]...).CombinedOutput(); err != nil {
			t.Skipf("%v: %v %s", c, err, out)
		}
	}
	t.Cleanup(func() {
		if err := unix.Unmount(dir, unix.MNT_DETACH); err != nil {
			t.Error(err)
		}
	})
	return dir
}

// fillDisk leaves no room for a file, nor for a directory.
func fillDisk(t *testing.T, dir string) {
	t.Helper()
	for i, full := 0, 0; full < 3; i++ {
		err := os.WriteFile(filepath.Join(dir, fmt.Sprint("filler", i)), make([]byte, 1<<20>>(full*10)), 0o600)
		unix.Sync() // what is set aside for a file that is open is room again
		if err != nil {
			full++
		}
	}
	for i := 0; ; i++ {
		if err := os.Mkdir(filepath.Join(dir, fmt.Sprint("folder", i)), 0o700); errors.Is(err, unix.ENOSPC) {
			return
		} else if err != nil {
			t.Fatal(err)
		}
	}
}

// TestFullDisk: what is removed gives room on a disk that has none.
func TestFullDisk(t *testing.T) {
	disk := smallDisk(t)
	root := filepath.Join(disk, "root")
	if err := os.Mkdir(root, 0o711); err != nil {
		t.Fatal(err)
	}
	r := newRegistry(t)
	img := r.image(t, "app", r.lazyLayer(t, bottomFiles), r.lazyLayer(t, topFiles))
	s := newStand(t, fs.FUSE, root)
	ctx := t.Context()
	if _, err := img.pull(namespace(t, "test"), s.containerd(), "pull"); err != nil {
		t.Fatal(err)
	}
	chain := s.names(t)
	if _, err := s.snapshotter.Prepare(ctx, "container", s.top(t)); err != nil {
		t.Fatal(err)
	}
	fillDisk(t, disk)
	if err := s.snapshotter.Remove(ctx, "container"); err != nil {
		t.Fatal(err)
	}
	for len(chain) > 0 {
		top := s.top(t)
		if err := s.snapshotter.Remove(ctx, top); err != nil {
			t.Fatal(err)
		}
		chain = s.names(t)
	}
	if err := s.snapshotter.Cleanup(ctx); err != nil {
		t.Error(err)
	}
	if left, err := os.ReadDir(filepath.Join(root, "snapshotter", "snapshots")); err != nil || len(left) > 0 {
		t.Errorf("left of snapshots: %v, %v", left, err)
	}
	if left, err := s.store.List(); err != nil || len(left) > 0 {
		t.Errorf("left in the store: %v, %v", left, err)
	}
}

// TestPullOnFullDisk: a pull has room made for its layers, and where there is none it is told so, and leaves nothing.
func TestPullOnFullDisk(t *testing.T) {
	for _, lazy := range []bool{true, false} {
		t.Run(fmt.Sprint("lazy ", lazy), func(t *testing.T) {
			disk := smallDisk(t)
			root, again := filepath.Join(disk, "root"), filepath.Join(disk, "again")
			if err := errors.Join(os.Mkdir(root, 0o711), os.Mkdir(again, 0o700)); err != nil {
				t.Fatal(err)
			}
			noise := make([]byte, 5<<20)
			_, _ = rand.NewChaCha8([32]byte{}).Read(noise)
			r := newRegistry(t)
			layerOf := r.plainLayer
			if lazy {
				layerOf = r.lazyLayer
			}
			old := r.image(t, "old", r.lazyLayer(t, map[string]string{"noise": string(noise)}))
			fresh, another := r.image(t, "new", layerOf(t, topFiles)), r.image(t, "another", layerOf(t, moreFiles))
			s := openStand(t, &stand{root: root, state: t.TempDir(), mode: fs.FUSE})
			s.store.SetQuota(cache.Quota{}, s.fs.MakeRoom)
			ctx, sn := namespace(t, "test"), s.containerd()
			if _, err := old.pull(ctx, sn, "old"); err != nil {
				t.Fatal(err)
			}
			run(t, ctx, sn, old, "container")
			fillDisk(t, disk)
			if unpacked, err := fresh.pull(ctx, sn, "new"); err != nil || len(unpacked) > 0 {
				t.Fatalf("unpacked %v, %v", unpacked, err)
			}
			fillDisk(t, again)
			before := s.names(t)
			_, err := s.snapshotter.Prepare(t.Context(), "another", "", snapshots.WithLabels(another.labels(0)))
			if !errdefs.IsResourceExhausted(err) || !strings.Contains(err.Error(), "disk is full") {
				t.Errorf("without room: %v", err)
			}
			if _, err := s.store.Get(another.layers[0].desc.Digest); !errors.Is(err, os.ErrNotExist) {
				t.Errorf("the store has it: %v", err)
			}
			if after := s.names(t); !slices.Equal(after, before) {
				t.Errorf("snapshots are %q, were %q", after, before)
			}
		})
	}
}

// TestRestartOnFullDisk: a node starts again, serves what it has, and makes room.
func TestRestartOnFullDisk(t *testing.T) {
	for _, volatile := range []bool{false, true} {
		t.Run(fmt.Sprint("volatile ", volatile), func(t *testing.T) { testRestartOnFullDisk(t, volatile) })
	}
}

func testRestartOnFullDisk(t *testing.T, volatile bool) {
	disk := smallDisk(t)
	root := filepath.Join(disk, "root")
	if err := os.Mkdir(root, 0o711); err != nil {
		t.Fatal(err)
	}
	r := newRegistry(t)
	img := r.image(t, "app", r.lazyLayer(t, bottomFiles), r.lazyLayer(t, topFiles))
	s := openStand(t, &stand{root: root, state: t.TempDir(), mode: fs.Auto, volatile: volatile})
	if _, err := img.pull(namespace(t, "test"), s.containerd(), "pull"); err != nil {
		t.Fatal(err)
	}
	parent := s.top(t)
	before, err := s.snapshotter.Prepare(t.Context(), "container", parent)
	if err != nil {
		t.Fatal(err)
	}
	s.stop(t)
	fillDisk(t, disk)
	s.start(t)
	if after, err := s.snapshotter.Prepare(t.Context(), "another", parent); !errors.Is(err, unix.ENOSPC) {
		t.Errorf("another container: %v, %v", after, err)
	}
	after, err := s.snapshotter.Mounts(t.Context(), "container")
	if err != nil {
		t.Fatal(err)
	}
	if got, want := withoutPaths(after), withoutPaths(before); !slices.Equal(got, want) {
		t.Errorf("options %v, before the restart %v", got, want)
	}
	dir := t.TempDir()
	if err := mount.All(after, dir); err != nil {
		t.Fatal(err)
	}
	if err := mount.UnmountAll(dir, 0); err != nil {
		t.Error(err)
	}
	if err := errors.Join(s.snapshotter.Remove(t.Context(), "container"), s.snapshotter.Cleanup(t.Context())); err != nil {
		t.Error(err)
	}
	if left, err := filepath.Glob(filepath.Join(root, "snapshotter", "*probe*")); err != nil || len(left) > 0 {
		t.Errorf("left: %v, %v", left, err)
	}
}

// withoutPaths are the options of an overlay that do not name folders.
func withoutPaths(mounts []mount.Mount) (options []string) {
	for _, o := range mounts[0].Options {
		if !strings.Contains(o, "/") {
			options = append(options, o)
		}
	}
	return options
}

// TestCleanupGoesOn: what cannot be discarded is deleted where it is, and what cannot be deleted keeps nothing else.
func TestCleanupGoesOn(t *testing.T) {
	needRoot(t)
	s := newStand(t, fs.FUSE, t.TempDir())
	dir := filepath.Join(s.root, "snapshotter", "snapshots")
	long, stuck := strings.Repeat("7", 255), "8" // there is no room for a longer name
	for _, name := range []string{"1", long, stuck, "9"} {
		if err := os.MkdirAll(filepath.Join(dir, name, "fs"), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	immutable(t, filepath.Join(dir, stuck), "+i")
	err := s.snapshotter.Cleanup(t.Context())
	immutable(t, filepath.Join(dir, stuck), "-i")
	if !errors.Is(err, unix.EPERM) {
		t.Errorf("cleanup: %v", err)
	}
	if left, err := os.ReadDir(dir); err != nil || len(left) != 1 || left[0].Name() != stuck {
		t.Errorf("left: %v, %v", left, err)
	}
	if err := s.snapshotter.Cleanup(t.Context()); err != nil {
		t.Error(err)
	}
	if left, err := os.ReadDir(dir); err != nil || len(left) > 0 {
		t.Errorf("left by the next one: %v, %v", left, err)
	}
}

func immutable(t *testing.T, dir, flag string) {
	t.Helper()
	if out, err := exec.Command("chattr", flag, dir).CombinedOutput(); err != nil {
		t.Skipf("chattr: %v %s", err, out)
	}
}

// TestFirstStartOnFullDisk leaves a file that is empty, at worst, and no reason to refuse the next start.
func TestFirstStartOnFullDisk(t *testing.T) {
	disk := smallDisk(t)
	s := newStand(t, fs.FUSE, t.TempDir())
	root := filepath.Join(disk, "root")
	open := func() error {
		sn, err := snapshotter.New(t.Context(), snapshotter.Options{Root: root, FS: s.fs, Store: s.store})
		if err != nil {
			return err
		}
		return sn.Close()
	}
	if err := os.MkdirAll(filepath.Join(root, "snapshots"), 0o700); err != nil {
		t.Fatal(err)
	}
	fillDisk(t, disk)
	if err := open(); !errors.Is(err, unix.ENOSPC) {
		t.Errorf("on a full disk: %v", err)
	}
	if left, err := os.ReadDir(root); err != nil || len(left) != 1 {
		t.Errorf("left: %v, %v", left, err)
	}
	if err := os.Remove(filepath.Join(disk, "filler0")); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(root, "format"), nil, 0o600); err != nil { // what an earlier version left
		t.Fatal(err)
	}
	if err := open(); err != nil {
		t.Errorf("with room: %v", err)
	}
}

package snapshotter_test

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"reflect"
	"runtime"
	"strings"
	"syscall"
	"testing"

	"github.com/containerd/containerd/v2/core/mount"
	"github.com/containerd/containerd/v2/core/snapshots"
	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"

	"github.com/sluice-snapshotter/sluice/fs"
)

// A mount with many layers has a thread that stays in the folder of mapped
// layers, until it ends with its goroutine, and the folder stays mounted for as
// long (mountAt in core/mount/mount_linux.go). A process's first thread never
// ends, so it is kept for the main goroutine.
func init() { runtime.LockOSThread() }

// inUserNamespace is what containerd puts on the snapshot of a container.
var inUserNamespace = map[string]string{
	snapshots.LabelSnapshotUIDMapping: "0:100000:65536",
	snapshots.LabelSnapshotGIDMapping: "0:100000:65536",
	"containerd.io/gc.root":           "test",
}

// owners checks that all that is mounted belongs to a user of the host.
func owners(t *testing.T, mounts []mount.Mount, id uint32) {
	t.Helper()
	err := mount.WithTempMount(t.Context(), cloned(mounts), func(root string) error {
		return filepath.WalkDir(root, func(path string, _ os.DirEntry, err error) error {
			if err != nil {
				return err
			}
			var st syscall.Stat_t
			if err := syscall.Lstat(path, &st); err != nil {
				return err
			}
			if st.Uid != id || st.Gid != id {
				t.Errorf("%s belongs to %d:%d, want %d", strings.TrimPrefix(path, root), st.Uid, st.Gid, id)
			}
			return nil
		})
	})
	if err != nil {
		t.Fatal(err)
	}
}

// TestUserNamespace mounts images for containers in user namespaces and for
// others at once, also after a restart.
func TestUserNamespace(t *testing.T) {
	eachMode(t, func(t *testing.T, mode fs.Mode) {
		for _, order := range []string{"l", "p", "ll", "lp", "pl", "plp"} {
			t.Run(order, func(t *testing.T) { testUserNamespace(t, mode, order) })
		}
	})
}

func testUserNamespace(t *testing.T, mode fs.Mode, order string) {
	r := newRegistry(t)
	contents := []map[string]string{bottomFiles, middleFiles, topFiles}[:len(order)]
	var layers []layer
	for i, kind := range order {
		if kind == 'l' {
			layers = append(layers, r.lazyLayer(t, contents[i]))
		} else {
			layers = append(layers, r.foreignLayer(t, contents[i]))
		}
	}
	want := merged(contents...)
	img := r.image(t, "app", layers...)
	s := newStand(t, mode, t.TempDir())
	ctx := namespace(t, "test")
	if _, err := img.pull(ctx, s.containerd(), "pull"); err != nil {
		t.Fatal(err)
	}
	lazy := len(s.fs.Status())
	check := func(mounts []mount.Mount, err error, id uint32) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		if got := see(t, mounts); !reflect.DeepEqual(got, want) {
			t.Errorf("sees %d files, want %d", len(got), len(want))
		}
		owners(t, mounts, id)
	}
	labels := snapshots.WithLabels(inUserNamespace)
	mounts, err := s.containerd().Prepare(ctx, "user", img.top(), labels)
	check(mounts, err, 100_000)
	view, err := s.containerd().View(ctx, "user view", img.top(), labels)
	check(view, err, 100_000)
	other, err := s.containerd().Prepare(ctx, "other", img.top())
	check(other, err, 0)
	if got := len(s.fs.Status()); got != lazy {
		t.Errorf("%d layers are mounted, %d for containers without user namespaces", got, lazy)
	}
	if usage, err := s.containerd().Usage(ctx, "user"); err != nil || usage.Size > 16<<10 {
		t.Errorf("usage of a container that wrote nothing: %+v, %v", usage, err)
	}

	s.stop(t)
	s.start(t)
	for _, key := range []string{"user", "user view"} {
		mounts, err := s.containerd().Mounts(ctx, key)
		check(mounts, err, 100_000)
	}
	sn := s.containerd()
	if err := errors.Join(sn.Remove(ctx, "user"), sn.Remove(ctx, "user view"), sn.Remove(ctx, "other"), img.remove(ctx, sn)); err != nil {
		t.Fatal(err)
	}
	s.collect(t)
	s.empty(t)
}

// TestWithoutImage checks the snapshot of a container whose image is empty.
func TestWithoutImage(t *testing.T) {
	needRoot(t)
	s := newStand(t, fs.FUSE, t.TempDir())
	ctx := namespace(t, "test")
	mounts, err := s.containerd().Prepare(ctx, "user", "", snapshots.WithLabels(inUserNamespace))
	if err != nil {
		t.Fatal(err)
	}
	owners(t, mounts, 100_000)
}

// TestCopiedImage does what containerd does if it does not know the capability
// remap-ids, after which ids must not be mapped once more.
func TestCopiedImage(t *testing.T) {
	eachMode(t, func(t *testing.T, mode fs.Mode) {
		r := newRegistry(t)
		img := r.image(t, "app", r.foreignLayer(t, bottomFiles), r.lazyLayer(t, topFiles))
		s := newStand(t, mode, t.TempDir())
		ctx, sn := namespace(t, "test"), s.containerd()
		if _, err := img.pull(ctx, sn, "pull"); err != nil {
			t.Fatal(err)
		}
		mounts, err := sn.Prepare(ctx, "copy-remap", img.top())
		if err != nil {
			t.Fatal(err)
		}
		err = mount.WithTempMount(ctx, mounts, func(root string) error {
			return filepath.WalkDir(root, func(path string, _ os.DirEntry, err error) error {
				return errors.Join(err, os.Lchown(path, 100_000, 100_000))
			})
		})
		if err != nil {
			t.Fatal(err)
		}
		if err := sn.Commit(ctx, "copy", "copy-remap", snapshots.WithLabels(map[string]string{"containerd.io/gc.root": "test"})); err != nil {
			t.Fatal(err)
		}
		mounts, err = sn.Prepare(ctx, "user", "copy", snapshots.WithLabels(inUserNamespace))
		if err != nil {
			t.Fatal(err)
		}
		owners(t, mounts, 100_000)
		if mounts, err = sn.Mounts(ctx, "user"); err != nil {
			t.Fatal(err)
		}
		owners(t, mounts, 100_000)
	})
}

// TestBadMapping checks that labels that say nothing make no snapshot.
func TestBadMapping(t *testing.T) {
	needRoot(t)
	s := newStand(t, fs.FUSE, t.TempDir())
	labels := snapshots.WithLabels(map[string]string{snapshots.LabelSnapshotUIDMapping: "0:1:1"})
	type create func(context.Context, string, string, ...snapshots.Opt) ([]mount.Mount, error)
	for name, f := range map[string]create{"prepare": s.snapshotter.Prepare, "view": s.snapshotter.View} {
		_, err := f(t.Context(), name, "", labels)
		if !errdefs.IsInvalidArgument(err) || !strings.Contains(err.Error(), snapshots.LabelSnapshotGIDMapping) {
			t.Errorf("%s: got %v, want InvalidArgument, with the label", name, err)
		}
	}
	if names := s.names(t); len(names) > 0 {
		t.Errorf("snapshots are left: %v", names)
	}
}

// TestCannotMapState has the state directory on a file system that cannot be
// mounted with other ids, as containerd does with the folder of the layers.
// There is no snapshot then, and it is others that start; or it can be mounted.
func TestCannotMapState(t *testing.T) {
	eachMode(t, func(t *testing.T, mode fs.Mode) {
		state := t.TempDir()
		if err := unix.Mount("ramfs", state, "ramfs", 0, ""); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() {
			if err := unix.Unmount(state, 0); err != nil {
				t.Error(err)
			}
		})
		r := newRegistry(t)
		opaque := map[string]string{"a/.wh..wh..opq": "", "a/new": "new"}
		one := r.image(t, "one", r.lazyLayer(t, bottomFiles), r.lazyLayer(t, middleFiles))
		two := r.image(t, "two", r.lazyLayer(t, bottomFiles), r.lazyLayer(t, opaque))
		s := openStand(t, &stand{root: t.TempDir(), state: state, mode: mode})
		ctx, sn := namespace(t, "test"), s.containerd()
		for name, img := range map[string]*image{"one": one, "two": two} {
			if _, err := img.pull(ctx, sn, "pull "+name); err != nil {
				t.Fatal(err)
			}
			before := len(s.names(t))
			mounts, err := sn.Prepare(ctx, name+" user", img.top(), snapshots.WithLabels(inUserNamespace))
			if mode == fs.FUSE && img == one { // all of it is below one mount of FUSE
				if err != nil {
					t.Fatal(err)
				}
				owners(t, mounts, 100_000)
				continue
			}
			if !errdefs.IsNotImplemented(err) || !strings.Contains(err.Error(), state) || !strings.Contains(err.Error(), ", which is ramfs,") {
				t.Errorf("%s: got %v, want NotImplemented, with the folder", name, err)
			}
			if got := len(s.names(t)); got != before {
				t.Errorf("%s: %d snapshots, want %d", name, got, before)
			}
			mounts, err = sn.Prepare(ctx, name, img.top())
			if err != nil {
				t.Fatal(err)
			}
			owners(t, mounts, 0)
		}
	})
}

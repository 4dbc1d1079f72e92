package snapshotter_test

import (
	"context"
	"errors"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/containerd/containerd/v2/core/mount"
	"github.com/containerd/containerd/v2/core/snapshots"
	"github.com/containerd/errdefs"

	"github.com/sluice-snapshotter/sluice/fs"
)

// TestOpaque has a layer that hides what the layer below has in a directory.
func TestOpaque(t *testing.T) {
	eachMode(t, func(t *testing.T, mode fs.Mode) {
		r := newRegistry(t)
		img := r.image(t, "app", r.lazyLayer(t, bottomFiles), r.lazyLayer(t, map[string]string{"a/.wh..wh..opq": "", "a/top": "the top", ".wh.big": ""}))
		s := newStand(t, mode, t.TempDir())
		ctx, sn := namespace(t, "test"), s.containerd()
		if _, err := img.pull(ctx, sn, "pull"); err != nil {
			t.Fatal(err)
		}
		if got, want := run(t, ctx, sn, img, "container"), map[string]string{"a/top": "the top"}; !maps.Equal(got, want) {
			t.Errorf("container sees %v, want %v", got, want)
		}
	})
}

// TestUmask has a daemon that keeps its files to itself: all users of a container may go into its root directory all the same.
func TestUmask(t *testing.T) {
	needRoot(t)
	before := syscall.Umask(0o077)
	t.Cleanup(func() { syscall.Umask(before) })
	r := newRegistry(t)
	img := r.image(t, "app", r.lazyLayer(t, bottomFiles), r.lazyLayer(t, topFiles))
	s := newStand(t, fs.Auto, t.TempDir())
	ctx, sn := t.Context(), s.snapshotter
	if _, err := img.pull(namespace(t, "test"), s.containerd(), "pull"); err != nil {
		t.Fatal(err)
	}
	for _, parent := range []string{"", s.top(t)} {
		for kind, create := range map[string]func(context.Context, string, string, ...snapshots.Opt) ([]mount.Mount, error){
			"container": sn.Prepare, "view": sn.View,
		} {
			mounts, err := create(ctx, kind+" of "+parent, parent)
			if err != nil {
				t.Fatal(err)
			}
			err = mount.WithTempMount(ctx, mounts, func(root string) error {
				info, err := os.Stat(root)
				if err == nil && info.Mode().Perm() != 0o755 {
					t.Errorf("/ of a %s of %q is %v", kind, parent, info.Mode())
				}
				return err
			})
			if err != nil {
				t.Fatal(err)
			}
		}
	}
}

// TestRootless runs other tests as root of a user namespace, which has overlays with userxattr, and layers over FUSE only.
func TestRootless(t *testing.T) {
	needRoot(t)
	ids := []syscall.SysProcIDMap{{ContainerID: 0, HostID: 0, Size: 1 << 16}}
	c := exec.CommandContext(t.Context(), "/proc/self/exe", "-test.v", "-test.run=^(TestChains|TestOpaque)$/^fuse$")
	c.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags: syscall.CLONE_NEWUSER | syscall.CLONE_NEWNS, UidMappings: ids, GidMappings: ids,
	}
	out, err := c.CombinedOutput()
	if err != nil || strings.Count(string(out), "--- PASS: ") == 0 {
		t.Errorf("%v\n%s", err, out)
	}
}

// TestVolatile mounts a container's snapshot twice in one boot, which the kernel refuses by itself, and in another.
func TestVolatile(t *testing.T) {
	needRoot(t)
	r := newRegistry(t)
	img := r.image(t, "app", r.lazyLayer(t, bottomFiles), r.lazyLayer(t, topFiles))
	s := openStand(t, &stand{root: t.TempDir(), mode: fs.Auto, volatile: true})
	ctx, sn := t.Context(), s.snapshotter
	if _, err := img.pull(namespace(t, "test"), s.containerd(), "pull"); err != nil {
		t.Fatal(err)
	}
	parent := s.top(t)
	mounts, err := sn.Prepare(ctx, "container", parent)
	if err != nil {
		t.Fatal(err)
	}
	mountOnce(t, mounts)
	if mounts, err = sn.Mounts(ctx, "container"); err != nil {
		t.Fatal(err)
	}
	mountOnce(t, mounts)

	records, err := filepath.Glob(filepath.Join(s.root, "snapshotter/snapshots/*/boot"))
	if err != nil || len(records) != 1 {
		t.Fatalf("records of boots: %v, %v", records, err)
	}
	if err := os.WriteFile(records[0], []byte("another\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := sn.Mounts(ctx, "container"); !errdefs.IsFailedPrecondition(err) {
		t.Errorf("after a reboot: got %v, want FailedPrecondition", err)
	}
	view, err := sn.View(ctx, "view", parent)
	if err != nil {
		t.Fatal(err)
	}
	if slices.Contains(view[0].Options, "volatile") {
		t.Errorf("a view is volatile: %v", view)
	}
}

// mountOnce mounts as a shim does, and writes.
func mountOnce(t *testing.T, mounts []mount.Mount) {
	t.Helper()
	if !slices.Contains(mounts[0].Options, "volatile") {
		t.Errorf("not volatile: %v", mounts)
	}
	dir := t.TempDir()
	if err := mount.All(mounts, dir); err != nil {
		t.Fatal(err)
	}
	err := os.WriteFile(filepath.Join(dir, "written"), nil, 0o600)
	if err := errors.Join(err, mount.UnmountAll(dir, 0)); err != nil {
		t.Fatal(err)
	}
}

// top is the name, in the backend, of the snapshot that is nobody's parent.
func (s *stand) top(t *testing.T) string {
	t.Helper()
	parents := make(map[string]bool)
	var names []string
	for _, name := range s.names(t) {
		info, err := s.snapshotter.Stat(t.Context(), name)
		if err != nil {
			t.Fatal(err)
		}
		parents[info.Parent] = true
		if info.Kind == snapshots.KindCommitted {
			names = append(names, name)
		}
	}
	names = slices.DeleteFunc(names, func(name string) bool { return parents[name] })
	if len(names) != 1 {
		t.Fatalf("%v are nobody's parents", names)
	}
	return names[0]
}

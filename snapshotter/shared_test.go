package snapshotter_test

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"strings"
	"syscall"
	"testing"

	"github.com/containerd/containerd/v2/core/mount"
	"github.com/containerd/containerd/v2/core/snapshots"
	"golang.org/x/sys/unix"
)

// TestSharedPropagation has its root where mounts are shared with other mount namespaces, as / is under systemd. What is mounted there
// is mounted in all of them, and has to go from all of them.
func TestSharedPropagation(t *testing.T) {
	eachKind(t, func(t *testing.T, s *stand, kind string) {
		others := share(t, s.root)
		openStand(t, s)
		r := newRegistry(t)
		img := r.image(t, "app", r.lazyLayer(t, bottomFiles), r.plainLayer(t, middleFiles), r.lazyLayer(t, topFiles))
		ctx, sn := namespace(t, "test"), s.containerd()
		if _, err := img.pull(ctx, sn, "pull"); err != nil {
			t.Fatal(err)
		}
		s.until(t, kind)
		mounts, err := sn.Prepare(ctx, "container", img.top(), snapshots.WithLabels(map[string]string{"containerd.io/gc.root": "test"}))
		if err != nil {
			t.Fatal(err)
		}
		s.container(t, mounts, others)
		if mounts, err = sn.Prepare(ctx, "user", img.top(), snapshots.WithLabels(inUserNamespace)); err != nil {
			t.Fatal(err)
		}
		owners(t, mounts, 100_000)

		s.stop(t)
		unmounted(t, s.root, others)
		s.start(t)
		s.goesAway(t, img, merged(bottomFiles, middleFiles, topFiles))
	})
}

// goesAway looks into the container once more, and removes all there is.
func (s *stand) goesAway(t *testing.T, img *image, want map[string]string) {
	t.Helper()
	ctx, sn := namespace(t, "test"), s.containerd()
	mounts, err := sn.Mounts(ctx, "container")
	if err != nil {
		t.Fatal(err)
	}
	if got := see(t, mounts); !reflect.DeepEqual(got, want) {
		t.Errorf("sees %d files, want %d", len(got), len(want))
	}
	if err := errors.Join(sn.Remove(ctx, "container"), sn.Remove(ctx, "user"), img.remove(ctx, sn)); err != nil {
		t.Fatal(err)
	}
	s.collect(t)
	s.empty(t)
}

// share makes dir a mount with shared propagation, and returns the mountinfo of a process in a namespace that gets what is mounted there.
// At the end of the test, nothing must be mounted there any more.
func share(t *testing.T, dir string) (mountinfo string) {
	t.Helper()
	if err := unix.Mount(dir, dir, "", unix.MS_BIND, ""); err != nil {
		t.Fatal(err)
	}
	for _, how := range []uintptr{unix.MS_PRIVATE, unix.MS_SHARED} { // with nobody but those to come
		if err := unix.Mount("", dir, "", how, ""); err != nil {
			t.Fatal(err)
		}
	}
	c := exec.Command("cat") // until its input ends
	c.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNS}
	in, err := c.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := c.Start(); err != nil {
		t.Fatal(err)
	}
	mountinfo = fmt.Sprintf("/proc/%d/mountinfo", c.Process.Pid)
	t.Cleanup(func() {
		unmounted(t, dir, mountinfo)
		if err := errors.Join(in.Close(), c.Wait(), unix.Unmount(dir, unix.MNT_DETACH)); err != nil {
			t.Error(err)
		}
	})
	return mountinfo
}

// container mounts a snapshot below the root, as containerd does below a folder that is shared as well.
func (s *stand) container(t *testing.T, mounts []mount.Mount, others string) {
	t.Helper()
	dir := filepath.Join(s.root, "container")
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := mount.All(mounts, dir); err != nil {
		t.Fatal(err)
	}
	if b, err := os.ReadFile(filepath.Join(dir, "a/both")); err != nil || string(b) != topFiles["a/both"] {
		t.Errorf("the container sees %q, %v", b, err)
	}
	for _, mountinfo := range []string{"/proc/self/mountinfo", others} {
		if got := mountsBelow(t, mountinfo, s.root); got[dir] != 1 || got[filepath.Join(s.root, "state/fuse")] != 1 {
			t.Errorf("%s has %v, want the container and what serves its layers", mountinfo, got)
		}
	}
	if err := mount.UnmountAll(dir, 0); err != nil {
		t.Fatal(err)
	}
}

// unmounted checks that nothing is mounted below dir, here and there.
func unmounted(t *testing.T, dir, others string) {
	t.Helper()
	for _, mountinfo := range []string{"/proc/self/mountinfo", others} {
		if left := mountsBelow(t, mountinfo, dir); len(left) > 0 {
			t.Errorf("%s still has %v", mountinfo, left)
		}
	}
}

// mountsBelow counts the mounts below dir by mount point.
func mountsBelow(t *testing.T, mountinfo, dir string) map[string]int {
	t.Helper()
	b, err := os.ReadFile(mountinfo)
	if err != nil {
		t.Fatal(err)
	}
	points := make(map[string]int)
	for line := range strings.Lines(string(b)) {
		if point := strings.Fields(line)[4]; strings.HasPrefix(point, dir+"/") {
			points[point]++
		}
	}
	return points
}

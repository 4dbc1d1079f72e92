package fs

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// TestLoopDirectIO: on a disk with direct I/O no loop device of a layer reads its file by the page cache.
func TestLoopDirectIO(t *testing.T) {
	l := buildBlob(t, []file{regular("file", noise(1, 100_000))})
	n := newNode(t, Options{Mode: Loop, Background: true})
	n.mountLayer(t, newRegistry(t, l).source(l))
	st := n.settled(t, l).shown.layer.Store()
	native := n.path(t, l, "reader")
	if filepath.Base(native) != treeName(st.Info().ID)+nativeSuffix {
		t.Fatalf("the layer is at %s", native)
	}
	fd, err := unix.Open(st.DataPath(), unix.O_RDONLY|unix.O_DIRECT|unix.O_CLOEXEC, 0)
	if err != nil {
		t.Skip("no direct I/O on ", st.DataPath(), ": ", err)
	}
	defer unix.Close(fd)
	if !n.erofs.directIO {
		t.Error("the probe has seen no direct I/O")
	}
	dio := loopsBelow(t, n.root)
	for _, path := range []string{st.MetadataPath(), st.DataPath()} {
		if dio[path] != "1" {
			t.Errorf("dio of the loop device for %s is %q", path, dio[path])
		}
	}
}

// loopsBelow is what the kernel says of direct I/O of the loop devices for files below dir, by file.
func loopsBelow(t *testing.T, dir string) map[string]string {
	t.Helper()
	devices, err := filepath.Glob("/sys/block/loop*/loop")
	if err != nil {
		t.Fatal(err)
	}
	read := func(name string) string {
		b, err := os.ReadFile(name)
		if err != nil { // not in use any more
			return ""
		}
		return strings.TrimSpace(string(b))
	}
	dio := make(map[string]string)
	for _, d := range devices {
		if path := read(filepath.Join(d, "backing_file")); below(path, dir) {
			dio[path] = read(filepath.Join(d, "dio"))
		}
	}
	return dio
}

// TestLoopWithoutDirectIO has the store on a ramfs, which is in the page cache and nowhere else.
func TestLoopWithoutDirectIO(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("mounting needs root")
	}
	ramfs := t.TempDir()
	if err := unix.Mount("ramfs", ramfs, "ramfs", 0, ""); err != nil {
		t.Skip(err)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(ramfs, 0); err != nil {
			t.Error(err)
		}
	})
	if refusal, err := probeEROFS(Options{MountDir: t.TempDir(), ProbeDir: ramfs}, erofsImage{loop: true}); err != nil || refusal != nil {
		t.Skip(refusal, err)
	}
	ctx, lines := logged(t)
	m, err := chooseMount(ctx, Options{Mode: Loop, MountDir: t.TempDir(), ProbeDir: ramfs})
	if err != nil {
		t.Fatal(err)
	}
	if m == nil || !m.loop || m.directIO {
		t.Errorf("layers are mounted by %+v", m)
	}
	text := lines.String()
	for _, want := range []string{ramfs, "filesystem=ramfs", "direct I/O"} {
		if !strings.Contains(text, want) {
			t.Errorf("log lacks %q:\n%s", want, text)
		}
	}
	if got := strings.Count(text, "level=warning"); got != 1 {
		t.Errorf("%d warnings, want 1:\n%s", got, text)
	}
}

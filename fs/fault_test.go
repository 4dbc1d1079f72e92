package fs

import (
	"bytes"
	"context"
	"errors"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/containerd/log"
	"github.com/sirupsen/logrus"
	"golang.org/x/sys/unix"
)

// slow is how long something may take that is to be prompt, on a busy machine.
const slow = 5 * time.Second

// logged is a context whose log lines go to the returned buffer.
func logged(t *testing.T) (context.Context, *syncBuffer) {
	t.Helper()
	var b syncBuffer
	l := logrus.New()
	l.SetOutput(&b)
	return log.WithLogger(t.Context(), logrus.NewEntry(l)), &b
}

type syncBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (b *syncBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.Write(p)
}

func (b *syncBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.String()
}

// TestRegistryError: a read that cannot be served is EIO, and one log line says why.
func TestRegistryError(t *testing.T) {
	l := buildBlob(t, []file{dir("d"), regular("d/file", noise(1, 300000))})
	inModes(t, func(t *testing.T, mode Mode) {
		r := newRegistry(t, l)
		n := newNode(t, Options{Mode: mode})
		ctx, lines := logged(t)
		if err := n.Mount(ctx, r.source(l)); err != nil {
			t.Fatal(err)
		}
		path, err := n.Path(l.digest, t.Name())
		if err != nil {
			t.Fatal(err)
		}
		r.fail.Store(403)
		for range 3 {
			if _, err := os.ReadFile(filepath.Join(path, "d/file")); !errors.Is(err, syscall.EIO) {
				t.Errorf("read: %v, want EIO", err)
			}
		}
		text := lines.String()
		host := strings.TrimPrefix(r.URL, "http://")
		for _, want := range []string{"level=error", r.ref, l.digest.String(), "d/file", host, "403"} {
			if !strings.Contains(text, want) {
				t.Errorf("log lacks %q:\n%s", want, text)
			}
		}
		if got := strings.Count(text, "level=error"); got != 1 {
			t.Errorf("%d error lines, want 1:\n%s", got, text)
		}
		// It heals by itself.
		r.fail.Store(0)
		if got, err := os.ReadFile(filepath.Join(path, "d/file")); err != nil || !bytes.Equal(got, noise(1, 300000)) {
			t.Errorf("afterwards: %v", err)
		}
	})
}

// reader runs dd on a file in another process. It ends with the test.
func reader(t *testing.T, path string, args ...string) *exec.Cmd {
	t.Helper()
	cmd := exec.Command("dd", append([]string{"if=" + path, "of=/dev/null", "bs=64k", "status=none"}, args...)...)
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { kill(cmd) })
	return cmd
}

// await fails the test if ch stays silent.
func await(t *testing.T, what string, ch <-chan struct{}) {
	t.Helper()
	select {
	case <-ch:
	case <-time.After(slow):
		t.Fatalf("%s: not in %v", what, slow)
	}
}

// TestKilledReader: a process that waits for a registry that does not answer can be killed.
func TestKilledReader(t *testing.T) {
	l := buildBlob(t, []file{regular("file", noise(1, 3<<20))})
	for _, c := range []struct {
		name string
		mode Mode
		args []string
	}{
		{"erofs", EROFS, nil},
		{"fuse", FUSE, nil},
		{"fuse direct", FUSE, []string{"iflag=direct"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			r := newRegistry(t, l)
			n := newNode(t, Options{Mode: c.mode})
			path := n.mountLayer(t, r.source(l))
			r.stall()
			cmd := reader(t, filepath.Join(path, "file"), c.args...)
			await(t, "request", r.waiting)
			ended := make(chan struct{})
			start := time.Now()
			if err := cmd.Process.Kill(); err != nil {
				t.Fatal(err)
			}
			go func() {
				defer close(ended)
				_ = cmd.Wait() // says that it was killed
			}()
			await(t, "end of the killed reader", ended)
			t.Logf("killed reader ended after %v", time.Since(start))
		})
	}
}

// TestSignalledReader: a reader that waits, and has a signal that does not end it, gets its bytes.
func TestSignalledReader(t *testing.T) {
	l := buildBlob(t, []file{regular("file", noise(1, 64<<10))})
	signals := make(chan os.Signal, 16)
	signal.Notify(signals, syscall.SIGUSR1)
	defer signal.Stop(signals)
	for _, c := range []struct {
		name  string
		flags int
	}{{"cached", 0}, {"direct", unix.O_DIRECT}} {
		t.Run(c.name, func(t *testing.T) {
			r := newRegistry(t, l)
			n := newNode(t, Options{Mode: FUSE})
			path := n.mountLayer(t, r.source(l))
			fd, err := unix.Open(filepath.Join(path, "file"), unix.O_RDONLY|unix.O_CLOEXEC|c.flags, 0)
			if err != nil {
				t.Fatal(err)
			}
			defer unix.Close(fd)
			if err := unix.Fadvise(fd, 0, 0, unix.FADV_RANDOM); err != nil {
				t.Fatal(err)
			}
			r.stall()
			got := make([]byte, 4096)
			result := make(chan error, 1)
			tid := make(chan int, 1)
			go func() {
				tid <- unix.Gettid() // blocked in one call, it stays on its thread
				_, err := unix.Pread(fd, got, 8192)
				result <- err
			}()
			await(t, "request", r.waiting)
			if err := unix.Tgkill(os.Getpid(), <-tid, syscall.SIGUSR1); err != nil {
				t.Fatal(err)
			}
			// The handler runs after the call; until then only the server knows.
			select {
			case err := <-result:
				t.Fatalf("read ended with the signal: %v", err)
			case <-time.After(3 * dyingCheck):
			}
			r.release()
			if err := <-result; err != nil || !bytes.Equal(got, noise(1, 64<<10)[8192:12288]) {
				t.Errorf("read: %v", err)
			}
		})
	}
}

// TestRestart: what a killed daemon leaves is cleared, and its layers mount without the registry.
func TestRestart(t *testing.T) {
	a := buildBlob(t, []file{dir("d"), regular("d/a", noise(1, 200000))})
	b := buildBlob(t, []file{regular("b", noise(2, 1000))})
	inModes(t, func(t *testing.T, mode Mode) {
		r := newRegistry(t, a, b)
		root := t.TempDir()
		openNode(t, root, Options{Mode: mode}).close(t) // skips where the kernel cannot
		cmd := startDaemon(t, root, mode, r, a, b)
		mounts := mountsBelow(t, root)
		for _, point := range mounts { // a file of each is read, and is on disk then
			for _, name := range []string{"d/a", "b"} {
				_, _ = os.ReadFile(filepath.Join(point, name))
				_, _ = os.ReadFile(filepath.Join(point, "1", name))
				_, _ = os.ReadFile(filepath.Join(point, "2", name))
			}
		}
		held, err := unix.Open(mounts[0], unix.O_RDONLY|unix.O_CLOEXEC|unix.O_DIRECTORY, 0)
		if err != nil {
			t.Fatal(err)
		}
		defer unix.Close(held) // somebody still uses what is left
		kill(cmd)
		if got := mountsBelow(t, root); len(got) < len(mounts) { // more if what was read became native meanwhile
			t.Errorf("left are %q", got)
		}
		r.fail.Store(500)
		requests := r.blobs.Load() + r.manifests.Load()

		n := openNode(t, root, Options{Mode: mode})
		if got := mountsBelow(t, root); len(got) != len(n.server.connections()) {
			t.Errorf("after the restart mounts are %q, want the server's only", got)
		}
		for _, l := range []blob{a, b} {
			src := r.source(l)
			src.TOCDigest, src.Held = l.tocDigest, true // as Source told before the restart
			compare(t, n.mountLayer(t, src), l.files)
		}
		if got := r.blobs.Load() + r.manifests.Load(); got != requests {
			t.Errorf("%d requests after the restart", got-requests)
		}
	})
}

// TestCloseWhileReading: readers get an error, and Close does not wait for the registry.
func TestCloseWhileReading(t *testing.T) {
	l := buildBlob(t, []file{regular("file", noise(1, 3<<20))})
	inModes(t, func(t *testing.T, mode Mode) {
		r := newRegistry(t, l)
		n := newNode(t, Options{Mode: mode})
		path := n.mountLayer(t, r.source(l))
		r.stall()
		cmd := reader(t, filepath.Join(path, "file"))
		await(t, "request", r.waiting)
		closed := make(chan struct{})
		go func() {
			defer close(closed)
			n.close(t)
		}()
		await(t, "close", closed)
		if err := cmd.Wait(); err == nil {
			t.Error("the reader saw no error")
		}
	})
}

// TestUnmountLeavesNothing counts what a mount costs, and that all of it comes back.
func TestUnmountLeavesNothing(t *testing.T) {
	l := buildBlob(t, []file{regular("file", noise(1, 1<<20))})
	inModes(t, func(t *testing.T, mode Mode) {
		r := newRegistry(t, l)
		n := newNode(t, Options{Mode: mode, Background: true})
		cycle := func() {
			path := n.mountLayer(t, r.source(l))
			if _, err := os.ReadFile(filepath.Join(path, "file")); err != nil {
				t.Error(err)
			}
			if err := n.Unmount(t.Context(), l.digest); err != nil {
				t.Error(err)
			}
			if _, err := n.Path(l.digest, t.Name()); !errors.Is(err, os.ErrNotExist) {
				t.Errorf("path after: %v", err)
			}
			if _, _, err := n.Usage(l.digest); !errors.Is(err, os.ErrNotExist) {
				t.Errorf("usage after: %v", err)
			}
		}
		cycle() // connections to the registry stay
		fds, mounts, before := countFDs(t), mountsBelow(t, n.root), len(goroutines())
		for range 20 {
			cycle()
		}
		if got := mountsBelow(t, n.root); len(got) != len(mounts) {
			t.Errorf("mounts are %q, were %q", got, mounts)
		}
		eventually(t, "descriptors", func() bool { return countFDs(t) <= fds })
		eventually(t, "goroutines", func() bool { return len(goroutines()) <= before })
		if entries, err := os.ReadDir(n.opts.MountDir); err != nil || len(entries) != 0 {
			t.Errorf("mount points left: %v, %v", entries, err)
		}
	})
}

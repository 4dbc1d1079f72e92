package integration

import (
	"bytes"
	"context"
	"encoding/binary"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/sluice-snapshotter/sluice/integration/bench/system"
	"github.com/sluice-snapshotter/sluice/integration/images"
	"github.com/sluice-snapshotter/sluice/integration/stack"
	"github.com/sluice-snapshotter/sluice/integration/stream"
)

// bounded are the daemon's settings with a quota of so many bytes.
func bounded(limit int64) *stack.DaemonOptions {
	return &stack.DaemonOptions{TOML: system.Settings + fmt.Sprintf("[cache]\nlimit = \"%d\"\n", limit)}
}

// storeUsage is what the daemon's layers take on disk, from outside.
func storeUsage(root string) (sum int64) {
	_ = filepath.WalkDir(filepath.Join(root, "layers"), func(path string, _ os.DirEntry, _ error) error {
		var st unix.Stat_t
		if unix.Lstat(path, &st) == nil { // it may be gone again
			sum += st.Blocks * 512
		}
		return nil
	})
	return sum
}

// watchUsage samples that until stop, which returns the most it saw.
func watchUsage(root string) (stop func() int64) {
	ctx, cancel := context.WithCancel(context.Background())
	most := make(chan int64)
	go func() {
		seen := int64(0)
		for ctx.Err() == nil {
			seen = max(seen, storeUsage(root))
			time.Sleep(5 * time.Millisecond)
		}
		most <- seen
	}()
	return func() int64 {
		cancel()
		return <-most
	}
}

// checkStream reads the file of a stream.Image of so many chunks.
func checkStream(root string, chunks int) error {
	f, err := os.Open(filepath.Join(root, stream.File))
	if err != nil {
		return err
	}
	defer f.Close()
	var body []byte // of all chunks
	chunk := make([]byte, stream.ChunkBytes)
	for i := range chunks {
		if _, err := io.ReadFull(f, chunk); err != nil {
			return fmt.Errorf("chunk %d: %w", i, err)
		}
		if n := binary.BigEndian.Uint64(chunk); n != uint64(i) {
			return fmt.Errorf("chunk %d has number %d", i, n)
		}
		if body == nil {
			body = bytes.Clone(chunk[stream.NumberBytes:])
		}
		if !bytes.Equal(chunk[stream.NumberBytes:], body) {
			return fmt.Errorf("chunk %d is wrong", i)
		}
	}
	return nil
}

// TestQuotaLazy pulls five lazy images at once, of which one fits into the quota, and reads all of them twice at the same time: 60 MiB each, and 1 GiB
// each with SLUICE_TEST_ALL.
func TestQuotaLazy(t *testing.T) {
	eachMountOfAll(t, func(t *testing.T, mount string) {
		chunks := 15
		if os.Getenv("SLUICE_TEST_ALL") != "" && mount == "auto" {
			chunks = 256
		}
		quota := int64(chunks) * stream.ChunkBytes
		o := bounded(quota)
		o.TOML = fmt.Sprintf("mount = %q\n", mount) + o.TOML
		n := nodeWith(t, stack.NodeOptions{Daemon: o})
		stop := watchUsage(n.DaemonRoot())
		var all sync.WaitGroup
		for i := range 5 {
			chunks := chunks + i // each image is another one
			_, reg := streamOf(t, chunks)
			c := lazily(stack.Container{Ref: reg.Ref()})
			root := t.TempDir()
			all.Go(func() {
				if err := n.Pull(t.Context(), c); err != nil {
					t.Error(err)
					return
				}
				if err := n.Mount(t.Context(), c, root); err != nil {
					t.Error(err)
					return
				}
				for range 2 {
					if err := checkStream(root, chunks); err != nil {
						t.Errorf("image %d: %v", i, err)
					}
				}
				if err := n.Unmount(context.Background(), c, root); err != nil {
					t.Error(err)
				}
			})
		}
		all.Wait()
		most := stop()
		t.Logf("at most %d MiB on disk, of %d", most>>20, quota>>20)
		if most > quota+1<<20 || most < quota/2 { // the file system's own blocks are not counted beforehand
			t.Errorf("at most %d bytes on disk, the quota is %d", most, quota)
		}
		s, err := n.Status(t.Context())
		if err != nil || s.Cache.Limit != quota || s.Cache.Bytes > quota || s.Cache.Trouble != "" {
			t.Errorf("status says %+v, %v", s.Cache, err)
		}
		if m, err := n.Metrics(t.Context()); err != nil || m.Sum("sluice_cache_evicted_bytes_total", nil) == 0 {
			t.Errorf("nothing was evicted, say the metrics (%v)", err)
		}
	})
}

// TestQuotaPlain: an ordinary image that does not fit beside those in use is refused, says why, and breaks nothing; it fits once another one
// is gone.
func TestQuotaPlain(t *testing.T) {
	reg := registry(t)
	var cs []stack.Container
	for i := range 3 {
		im := must(t, func() (*images.Image, error) { return images.Distinct(t.Context(), i) })
		cs = append(cs, lazily(stack.Container{Ref: upload(t, reg, im, fmt.Sprintf("test/distinct%d:plain", i))}))
	}
	const quota = 45e6 // two of them, of 16 MB each, and what they share
	n := nodeWith(t, stack.NodeOptions{Daemon: bounded(quota)})
	var digests, roots []string
	for _, c := range cs[:2] {
		if err := n.Pull(t.Context(), c); err != nil {
			t.Fatal(err)
		}
		root := t.TempDir()
		if err := n.Mount(t.Context(), c, root); err != nil {
			t.Fatal(err)
		}
		d, err := digestOf(root, 0)
		if err != nil {
			t.Fatal(err)
		}
		roots, digests = append(roots, root), append(digests, d)
	}
	err := n.Pull(t.Context(), cs[2])
	if err == nil || !strings.Contains(err.Error(), "quota is reached") || !strings.Contains(err.Error(), "limit_percent") {
		t.Errorf("pulling more than fits: %v", err)
	}
	if used := storeUsage(n.DaemonRoot()); used > quota {
		t.Errorf("%d bytes on disk, the quota is %d", used, int64(quota))
	}
	for i, root := range roots {
		if d, err := digestOf(root, 0); err != nil || d != digests[i] {
			t.Errorf("image %d after that: %s, %v; before: %s", i, d, err, digests[i])
		}
	}
	if err := n.Unmount(t.Context(), cs[0], roots[0]); err != nil {
		t.Fatal(err)
	}
	if _, err := n.Ctr(t.Context(), "image", "rm", "--sync", cs[0].Ref); err != nil {
		t.Fatal(err)
	}
	if err := n.Pull(t.Context(), cs[2]); err != nil {
		t.Error(err)
	}
	if out, err := n.Run(t.Context(), cs[2]); err != nil || out != images.SampleLine+"\n" {
		t.Errorf("it prints %q, %v", out, err)
	}
	if err := n.Unmount(t.Context(), cs[1], roots[1]); err != nil {
		t.Error(err)
	}
}

// smallDisk is an ext4 of its own for a daemon's root.
func smallDisk(t *testing.T, size string) string {
	t.Helper()
	image, dir := filepath.Join(t.TempDir(), "image"), t.TempDir()
	for _, c := range [][]string{
		{"truncate", "-s", size, image}, {"mkfs.ext4", "-q", "-m", "0", "-b", "4096", image}, {"mount", "-o", "loop", image, dir},
	} {
		if out, err := exec.Command(c[0], c[1:]...).CombinedOutput(); err != nil {
			t.Fatalf("%v: %v %s", c, err, out)
		}
	}
	t.Cleanup(func() {
		if err := unix.Unmount(dir, unix.MNT_DETACH); err != nil {
			t.Error(err)
		}
	})
	return dir
}

// dropPages has what comes next read from the disk, or from the daemon.
func dropPages(t *testing.T) {
	t.Helper()
	unix.Sync()
	if err := os.WriteFile("/proc/sys/vm/drop_caches", []byte("1"), 0); err != nil {
		t.Fatal(err)
	}
}

// TestFullDiskHeals fills a daemon's disk while an image is read: that goes on, it is told, and what is read is stored again once there is room.
func TestFullDiskHeals(t *testing.T) {
	const chunks = 30
	disk := smallDisk(t, "96M")
	o := &stack.DaemonOptions{TOML: system.Settings + "[fetch]\nbackground = false\n", Args: []string{"--root", disk}}
	n := nodeWith(t, stack.NodeOptions{Daemon: o})
	_, reg := streamOf(t, chunks)
	c := lazily(stack.Container{Ref: reg.Ref()})
	pull(t, n, c)
	root := onHost(t, n, c)

	filler := filepath.Join(disk, "filler")
	f, err := os.Create(filler)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	for size := 1 << 20; size >= 4096; size /= 2 {
		for err = nil; err == nil; {
			_, err = f.Write(make([]byte, size))
		}
	}
	unix.Sync() // what was set aside for it is taken by now
	trouble := func() string {
		s, err := n.Status(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		return s.Cache.Trouble
	}
	if s := trouble(); s != "" {
		t.Errorf("before anything is read, status says %q", s)
	}
	for range 2 {
		if err := checkStream(root, chunks); err != nil {
			t.Fatalf("on a full disk: %v", err)
		}
		dropPages(t)
	}
	if s := trouble(); !strings.Contains(s, "no space left") {
		t.Errorf("on a full disk, status says %q", s)
	}
	if err := os.Remove(filler); err != nil {
		t.Fatal(err)
	}
	f.Close()
	// A journal gives blocks back only with its next commit.
	for deadline := time.Now().Add(time.Minute); ; time.Sleep(100 * time.Millisecond) {
		if err := checkStream(root, chunks); err != nil {
			t.Fatalf("once there is room: %v", err)
		}
		s, err := n.Status(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if s.Layers[0].Fetched >= chunks/2*stream.ChunkBytes && s.Cache.Trouble == "" {
			break
		}
		if time.Now().After(deadline) {
			t.Fatalf("a minute after there is room, %d bytes are stored, and status says %q", s.Layers[0].Fetched, s.Cache.Trouble)
		}
		dropPages(t)
	}
	if told := strings.Count(n.Tail(1000), "cannot be stored"); told != 1 {
		t.Errorf("the log says it %d times", told)
	}
}

// TestCacheCommands: what a container uses is not removed, the rest is, and comes again when it is used.
func TestCacheCommands(t *testing.T) {
	reg := registry(t)
	n := node(t, "auto")
	c := lazily(stack.Container{Ref: upload(t, reg, lazyImage(t, distinct), "test/distinct:esgz")})
	pull(t, n, c)
	cache := func(args ...string) (string, error) {
		return n.CtrRemote(t.Context(), append([]string{"cache"}, args...)...)
	}
	root := t.TempDir()
	if err := n.Mount(t.Context(), c, root); err != nil {
		t.Fatal(err)
	}
	want, err := digestOf(root, 0)
	if err != nil {
		t.Fatal(err)
	}
	if out, err := cache("ls"); err != nil || strings.Count(out, c.Ref) != len(lazyImage(t, distinct).Manifest.Layers) || !strings.Contains(out, " yes ") {
		t.Errorf("cache ls prints %v\n%s", err, out)
	}
	for _, args := range [][]string{{"rm", c.Ref}, {"prune"}, {"prune", "--all"}} {
		out, err := cache(args...)
		if refused := err != nil; refused != (args[0] == "rm") || strings.Contains(out, "removed sha256") {
			t.Errorf("cache %v of what is in use: %v\n%s", args, err, out)
		}
	}
	if got, err := digestOf(root, 0); err != nil || got != want {
		t.Errorf("after that it reads %s, %v; want %s", got, err, want)
	}
	if err := n.Unmount(t.Context(), c, root); err != nil {
		t.Fatal(err)
	}
	for _, args := range [][]string{{"rm", c.Ref}, {"prune", "--all"}} {
		// containerd tells of a container's end with its next garbage collection.
		for deadline := time.Now().Add(time.Minute); ; time.Sleep(50 * time.Millisecond) {
			out, err := cache("ls")
			if err == nil && !strings.Contains(out, " yes ") {
				break
			}
			if time.Now().After(deadline) {
				t.Fatalf("a minute after the container's end: %v\n%s", err, out)
			}
		}
		out, err := cache(args...)
		if err != nil || !strings.Contains(out, "removed sha256") {
			t.Errorf("cache %v: %v\n%s", args, err, out)
		}
		if used := storeUsage(n.DaemonRoot()); used > 64<<10 {
			t.Errorf("after cache %v there are %d bytes", args, used)
		}
		if out, err := n.Run(t.Context(), c); err != nil || out != images.SampleLine+"\n" {
			t.Errorf("then it prints %q, %v", out, err)
		}
	}
	if out, err := cache("du"); err != nil || !strings.Contains(out, c.Ref) {
		t.Errorf("cache du prints %v\n%s", err, out)
	}
}

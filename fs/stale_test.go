package fs

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"golang.org/x/sys/unix"
)

// TestStalePaths: who was told a path, and mounts it while the daemon is replaced or drained, gets the layer or an error, never an
// empty folder.
func TestStalePaths(t *testing.T) {
	var layers []blob
	for i := range 30 {
		layers = append(layers, buildBlob(t, []file{regular("file", noise(uint64(i), 1000))}))
	}
	inModes(t, func(t *testing.T, mode Mode) {
		r := newRegistry(t, layers...)
		root := t.TempDir()
		openNode(t, root, Options{Mode: mode}).close(t) // skips where the kernel cannot
		cmd := startDaemon(t, root, mode, r, layers...)
		told := layerPaths(t, root, mode)
		if len(told) < len(layers) {
			t.Fatalf("%d paths for %d layers", len(told), len(layers))
		}
		kill(cmd)

		c := startClient(t, told)
		n := openNode(t, root, Options{Mode: mode})
		var fresh []string
		for _, l := range layers {
			fresh = append(fresh, n.mountLayer(t, r.source(l)))
		}
		c.stop()
		for _, path := range told {
			if _, err := os.Stat(path); mode != FUSE && !errors.Is(err, os.ErrNotExist) {
				t.Errorf("%s, of the process before, leads somewhere: %v", path, err)
			}
		}
		c = startClient(t, fresh)
		n.close(t)
		c.stop()
		if left := walk1(t, filepath.Join(root, "state", "mounts")); len(left) > 0 {
			t.Errorf("folders left: %q", left)
		}
	})
}

// layerPaths are those that a daemon below root gives.
func layerPaths(t *testing.T, root string, mode Mode) (paths []string) {
	t.Helper()
	dirs := served(filepath.Join(root, "state"))
	if mode != FUSE {
		return slices.DeleteFunc(mountsBelow(t, root), func(path string) bool { return slices.Contains(dirs, path) })
	}
	for _, dir := range dirs {
		for _, name := range walk1(t, dir) {
			if !strings.HasSuffix(name, blobExt) {
				paths = append(paths, filepath.Join(dir, name))
			}
		}
	}
	return paths
}

// client mounts overlays of layers over and over.
type client struct {
	stopping chan struct{}
	wg       sync.WaitGroup
}

func startClient(t *testing.T, paths []string) *client {
	c := &client{stopping: make(chan struct{})}
	target, empty := t.TempDir(), t.TempDir()
	c.wg.Go(func() {
		wrong := 0
		for i := 0; ; i++ {
			select {
			case <-c.stopping:
				if wrong > 0 {
					t.Errorf("%d of %d containers would have started without their layer", wrong, i)
				}
				return
			default:
			}
			if err := unix.Mount("overlay", target, "overlay", unix.MS_RDONLY, "lowerdir="+paths[i%len(paths)]+":"+empty); err != nil {
				continue
			}
			var st unix.Stat_t // by a system call: see the package comment on deadlocks
			if err := unix.Stat(filepath.Join(target, "file"), &st); errors.Is(err, unix.ENOENT) {
				wrong++
			}
			if err := unix.Unmount(target, unix.MNT_DETACH); err != nil {
				t.Error(err)
			}
		}
	})
	return c
}

func (c *client) stop() {
	close(c.stopping)
	c.wg.Wait()
}

package integration

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/sluice-snapshotter/sluice/integration/images"
	"github.com/sluice-snapshotter/sluice/integration/stack"
)

const readers = 32

var distinct = newSubject(func(ctx context.Context) (*images.Image, error) { return images.Distinct(ctx, 0) }, "distinct", "/probe")

// TestReaders has many readers of the same image, each of which begins somewhere else, while it comes over a link. With SLUICE_RACE=1, as "make
// test-all" has it, the daemon has the race detector.
func TestReaders(t *testing.T) {
	want := unpacked(t, distinct)
	eachMountOfAll(t, func(t *testing.T, mount string) {
		reg := registry(t)
		o := daemon(mount)
		o.TOML = strings.Replace(o.TOML, "background = false", "background = true", 1)
		n := nodeWith(t, stack.NodeOptions{Daemon: o})
		c := lazily(stack.Container{Ref: upload(t, reg, lazyImage(t, distinct), "test/distinct:esgz")})
		reg.Link.ResetCounts()
		reg.Link.Shape(5*time.Millisecond, 10e6)
		pull(t, n, c)
		root := onHost(t, n, c)
		if got, size := reg.Link.Counts().Total().Bytes, lazyImage(t, distinct).Size(); got > size*3/4 {
			t.Errorf("%d of %d bytes had come before the first read", got, size)
		}
		var all sync.WaitGroup
		for i := range readers {
			all.Go(func() {
				got, err := digestOf(root, i)
				if err != nil || got != want {
					t.Errorf("reader %d: %s, %v; want %s", i, got, err, want)
				}
			})
		}
		all.Wait()
	})
}

// unpacked is the digest of a subject's tree on overlayfs.
func unpacked(t *testing.T, s subject) string {
	t.Helper()
	reg := registry(t)
	n := nodeWith(t, stack.NodeOptions{})
	c := stack.Container{Ref: upload(t, reg, plainImage(t, s), "test/image:plain")}
	if err := n.Pull(t.Context(), c); err != nil {
		t.Fatal(err)
	}
	d, err := digestOf(onHost(t, n, c), 0)
	if err != nil {
		t.Fatal(err)
	}
	return d
}

// onHost mounts an image until the end of the test.
func onHost(t *testing.T, n *stack.Node, c stack.Container) string {
	t.Helper()
	root := t.TempDir()
	if err := n.Mount(t.Context(), c, root); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := n.Unmount(context.Background(), c, root); err != nil {
			t.Error(err)
		}
	})
	return root
}

// digestOf is a digest of all names, modes and contents below root, read in an order that begins at another place for each reader.
func digestOf(root string, reader int) (string, error) {
	var paths []string
	err := filepath.WalkDir(root, func(path string, _ fs.DirEntry, err error) error {
		paths = append(paths, path)
		return err
	})
	if err != nil {
		return "", err
	}
	lines := make([]string, len(paths))
	first := reader * len(paths) / readers
	for k := range paths {
		i := (first + k) % len(paths)
		if lines[i], err = describe(root, paths[i]); err != nil {
			return "", err
		}
	}
	h := sha256.New()
	for _, line := range lines {
		h.Write([]byte(line))
	}
	return fmt.Sprintf("%d paths, %x", len(paths), h.Sum(nil)), nil
}

// describe is a line about one path.
func describe(root, path string) (string, error) {
	info, err := os.Lstat(path)
	if err != nil {
		return "", err
	}
	h := sha256.New()
	if info.Mode().IsRegular() {
		f, err := os.Open(path)
		if err != nil {
			return "", err
		}
		_, err = io.Copy(h, f)
		if err = errors.Join(err, f.Close()); err != nil {
			return "", err
		}
	}
	return fmt.Sprintf("%s %s %x\n", path[len(root):], info.Mode(), h.Sum(nil)), nil
}

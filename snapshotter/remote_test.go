package snapshotter_test

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/containerd/containerd/v2/core/mount"
	"github.com/containerd/containerd/v2/core/snapshots"
	"github.com/containerd/containerd/v2/plugins/snapshots/overlay"
	"github.com/containerd/errdefs"
	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"

	"github.com/sluice-snapshotter/sluice/fs"
)

// see returns the files of a snapshot's mounts.
func see(t *testing.T, mounts []mount.Mount) map[string]string {
	t.Helper()
	files := make(map[string]string)
	err := mount.WithTempMount(t.Context(), cloned(mounts), func(root string) error {
		return filepath.WalkDir(root, func(path string, e os.DirEntry, err error) error {
			if err != nil || !e.Type().IsRegular() {
				return err
			}
			b, err := os.ReadFile(path)
			files[strings.TrimPrefix(path, root+"/")] = string(b)
			return err
		})
	})
	if err != nil {
		t.Fatal(err)
	}
	return files
}

// list returns what is said of all names in a snapshot's mounts.
func list(t *testing.T, mounts []mount.Mount) map[string]string {
	t.Helper()
	names := make(map[string]string)
	err := mount.WithTempMount(t.Context(), mounts, func(root string) error {
		return filepath.WalkDir(root, func(path string, e os.DirEntry, err error) error {
			name := strings.TrimPrefix(path, root)
			if info, err := os.Lstat(path); err != nil {
				names[name] = errors.Unwrap(err).Error()
			} else {
				names[name] = info.Mode().String()
			}
			return err
		})
	})
	if err != nil {
		t.Fatal(err)
	}
	return names
}

// cloned is to be mounted in place of mounts: containerd's mount changes the
// options if it maps ids.
func cloned(mounts []mount.Mount) []mount.Mount {
	mounts = slices.Clone(mounts)
	for i := range mounts {
		mounts[i].Options = slices.Clone(mounts[i].Options)
	}
	return mounts
}

// run prepares a container on an image and returns what it sees.
func run(t *testing.T, ctx context.Context, sn snapshots.Snapshotter, img *image, key string) map[string]string {
	t.Helper()
	mounts, err := sn.Prepare(ctx, key, img.top(), snapshots.WithLabels(map[string]string{"containerd.io/gc.root": "test"}))
	if err != nil {
		t.Fatal(err)
	}
	return see(t, mounts)
}

// bottom and top overlap in one file.
var (
	bottomFiles = map[string]string{"a/bottom": "the bottom", "a/both": "not this", "big": strings.Repeat("0123456789", 100_000)}
	middleFiles = map[string]string{"a/middle": "the middle"}
	topFiles    = map[string]string{"a/top": "the top", "a/both": "but this"}
	moreFiles   = map[string]string{"b/more": "more"}
)

func merged(layers ...map[string]string) map[string]string {
	files := make(map[string]string)
	for _, l := range layers {
		maps.Copy(files, l)
	}
	return files
}

// TestChains pulls images whose layers are lazy (l), ordinary (p) or foreign (f),
// in many orders, and looks at them as a container, as a view, and after all of
// it is gone.
func TestChains(t *testing.T) {
	eachMode(t, func(t *testing.T, mode fs.Mode) {
		for _, order := range []string{"l", "lll", "lfl", "flf", "llf", "ffl", "fff", "lf", "fl", "p", "ppp", "plp", "lpl", "pfl", "fpl", "lfp"} {
			t.Run(order, func(t *testing.T) { testChain(t, mode, order) })
		}
	})
}

func testChain(t *testing.T, mode fs.Mode, order string) {
	r := newRegistry(t)
	contents := []map[string]string{bottomFiles, middleFiles, topFiles}[3-len(order):]
	var layers []layer
	var foreign []int
	for i, kind := range order {
		switch kind {
		case 'l':
			layers = append(layers, r.lazyLayer(t, contents[i]))
		case 'p':
			layers = append(layers, r.plainLayer(t, contents[i]))
		default:
			layers = append(layers, r.foreignLayer(t, contents[i]))
			foreign = append(foreign, i)
		}
	}
	img := r.image(t, "app", layers...)
	s := newStand(t, mode, t.TempDir())
	ctx, sn := namespace(t, "test"), throughMetadata(s)
	unpacked, err := img.pull(ctx, sn, "pull")
	if err != nil {
		t.Fatal(err)
	}
	if !slices.Equal(unpacked, foreign) {
		t.Errorf("containerd unpacked layers %v, want %v", unpacked, foreign)
	}
	want := merged(contents...)
	if got := run(t, ctx, sn, img, "container"); !reflect.DeepEqual(got, want) {
		t.Errorf("container sees %v", slices.Collect(maps.Keys(got)))
	}
	view, err := sn.View(ctx, "view", img.top())
	if err != nil {
		t.Fatal(err)
	}
	if got := see(t, view); !reflect.DeepEqual(got, want) {
		t.Errorf("view sees %v", slices.Collect(maps.Keys(got)))
	}
	if got := len(s.fs.Status()); got != len(order)-len(foreign) {
		t.Errorf("%d layers mounted, want %d", got, len(order)-len(foreign))
	}
	for i, name := range img.chain {
		if usage, err := sn.Usage(ctx, name); err != nil || usage.Size == 0 || usage.Inodes == 0 {
			t.Errorf("usage of layer %d: %+v, %v", i, usage, err)
		}
	}
	if err := errors.Join(sn.Remove(ctx, "container"), sn.Remove(ctx, "view"), img.remove(ctx, sn)); err != nil {
		t.Fatal(err)
	}
	s.collect(t)
	s.empty(t)
}

// An image may have a layer more than once: empty ones are all the same.
func TestLayerTwice(t *testing.T) {
	eachMode(t, func(t *testing.T, mode fs.Mode) {
		r := newRegistry(t)
		bottom, top := r.lazyLayer(t, bottomFiles), r.lazyLayer(t, topFiles)
		img := r.image(t, "app", bottom, bottom, top, bottom)
		s := newStand(t, mode, t.TempDir())
		ctx, sn := namespace(t, "test"), throughMetadata(s)
		if unpacked, err := img.pull(ctx, sn, "pull"); err != nil || len(unpacked) > 0 {
			t.Fatalf("unpacked %v, %v", unpacked, err)
		}
		want := merged(bottomFiles, topFiles, bottomFiles)
		if got := run(t, ctx, sn, img, "container"); !reflect.DeepEqual(got, want) {
			t.Errorf("container sees %v", slices.Collect(maps.Keys(got)))
		}
		if err := errors.Join(sn.Remove(ctx, "container"), img.remove(ctx, sn)); err != nil {
			t.Fatal(err)
		}
		s.collect(t)
		s.empty(t)
	})
}

// TestLayerTwiceWithWhiteouts: in a directory that only the two copies of a layer have, what they take away is not listed.
func TestLayerTwiceWithWhiteouts(t *testing.T) {
	eachMode(t, func(t *testing.T, mode fs.Mode) {
		r := newRegistry(t)
		twice := r.lazyLayer(t, map[string]string{"own/kept": "kept", "own/.wh.gone": "", "a/.wh.bottom": ""})
		img := r.image(t, "app", r.lazyLayer(t, bottomFiles), twice, r.lazyLayer(t, topFiles), twice, r.lazyLayer(t, moreFiles), twice)
		peer, err := overlay.NewSnapshotter(t.TempDir())
		if err != nil {
			t.Fatal(err)
		}
		defer peer.Close()
		if _, err := img.pull(t.Context(), peer, "pull"); err != nil {
			t.Fatal(err)
		}
		mounts, err := peer.Prepare(t.Context(), "container", img.top())
		if err != nil {
			t.Fatal(err)
		}
		want := list(t, mounts)

		s := newStand(t, mode, t.TempDir())
		ctx, sn := namespace(t, "test"), throughMetadata(s)
		unpacked, err := img.pull(ctx, sn, "pull")
		if err != nil || !slices.Equal(unpacked, []int{3, 5}) {
			t.Errorf("unpacked %v, %v, want the copies", unpacked, err)
		}
		if mounts, err = sn.Prepare(ctx, "container", img.top(), snapshots.WithLabels(map[string]string{"containerd.io/gc.root": "test"})); err != nil {
			t.Fatal(err)
		}
		if got := list(t, mounts); !maps.Equal(got, want) {
			t.Errorf("container sees %v, want %v", got, want)
		}
		if err := errors.Join(sn.Remove(ctx, "container"), img.remove(ctx, sn)); err != nil {
			t.Fatal(err)
		}
		s.collect(t)
		s.empty(t)
	})
}

func throughMetadata(s *stand) snapshots.Snapshotter { return s.containerd() }

// empty checks that nothing is left of any snapshot.
func (s *stand) empty(t *testing.T) {
	t.Helper()
	if names := s.names(t); len(names) != 0 {
		t.Errorf("snapshots left: %q", names)
	}
	if layers := s.fs.Status(); len(layers) != 0 {
		t.Errorf("layers left: %+v", layers)
	}
	if stored, err := s.store.List(); err != nil || len(stored) != 0 {
		t.Errorf("layers left in the store: %v, %v", stored, err)
	}
	if dirs, err := os.ReadDir(filepath.Join(s.root, "snapshotter", "snapshots")); err != nil || len(dirs) != 0 {
		t.Errorf("directories left: %v, %v", dirs, err)
	}
}

// TestOneDevice checks that files and directories of several layers report one
// device, so that du -x and find -xdev do not stop on the way.
func TestOneDevice(t *testing.T) {
	eachMode(t, func(t *testing.T, mode fs.Mode) {
		r := newRegistry(t)
		img := r.image(t, "app", r.lazyLayer(t, bottomFiles), r.foreignLayer(t, middleFiles), r.lazyLayer(t, topFiles))
		s := newStand(t, mode, t.TempDir())
		ctx, sn := namespace(t, "test"), throughMetadata(s)
		if _, err := img.pull(ctx, sn, "pull"); err != nil {
			t.Fatal(err)
		}
		mounts, err := sn.Prepare(ctx, "container", img.top())
		if err != nil {
			t.Fatal(err)
		}
		devices := make(map[uint64][]string)
		err = mount.WithTempMount(ctx, mounts, func(root string) error {
			return filepath.WalkDir(root, func(path string, e os.DirEntry, err error) error {
				if err != nil {
					return err
				}
				dev, err := deviceOf(path)
				devices[dev] = append(devices[dev], path)
				return err
			})
		})
		if err != nil {
			t.Fatal(err)
		}
		if len(devices) != 1 {
			t.Errorf("files are on %d devices: %v", len(devices), devices)
		}
	})
}

// TestNamespaces pulls one image into two namespaces. Where containerd had to
// unpack a layer, each has its own, and so the lazy layers above stand twice.
func TestNamespaces(t *testing.T) {
	eachMode(t, func(t *testing.T, mode fs.Mode) {
		r := newRegistry(t)
		img := r.image(t, "app", r.lazyLayer(t, bottomFiles), r.foreignLayer(t, middleFiles),
			r.lazyLayer(t, topFiles), r.lazyLayer(t, moreFiles))
		s := newStand(t, mode, t.TempDir())
		sn := throughMetadata(s)
		one, two := namespace(t, "one"), namespace(t, "two")
		want := merged(bottomFiles, middleFiles, topFiles, moreFiles)
		for name, ctx := range map[string]context.Context{"one": one, "two": two} {
			if unpacked, err := img.pull(ctx, sn, name); err != nil || !slices.Equal(unpacked, []int{1}) {
				t.Fatalf("%s: unpacked %v, %v", name, unpacked, err)
			}
			if got := run(t, ctx, sn, img, "container"); !reflect.DeepEqual(got, want) {
				t.Errorf("%s: container sees %v", name, slices.Collect(maps.Keys(got)))
			}
		}
		if got := len(s.fs.Status()); got != 3 {
			t.Errorf("%d layers mounted, want 3", got)
		}
		s.collect(t)
		if got := len(s.names(t)); got != 1+2*4 { // the bottom, shared; three layers and a container of each
			t.Errorf("snapshots after garbage collection: %q", s.names(t))
		}

		if err := errors.Join(sn.Remove(one, "container"), img.remove(one, sn)); err != nil {
			t.Fatal(err)
		}
		s.collect(t)
		mounts, err := sn.Mounts(two, "container")
		if err != nil {
			t.Fatal(err)
		}
		if got := see(t, mounts); !reflect.DeepEqual(got, want) {
			t.Errorf("two, after one is gone: container sees %v", slices.Collect(maps.Keys(got)))
		}
		if err := errors.Join(sn.Remove(two, "container"), img.remove(two, sn)); err != nil {
			t.Fatal(err)
		}
		s.collect(t)
		s.empty(t)
	})
}

// TestConcurrentPulls pulls an image many times at once, in several namespaces,
// while garbage is collected.
func TestConcurrentPulls(t *testing.T) {
	eachMode(t, func(t *testing.T, mode fs.Mode) {
		r := newRegistry(t)
		img := r.image(t, "app", r.lazyLayer(t, bottomFiles), r.lazyLayer(t, middleFiles), r.lazyLayer(t, topFiles))
		s := newStand(t, mode, t.TempDir())
		sn := throughMetadata(s)
		want := merged(bottomFiles, middleFiles, topFiles)
		done := make(chan struct{})
		var collector sync.WaitGroup
		collector.Go(func() {
			for {
				select {
				case <-done:
					return
				default:
					s.collect(t)
				}
			}
		})
		var g errgroup.Group
		for i := range 8 {
			ctx := namespace(t, fmt.Sprint("ns", i%4))
			g.Go(func() error {
				unpacked, err := img.pull(ctx, sn, fmt.Sprint("pull", i))
				if err == nil && len(unpacked) > 0 {
					err = fmt.Errorf("unpacked %v", unpacked)
				}
				return err
			})
		}
		err := g.Wait()
		close(done)
		collector.Wait()
		if err != nil {
			t.Fatal(err)
		}
		if got := len(s.fs.Status()); got != 3 {
			t.Errorf("%d layers mounted, want 3", got)
		}
		for i := range 4 {
			ctx := namespace(t, fmt.Sprint("ns", i))
			if got := run(t, ctx, sn, img, "container"); !reflect.DeepEqual(got, want) {
				t.Errorf("ns%d: container sees %v", i, slices.Collect(maps.Keys(got)))
			}
			if err := errors.Join(sn.Remove(ctx, "container"), img.remove(ctx, sn)); err != nil {
				t.Fatal(err)
			}
		}
		s.collect(t)
		s.empty(t)
	})
}

// TestConcurrentBackend races Prepare for one target on the backend itself,
// without containerd's metadata store before it, against Remove and Cleanup.
func TestConcurrentBackend(t *testing.T) {
	needRoot(t)
	r := newRegistry(t)
	img := r.image(t, "app", r.lazyLayer(t, topFiles))
	s := newStand(t, fs.Auto, t.TempDir())
	ctx := t.Context()
	var g errgroup.Group
	for i := range 6 {
		g.Go(func() error {
			for j := range 10 {
				_, err := s.snapshotter.Prepare(ctx, fmt.Sprintf("extract-%d-%d", i, j), "", snapshots.WithLabels(img.labels(0)))
				if !errdefs.IsAlreadyExists(err) {
					return fmt.Errorf("prepare: %w", err)
				}
				if err := s.snapshotter.Remove(ctx, img.chain[0]); err != nil && !errdefs.IsNotFound(err) {
					return err
				}
				if err := s.snapshotter.Cleanup(ctx); err != nil {
					return err
				}
			}
			return nil
		})
	}
	if err := g.Wait(); err != nil {
		t.Fatal(err)
	}
	if err := s.snapshotter.Cleanup(ctx); err != nil {
		t.Fatal(err)
	}
	s.empty(t)
}

// TestManyLayers mounts long chains, also for a user namespace.
func TestManyLayers(t *testing.T) {
	eachMode(t, func(t *testing.T, mode fs.Mode) {
		for _, order := range []string{"l", "lp"} {
			t.Run(order, func(t *testing.T) {
				r := newRegistry(t)
				var layers []layer
				want := make(map[string]string)
				for i := range 128 {
					files := map[string]string{fmt.Sprint("file", i): fmt.Sprint("content of ", i)}
					maps.Copy(want, files)
					if order[i%len(order)] == 'l' {
						layers = append(layers, r.lazyLayer(t, files))
					} else {
						layers = append(layers, r.foreignLayer(t, files))
					}
				}
				img := r.image(t, "app", layers...)
				s := newStand(t, mode, t.TempDir())
				ctx, sn := namespace(t, "test"), throughMetadata(s)
				if _, err := img.pull(ctx, sn, "pull"); err != nil {
					t.Fatal(err)
				}
				if got := run(t, ctx, sn, img, "container"); !reflect.DeepEqual(got, want) {
					t.Errorf("container sees %d files, want %d", len(got), len(want))
				}
				mounts, err := sn.Prepare(ctx, "user", img.top(), snapshots.WithLabels(inUserNamespace))
				if err != nil {
					t.Fatal(err)
				}
				t.Logf("%d bytes of options", len(strings.Join(mounts[0].Options, ",")))
				if got := see(t, mounts); !reflect.DeepEqual(got, want) {
					t.Errorf("container in a user namespace sees %d files, want %d", len(got), len(want))
				}
				owners(t, mounts, 100_000)
				if err := errors.Join(sn.Remove(ctx, "container"), sn.Remove(ctx, "user"), img.remove(ctx, sn)); err != nil {
					t.Fatal(err)
				}
				s.collect(t)
				s.empty(t)
			})
		}
	})
}

// deviceOf is st_dev of a path.
func deviceOf(path string) (uint64, error) {
	var st unix.Stat_t
	err := unix.Lstat(path, &st)
	return st.Dev, err
}

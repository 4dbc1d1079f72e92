package integration

import (
	"maps"
	"slices"
	"strings"
	"sync"
	"testing"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/sluice-snapshotter/sluice/integration/images"
	"github.com/sluice-snapshotter/sluice/integration/link"
	"github.com/sluice-snapshotter/sluice/integration/stack"
)

const hello = "hello from probe\n"

// TestTwoNamespaces pulls one image into two namespaces; what happens to one of them does not show in the other.
func TestTwoNamespaces(t *testing.T) {
	eachMount(t, func(t *testing.T, mount string) {
		reg := registry(t)
		n := node(t, mount)
		ref := upload(t, reg, lazyImage(t, odd), "test/odd:esgz")
		for _, namespace := range []string{"one", "two"} {
			c := stack.Container{Ref: ref, Namespace: namespace}
			pull(t, n, c)
			if out := run(t, n, c); out != hello {
				t.Errorf("namespace %s: %q", namespace, out)
			}
		}
		removeImage(t, n, "one", ref)
		if out := run(t, n, stack.Container{Ref: ref, Namespace: "two"}); out != hello {
			t.Errorf("after the removal in the other namespace: %q", out)
		}
		walk(t, n, lazily(stack.Container{Ref: ref, Namespace: "two"}), images.OddDir)
		pull(t, n, stack.Container{Ref: ref, Namespace: "one"})
		if out := run(t, n, stack.Container{Ref: ref, Namespace: "one"}); out != hello {
			t.Errorf("pulled again: %q", out)
		}
	})
}

// removeImage removes an image and waits until containerd has collected what only it needed.
func removeImage(t *testing.T, n *stack.Node, namespace, ref string) {
	t.Helper()
	if _, err := n.Ctr(t.Context(), "-n", namespace, "image", "rm", "--sync", ref); err != nil {
		t.Fatal(err)
	}
}

// TestPulledAtOnce pulls one image from two clients and two namespaces at the same time.
func TestPulledAtOnce(t *testing.T) {
	eachMount(t, func(t *testing.T, mount string) {
		reg := registry(t)
		n := node(t, mount)
		im := lazyImage(t, odd)
		ref := upload(t, reg, im, "test/odd:esgz")
		reg.Link.ResetCounts()
		var wg sync.WaitGroup
		for _, namespace := range []string{"one", "one", "two", "two"} {
			wg.Go(func() {
				c := lazily(stack.Container{Ref: ref, Namespace: namespace})
				if err := n.Pull(t.Context(), c); err != nil {
					t.Errorf("pull: %v", err)
					return
				}
				if out, err := n.Run(t.Context(), c); err != nil || out != hello {
					t.Errorf("run: %q, %v", out, err)
				}
			})
		}
		wg.Wait()
		for d, count := range reg.Link.Counts().Blobs {
			i := slices.IndexFunc(im.Manifest.Layers, func(l ocispec.Descriptor) bool { return l.Digest == d })
			if i >= 0 && count.Bytes > 2*im.Manifest.Layers[i].Size {
				t.Errorf("layer %d: %+v at the link, of %d bytes", i, count, im.Manifest.Layers[i].Size)
			}
		}
	})
}

// TestRemoved checks that a removed image leaves no layer and no mount behind, and can be pulled again.
func TestRemoved(t *testing.T) {
	eachMount(t, func(t *testing.T, mount string) {
		reg := registry(t)
		n := node(t, mount)
		ref := upload(t, reg, lazyImage(t, odd), "test/odd:esgz")
		for range 2 {
			reg.Link.ResetCounts()
			pull(t, n, stack.Container{Ref: ref})
			if out := run(t, n, stack.Container{Ref: ref}); out != hello {
				t.Errorf("%q", out)
			}
			if got := reg.Link.Counts().Kinds[link.Blob]; got.Bytes == 0 {
				t.Error("nothing was fetched: something was left of the last time")
			}
			removeImage(t, n, "default", ref)
			s, err := n.Status(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			if len(s.Layers) > 0 {
				t.Errorf("layers are left: %+v", s.Layers)
			}
		}
	})
}

// TestOverlayfsBesideSluice has one image on both snapshotters at once.
func TestOverlayfsBesideSluice(t *testing.T) {
	reg := registry(t)
	n := node(t, "auto")
	ref := upload(t, reg, lazyImage(t, odd), "test/odd:esgz")
	pull(t, n, stack.Container{Ref: ref})
	if err := n.Pull(t.Context(), stack.Container{Ref: ref}); err != nil {
		t.Fatal(err)
	}
	got := walk(t, n, lazily(stack.Container{Ref: ref}), images.OddDir)
	want := walk(t, n, stack.Container{Ref: ref}, images.OddDir)
	if !slices.Equal(slices.Sorted(maps.Keys(got)), slices.Sorted(maps.Keys(want))) {
		t.Errorf("%d paths, and %d on overlayfs", len(got), len(want))
	}
}

// TestTwoRegistries has one image in two registries, pulled into two namespaces. When the first registry is gone, the layers that
// the two share are read from the second.
func TestTwoRegistries(t *testing.T) {
	first, second := registry(t), registry(t)
	o := daemon("auto")
	o.TOML = strings.Replace(o.TOML, "[registry]\n", "[registry]\nmax_attempts = 2\n", 1)
	n := nodeWith(t, stack.NodeOptions{Daemon: o})
	pull(t, n, stack.Container{Ref: upload(t, first, lazyImage(t, odd), "test/odd:first")})
	shared := stack.Container{Ref: upload(t, second, lazyImage(t, odd), "test/odd:second"), Namespace: "other"}
	pull(t, n, shared)
	if err := first.Stop(); err != nil {
		t.Fatal(err)
	}
	tree := walk(t, n, lazily(shared), images.OddDir+"/files")
	if got, want := len(tree), 7; got < want {
		t.Errorf("%d paths, want %d at least", got, want)
	}
}

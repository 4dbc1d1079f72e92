package workload

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/opencontainers/go-digest"

	"github.com/sluice-snapshotter/sluice/integration/images"
	"github.com/sluice-snapshotter/sluice/integration/link"
	"github.com/sluice-snapshotter/sluice/integration/stack"
)

func TestMain(m *testing.M) { os.Exit(stack.Isolate(m.Run)) }

// TestAll runs each workload with overlayfs; those whose images are large or come from a network only with SLUICE_TEST_ALL, which
// "make test-all" sets.
func TestAll(t *testing.T) {
	if os.Getenv("SLUICE_TEST_ALL") == "" {
		t.Skip("large images: run by make test-all")
	}
	bases := make(map[digest.Digest][]string)
	for _, w := range All() {
		t.Run(w.Name, func(t *testing.T) {
			im := image(t, w)
			runs(t, w, im)
			if strings.HasPrefix(filepath.Base(im.Dir), "debian-") {
				base := im.Manifest.Layers[1].Digest // above /probe
				bases[base] = append(bases[base], w.Name)
			}
		})
	}
	if len(bases) > 1 {
		t.Errorf("the images of packages have several bases: %v", bases)
	}
}

// TestSynthetic runs the commands of the smaller images that are made here.
func TestSynthetic(t *testing.T) {
	for name, make := range synthetic {
		t.Run(name, func(t *testing.T) {
			w := says(Workload{Image: make}, images.SampleLine)
			runs(t, w, image(t, w))
		})
	}
}

func TestNames(t *testing.T) {
	seen := make(map[string]bool)
	for _, w := range All() {
		if w.Name == "" || seen[w.Name] {
			t.Errorf("there are two named %q", w.Name)
		}
		seen[w.Name] = true
		if w.Output != "" && w.Output != w.Ready+"\n" {
			t.Errorf("%s is ready at %q and prints %q", w.Name, w.Ready, w.Output)
		}
	}
}

// image makes a workload's image, where that is possible.
func image(t *testing.T, w Workload) *images.Image {
	t.Helper()
	im, err := w.Image(t.Context())
	if unavailable := (*images.UnavailableError)(nil); errors.As(err, &unavailable) {
		t.Skip(unavailable)
	}
	if err != nil {
		t.Fatal(err)
	}
	return im
}

// runs pulls a workload's image, runs it twice, and compares what it prints.
func runs(t *testing.T, w Workload, im *images.Image) {
	t.Helper()
	reg, err := stack.StartRegistry(t.Context(), link.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { closed(t, reg) })
	n, err := stack.StartNode(t.Context(), stack.NodeOptions{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { closed(t, n) })
	ref, err := reg.Push(t.Context(), im, "test/workload:plain")
	if err != nil {
		t.Fatal(err)
	}
	c := stack.Container{Ref: ref, Args: w.Args}
	if err := n.Pull(t.Context(), c); err != nil {
		t.Fatal(err)
	}
	want := w.Output
	for range 2 {
		out, err := n.Run(t.Context(), c)
		if err != nil {
			t.Error(err)
		}
		if want == "" {
			want = out
		}
		if out != want || out == "" || !strings.HasPrefix(out, w.Ready) {
			t.Errorf("it prints %q, want %q", out, want)
		}
	}
}

func closed(t *testing.T, c interface{ Close() error }) {
	if err := c.Close(); err != nil {
		t.Error(err)
	}
}

var synthetic = map[string]func(context.Context) (*images.Image, error){
	"layers":   func(ctx context.Context) (*images.Image, error) { return images.Layers(ctx, 10) },
	"files":    func(ctx context.Context) (*images.Image, error) { return images.Files(ctx, 1000) },
	"distinct": func(ctx context.Context) (*images.Image, error) { return images.Distinct(ctx, 0) },
}

package integration

import (
	"archive/tar"
	"compress/gzip"
	"errors"
	"io"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/sluice-snapshotter/sluice/integration/images"
	"github.com/sluice-snapshotter/sluice/integration/link"
	"github.com/sluice-snapshotter/sluice/integration/stack"
)

// fetched is a file of the odd image in several chunks that nothing prefetches.
const fetched = images.OddDir + "/files/many chunks"

// TestFaultsThatPass has a registry that misbehaves for a while, at the pull and again at the reading: all goes well in the end, and
// every byte is right.
func TestFaultsThatPass(t *testing.T) {
	for _, c := range []struct {
		name  string
		rule  link.Rule
		fault link.Effect
	}{
		{"429", link.Rule{Count: 2}, link.Status{Code: 429, RetryAfter: time.Second}},
		{"500", link.Rule{Count: 2}, link.Status{Code: 500}},
		{"503", link.Rule{Count: 2}, link.Status{Code: 503}},
		{"503 now and then", link.Rule{Probability: 0.5, Seed: 1}, link.Status{Code: 503}},
		{"200 instead of 206", link.Rule{}, link.WholeBody{}},
		{"truncated", link.Rule{Count: 3}, link.Truncate{After: 1000}},
		{"truncated each time", link.Rule{}, link.Truncate{After: 1_000_000}},
		{"corrupted once", link.Rule{Count: 1}, link.Corrupt{}},
		{"reset", link.Rule{Count: 2}, link.Reset{After: -1}},
		{"reset in the body", link.Rule{Count: 2}, link.Reset{After: 5000}},
		{"stalled", link.Rule{Count: 1}, link.Stall{After: -1}},
		{"stalled in the body", link.Rule{Count: 1}, link.Stall{After: 5000}},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			reg := registry(t)
			n := node(t, "auto")
			ref := upload(t, reg, lazyImage(t, odd), "test/odd:esgz")
			// Only the layer is hit: what containerd asks for itself, it repeats as it likes.
			c.rule.Blob = largestLayer(t, odd).Digest
			atPull := reg.Link.Inject(c.rule, c.fault)
			pull(t, n, stack.Container{Ref: ref})
			if atPull.Hits() == 0 {
				t.Error("the pull met no fault")
			}
			atPull.Remove()
			atRead := reg.Link.Inject(c.rule, c.fault)
			readRight(t, n, ref)
			if atRead.Hits() == 0 {
				t.Error("the read met no fault")
			}
		})
	}
}

// TestUnreliableRegistry has every kind of fault hit 5 % of all requests for layers, wrong bytes among them, while a container reads its
// whole image and background fetches it, too: every byte is right.
func TestUnreliableRegistry(t *testing.T) {
	eachMountOfAll(t, func(t *testing.T, mount string) {
		t.Parallel()
		reg := registry(t)
		o := daemon(mount)
		o.TOML = strings.Replace(o.TOML, "background = false", "background = true", 1)
		n := nodeWith(t, stack.NodeOptions{Daemon: o})
		dirs := []string{"/usr", "/hello", "/probe"}
		plain := stack.Container{Ref: upload(t, reg, plainImage(t, goroot), "test/goroot:plain")}
		if err := n.Pull(t.Context(), plain); err != nil {
			t.Fatal(err)
		}
		want := walk(t, n, plain, dirs...)

		im := lazyImage(t, goroot)
		lazy := stack.Container{Ref: upload(t, reg, im, "test/goroot:esgz")}
		var faults []*link.Injection
		inject := func(fault link.Effect) {
			for _, l := range im.Manifest.Layers { // and not what containerd asks for, who gives up at once
				rule := link.Rule{Method: "GET", Blob: l.Digest, Probability: 0.05, Seed: uint64(len(faults))}
				faults = append(faults, reg.Link.Inject(rule, fault))
			}
		}
		inject(link.Flip{})
		for _, fault := range unreliable {
			inject(fault)
		}
		reg.Link.ResetCounts()
		pull(t, n, lazy)
		sameTree(t, walk(t, n, lazily(lazy), dirs...), want)
		hits := 0
		for _, f := range faults {
			hits += f.Hits()
		}
		if hits < 10 {
			t.Errorf("only %d faults", hits)
		}
		t.Logf("%d faults in %d requests", hits, reg.Link.Counts().Total().Requests)
	})
}

// TestFaultsThatStay has a registry that goes on misbehaving: the pull fails, the read fails, both in time, and when the registry
// is well again both succeed.
func TestFaultsThatStay(t *testing.T) {
	for _, c := range []struct {
		name  string
		fault link.Effect
		says  string // in the error of the pull
	}{
		{"403", link.Status{Code: 403}, "403"},
		{"404", link.Status{Code: 404}, "not found"},
		{"429", link.Status{Code: 429}, "429"},
		{"500", link.Status{Code: 500}, "500"},
		{"corrupted", link.Corrupt{}, "sha256:"},
		{"truncated at once", link.Truncate{}, "unexpected EOF"},
		{"reset", link.Reset{After: -1}, "reset by peer"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			reg := registry(t)
			o := daemon("auto")
			o.TOML = strings.Replace(o.TOML, "[registry]\n", "[registry]\nmax_attempts = 2\n", 1)
			n := nodeWith(t, stack.NodeOptions{Daemon: o})
			ref := upload(t, reg, lazyImage(t, odd), "test/odd:esgz")
			image := lazily(stack.Container{Ref: ref})
			rule := link.Rule{Blob: largestLayer(t, odd).Digest}

			fault := reg.Link.Inject(rule, c.fault)
			if err := n.Pull(t.Context(), image); err == nil || !strings.Contains(err.Error(), c.says) {
				t.Errorf("pull: %v; want one that says %q", err, c.says)
			}
			fault.Remove()
			pull(t, n, image)

			fault = reg.Link.Inject(rule, c.fault)
			image.Args = []string{"/probe", "read", fetched}
			if out, err := n.Run(t.Context(), image); err == nil || !strings.Contains(err.Error(), "input/output error") {
				t.Errorf("read: %d bytes, %v; want an I/O error", len(out), err)
			}
			fault.Remove()
			readRight(t, n, ref)
		})
	}
}

// TestRefused has nobody at the registry's address.
func TestRefused(t *testing.T) {
	reg := registry(t)
	n := node(t, "auto")
	ref := upload(t, reg, lazyImage(t, odd), "test/odd:esgz")
	if err := reg.Link.Refuse(); err != nil {
		t.Fatal(err)
	}
	if err := n.Pull(t.Context(), lazily(stack.Container{Ref: ref})); err == nil || !strings.Contains(err.Error(), "connection refused") {
		t.Errorf("pull: %v", err)
	}
	if err := reg.Link.Accept(); err != nil {
		t.Fatal(err)
	}
	pull(t, n, stack.Container{Ref: ref})
	readRight(t, n, ref)
}

// readRight reads a file that had not been fetched, in a container, and compares it with the ordinary image's.
func readRight(t *testing.T, n *stack.Node, ref string) {
	t.Helper()
	got := walk(t, n, lazily(stack.Container{Ref: ref}), fetched)[fetched]
	want := contentOf(t, plainImage(t, odd), fetched)
	if sum := digest.FromString(want).Encoded(); got.SHA256 != sum || got.Size != int64(len(want)) {
		t.Errorf("%s: %d bytes with digest %s, not the ordinary image's %d with %s", fetched, got.Size, got.SHA256, len(want), sum)
	}
}

// largestLayer is the layer of the lazy image that holds the large files.
func largestLayer(t *testing.T, s subject) ocispec.Descriptor {
	t.Helper()
	return slices.MaxFunc(lazyImage(t, s).Manifest.Layers, func(a, b ocispec.Descriptor) int { return int(a.Size - b.Size) })
}

// contentOf finds a file in the lowest layer that has it.
func contentOf(t *testing.T, im *images.Image, path string) string {
	t.Helper()
	for _, l := range im.Manifest.Layers {
		f, err := os.Open(blobPath(im.Dir, l.Digest))
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		zr, err := gzip.NewReader(f)
		if err != nil {
			t.Fatal(err)
		}
		for tr := tar.NewReader(zr); ; {
			h, err := tr.Next()
			if errors.Is(err, io.EOF) {
				break
			}
			if err != nil {
				t.Fatal(err)
			}
			if "/"+h.Name != path {
				continue
			}
			content, err := io.ReadAll(tr)
			if err != nil {
				t.Fatal(err)
			}
			return string(content)
		}
	}
	t.Fatalf("there is no %s in the image", path)
	return ""
}

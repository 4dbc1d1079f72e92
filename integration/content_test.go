package integration

import (
	"archive/tar"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/sluice-snapshotter/sluice/integration/images"
	"github.com/sluice-snapshotter/sluice/integration/stack"
)

// TestContent asks for the blobs of a lazily pulled image, which are not in the content store: export, and push to a registry that
// lacks them, say which one is missing, and "ctr content fetch" brings them.
func TestContent(t *testing.T) {
	reg, other := registry(t), registry(t)
	n := node(t, "auto")
	im := lazyImage(t, odd)
	ref := upload(t, reg, im, "test/odd:esgz")
	pull(t, n, stack.Container{Ref: ref})
	archive := filepath.Join(t.TempDir(), "odd.tar")
	for _, args := range [][]string{
		{"image", "export", archive, ref},
		{"image", "export", "--local", archive, ref},
		{"image", "push", other.Ref("test/copy:esgz"), ref},
		{"image", "push", "--local", other.Ref("test/copy:esgz"), ref},
	} {
		_, err := n.Ctr(t.Context(), args...)
		if err == nil || !strings.Contains(err.Error(), "sha256:") || !strings.Contains(err.Error(), "not found") {
			t.Errorf("ctr %v: %v; want the digest of a blob that is not found", args, err)
		}
	}

	if _, err := n.Ctr(t.Context(), "content", "fetch", ref); err != nil {
		t.Fatal(err)
	}
	for _, args := range [][]string{
		{"image", "export", "--local", archive, ref},
		{"image", "push", other.Ref("test/copy:esgz"), ref},
	} {
		if _, err := n.Ctr(t.Context(), args...); err != nil {
			t.Errorf("after the fetch: %v", err)
		}
	}
	holds(t, archive, im)
	copied := stack.Container{Ref: other.Ref("test/copy:esgz"), Namespace: "other"}
	pull(t, n, copied)
	if out := run(t, n, copied); out != hello {
		t.Errorf("the pushed copy prints %q", out)
	}
}

// holds checks that an OCI archive has all blobs of an image.
func holds(t *testing.T, archive string, im *images.Image) {
	t.Helper()
	f, err := os.Open(archive)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	sizes := make(map[string]int64)
	for tr := tar.NewReader(f); ; {
		h, err := tr.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		sizes[h.Name] = h.Size
	}
	for _, d := range append([]ocispec.Descriptor{im.Target, im.Manifest.Config}, im.Manifest.Layers...) {
		name := "blobs/sha256/" + d.Digest.Encoded()
		if size, ok := sizes[name]; !ok || size != d.Size {
			t.Errorf("%s: %d bytes in the archive, want %d", name, size, d.Size)
		}
	}
}

// TestAllContent pulls lazily with all content, as for a later push: the layers are mounted, and their blobs are there.
func TestAllContent(t *testing.T) {
	reg := registry(t)
	n := node(t, "auto")
	im := lazyImage(t, odd)
	ref := upload(t, reg, im, "test/odd:esgz")
	if _, err := n.CtrRemote(t.Context(), "image", "rpull", "--all-content", ref); err != nil {
		t.Fatal(err)
	}
	s, err := n.Status(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if len(s.Layers) != len(im.Manifest.Layers) {
		t.Errorf("%d layers are mounted, want %d", len(s.Layers), len(im.Manifest.Layers))
	}
	archive := filepath.Join(t.TempDir(), "odd.tar")
	// Not by the transfer service: its stream may lose the end of the archive, and ctr does not notice.
	if _, err := n.Ctr(t.Context(), "image", "export", "--local", archive, ref); err != nil {
		t.Fatal(err)
	}
	holds(t, archive, im)
}

// TestSeen checks what the daemon says of itself against what the link saw.
func TestSeen(t *testing.T) {
	eachMount(t, func(t *testing.T, mount string) {
		reg := registry(t)
		n := node(t, mount)
		im := lazyImage(t, goroot)
		ref := upload(t, reg, im, "test/goroot:esgz")
		c := stack.Container{Ref: ref}
		pull(t, n, c)
		goVersion(t, run(t, n, c))

		s, err := n.Status(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if len(s.Layers) != len(im.Manifest.Layers) {
			t.Errorf("%d layers, want %d", len(s.Layers), len(im.Manifest.Layers))
		}
		for _, l := range s.Layers {
			if l.Image != ref || l.Format != "estargz" || l.Fetched > l.Size || (l.State != "lazy" && l.State != "complete") {
				t.Errorf("layer %+v", l)
			}
		}
		if s.Memory.Inflight < 0 || s.Memory.Limit <= 0 || s.Cache.Bytes <= 0 {
			t.Errorf("status %+v", s)
		}

		m, err := n.Metrics(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if got := m.Sum("sluice_start_seconds", map[string]string{"phase": "resolve"}); int(got) != len(im.Manifest.Layers) {
			t.Errorf("%.0f layers were resolved, want %d", got, len(im.Manifest.Layers))
		}
		seen := reg.Link.Counts().Total().Bytes
		if got := m.Sum("sluice_fetch_bytes_total", nil); got <= 0 || got > float64(seen) {
			t.Errorf("sluice_fetch_bytes_total is %.0f, the link saw %d", got, seen)
		}
		if got := m.Sum("sluice_layers", nil); int(got) != len(im.Manifest.Layers) {
			t.Errorf("sluice_layers sums up to %.0f, want %d", got, len(im.Manifest.Layers))
		}
		for _, name := range []string{"sluice_fetch_bytes_total", "sluice_fetch_requests_total", "sluice_mounts", "sluice_cache_bytes", "sluice_cache_pinned_bytes", "sluice_cache_refused_total"} {
			if m[name] == nil {
				t.Errorf("there is no metric %s", name)
			}
		}
	})
}

package integration

import (
	"path/filepath"
	"strings"
	"testing"

	"github.com/sluice-snapshotter/sluice/fs/toc"
	"github.com/sluice-snapshotter/sluice/integration/images"
	"github.com/sluice-snapshotter/sluice/integration/stack"
)

// TestZstdChunked converts to zstd:chunked, pulls lazily, and compares what a container sees with containerd's unpacking of the ordinary
// image on overlayfs, and of the converted one: whoever knows nothing of the format unpacks it as any layer of zstd.
func TestZstdChunked(t *testing.T) {
	plain := plainImage(t, odd)
	dir := filepath.Join(t.TempDir(), "zstd")
	if _, err := stack.CtrRemote(t.Context(), "image", "convert", "--zstdchunked", "oci:"+plain.Dir+":latest", "oci:"+dir+":latest"); err != nil {
		t.Fatal(err)
	}
	im, err := images.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	dirs := []string{images.OddDir, "/etc", "/probe", "/tmp"}
	eachMount(t, func(t *testing.T, mount string) {
		reg := registry(t)
		n := node(t, mount)
		ordinary := stack.Container{Ref: upload(t, reg, plain, "test/odd:plain")}
		zstd := stack.Container{Ref: upload(t, reg, im, "test/odd:zstd")}
		if err := n.Pull(t.Context(), ordinary); err != nil {
			t.Fatal(err)
		}
		want := walk(t, n, ordinary, dirs...)
		reg.Link.ResetCounts()
		pull(t, n, zstd)
		fewBytes(t, reg, im)
		s, err := n.Status(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		for _, l := range s.Layers {
			if l.Format != "zstd:chunked" {
				t.Errorf("layer %+v", l)
			}
		}
		if len(s.Layers) != len(im.Manifest.Layers) {
			t.Errorf("%d layers are lazy, the image has %d", len(s.Layers), len(im.Manifest.Layers))
		}
		sameTree(t, walk(t, n, lazily(zstd), dirs...), want)
		if err := n.Pull(t.Context(), zstd); err != nil {
			t.Fatal(err)
		}
		for _, l := range im.Manifest.Layers {
			got, err := n.CtrRemote(t.Context(), "image", "get-toc-digest", l.Digest.String())
			if want := l.Annotations[toc.TOCDigestAnnotation]; err != nil || strings.TrimSpace(got) != want {
				t.Errorf("layer %s: TOC digest %q, want %s: %v", l.Digest, got, want, err)
			}
		}
		sameTree(t, walk(t, n, zstd, dirs...), want)
	})
}

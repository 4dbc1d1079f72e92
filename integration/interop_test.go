package integration

import (
	"archive/tar"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/containerd/stargz-snapshotter/estargz"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/sluice-snapshotter/sluice/integration/images"
	"github.com/sluice-snapshotter/sluice/integration/stack"
)

// TestLayersOfStargz mounts layers that stargz-snapshotter's converter made, and compares them with containerd's unpacking of the
// image that they were made from.
func TestLayersOfStargz(t *testing.T) {
	dirs := []string{"/bin", "/etc/link", "/etc", "/big.bin", "/fifo", "/x", "/empty", "/opq", "/tmp", "/added", "/" + strings.Repeat("n", 200)}
	for _, c := range []struct{ name, format string }{
		{"estargz", "estargz"},
		{"estargz-min-chunk", "estargz"},
		{"zstdchunked", "zstd:chunked"},
	} {
		t.Run(c.name, func(t *testing.T) {
			eachMount(t, func(t *testing.T, mount string) {
				reg := registry(t)
				n := node(t, mount)
				plain := upload(t, reg, onProbe(t, archived(t, "stargz/source")), "test/peer:plain")
				lazy := upload(t, reg, onProbe(t, archived(t, "stargz/"+c.name)), "test/peer:lazy")
				if err := n.Pull(t.Context(), stack.Container{Ref: plain}); err != nil {
					t.Fatal(err)
				}
				pull(t, n, stack.Container{Ref: lazy})
				layersOf(t, n, c.format, 2)
				want := walk(t, n, stack.Container{Ref: plain}, dirs...)
				sameTree(t, walk(t, n, lazily(stack.Container{Ref: lazy}), dirs...), want)
				if len(want) < 14 {
					t.Errorf("only %d paths on overlayfs", len(want))
				}
			})
		})
	}
}

// layersOf checks how many layers of a format the daemon has.
func layersOf(t *testing.T, n *stack.Node, format string, want int) {
	t.Helper()
	s, err := n.Status(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	got := 0
	for _, l := range s.Layers {
		if l.Format == format {
			got++
		}
	}
	if got != want {
		t.Errorf("layers %+v, want %d of %s", s.Layers, want, format)
	}
}

// TestLayersOfPodman does the same with zstd:chunked layers that podman's library and skopeo have made: while they are lazy, and
// mounted as complete ones.
func TestLayersOfPodman(t *testing.T) {
	dirs := []string{"/holes", "/big.bin", "/opq", "/added"}
	plain := onProbe(t, archived(t, "podman/source"))
	for _, name := range []string{"podman", "skopeo"} {
		t.Run(name, func(t *testing.T) {
			im := onProbe(t, archived(t, "podman/"+name))
			lazy := subject{lazy: func() (*images.Image, error) { return im, nil }}
			eachState(t, lazy, func(t *testing.T, n *stack.Node, c stack.Container) {
				reg := registry(t)
				ordinary := stack.Container{Ref: upload(t, reg, plain, "test/podman:plain")}
				if err := n.Pull(t.Context(), ordinary); err != nil {
					t.Fatal(err)
				}
				layersOf(t, n, "zstd:chunked", 2)
				want := walk(t, n, ordinary, dirs...)
				sameTree(t, walk(t, n, lazily(c), dirs...), want)
				if len(want) < 14 {
					t.Errorf("only %d paths on overlayfs", len(want))
				}
			})
		})
	}
}

// TestOursElsewhere gives converted layers to those who know nothing of them: containerd's overlayfs, umoci and tar, who see the
// same tree but for the entries that eStargz adds.
func TestOursElsewhere(t *testing.T) {
	plain, lazy := plainImage(t, odd), lazyImage(t, odd)
	start := time.Now().UnixNano()
	t.Run("overlayfs", func(t *testing.T) {
		reg := registry(t)
		n := nodeWith(t, stack.NodeOptions{})
		dirs := []string{images.OddDir, "/etc", "/probe"}
		trees := make(map[*images.Image]map[string]entry)
		for im, name := range map[*images.Image]string{plain: "test/odd:plain", lazy: "test/odd:lazy"} {
			c := stack.Container{Ref: upload(t, reg, im, name)}
			if err := n.Pull(t.Context(), c); err != nil {
				t.Fatal(err)
			}
			trees[im] = walk(t, n, c, dirs...)
		}
		sameTree(t, trees[lazy], trees[plain])
	})
	t.Run("umoci", func(t *testing.T) {
		program(t, "umoci")
		unpack := func(im *images.Image) string {
			bundle := filepath.Join(t.TempDir(), "bundle")
			command(t, "umoci", "unpack", "--image", im.Dir+":latest", bundle)
			return filepath.Join(bundle, "rootfs")
		}
		sameFolder(t, unpack(lazy), unpack(plain), start)
	})
	t.Run("tar", func(t *testing.T) {
		for i := range plain.Manifest.Layers {
			unpack := func(im *images.Image) string {
				dir := t.TempDir()
				command(t, "tar", "-C", dir, "-xpzf", blobPath(im.Dir, im.Manifest.Layers[i].Digest), "--xattrs", "--xattrs-include=*")
				return dir
			}
			sameFolder(t, unpack(lazy), unpack(plain), start)
		}
	})
}

// sameFolder compares two trees on this host, unpacked after some ns since 1970. The lazy one may have what eStargz adds.
func sameFolder(t *testing.T, lazy, plain string, unpacked int64) {
	t.Helper()
	probe := filepath.Join(t.TempDir(), "probe")
	if err := os.WriteFile(probe, []byte(contentOf(t, plainImage(t, odd), "/probe")), 0o755); err != nil {
		t.Fatal(err)
	}
	list := func(dir string) map[string]entry {
		tree := make(map[string]entry)
		for line := range strings.Lines(command(t, probe, "walk", "-data", dir)) {
			var e entry
			if err := json.Unmarshal([]byte(line), &e); err != nil {
				t.Fatal(err)
			}
			e.Path, e.Link = strings.TrimPrefix(e.Path, dir), strings.TrimPrefix(e.Link, dir)
			tree[e.Path] = e
		}
		return tree
	}
	got, want := list(lazy), list(plain)
	for path, g := range got { // made on the way to a file, without an entry of its own: its time is that of the unpacking
		if w := want[path]; g.Type == "dir" && g.Mtime > unpacked && w.Mtime > unpacked {
			g.Mtime = w.Mtime
			got[path] = g
		}
	}
	if _, ok := got["/"+estargz.TOCTarName]; !ok {
		t.Error("the converted layer has no TOC")
	}
	for _, added := range []string{estargz.TOCTarName, estargz.PrefetchLandmark, estargz.NoPrefetchLandmark} {
		delete(got, "/"+added)
	}
	sameTree(t, got, want)
}

// archived opens an image of testdata.
func archived(t *testing.T, name string) *images.Image {
	t.Helper()
	dir := t.TempDir()
	f, err := os.Open(filepath.Join("testdata", filepath.FromSlash(name)+".tar"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	for tr := tar.NewReader(f); ; {
		h, err := tr.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		if h.Typeflag != tar.TypeReg {
			continue
		}
		b, err := io.ReadAll(tr)
		path := filepath.Join(dir, filepath.FromSlash(h.Name))
		if err := errors.Join(err, os.MkdirAll(filepath.Dir(path), 0o755), os.WriteFile(path, b, 0o644)); err != nil {
			t.Fatal(err)
		}
	}
	im, err := images.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	return im
}

// onProbe puts an image onto the layer that has /probe.
func onProbe(t *testing.T, im *images.Image) *images.Image {
	t.Helper()
	dir, base := t.TempDir(), pause(t)
	var config, baseConfig ocispec.Image
	readBlob(t, im.Dir, im.Manifest.Config.Digest, &config)
	readBlob(t, base.Dir, base.Manifest.Config.Digest, &baseConfig)
	for _, from := range []*images.Image{base, im} {
		for _, l := range from.Manifest.Layers {
			copyBlob(t, from.Dir, dir, l.Digest)
		}
	}
	config.RootFS.DiffIDs = slices.Concat(baseConfig.RootFS.DiffIDs, config.RootFS.DiffIDs)
	config.History = nil
	manifest := im.Manifest
	manifest.Layers = slices.Concat(base.Manifest.Layers, im.Manifest.Layers)
	manifest.Config = writeBlob(t, dir, manifest.Config.MediaType, config)
	return &images.Image{Dir: dir, Target: writeBlob(t, dir, im.Target.MediaType, manifest), Manifest: manifest}
}

// program skips the test where a program is missing that the Makefile installs where it can.
func program(t *testing.T, name string) {
	t.Helper()
	if _, err := exec.LookPath(name); err != nil {
		t.Skipf("no %s here: %v", name, err)
	}
}

func command(t *testing.T, name string, args ...string) string {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), name, args...)
	out, err := cmd.Output()
	if err != nil {
		var exit *exec.ExitError
		if errors.As(err, &exit) {
			err = fmt.Errorf("%w: %s", err, exit.Stderr)
		}
		t.Fatalf("%s %s: %v", name, strings.Join(args, " "), err)
	}
	return string(out)
}

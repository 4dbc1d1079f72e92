package integration

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/containerd/stargz-snapshotter/estargz"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sys/unix"

	"github.com/sluice-snapshotter/sluice/integration/images"
	"github.com/sluice-snapshotter/sluice/integration/stack"
)

// badLayer is what a registry may serve for a layer: its blob, and what the image says of it.
type badLayer struct {
	blob []byte
	toc  []byte // its digest is in the annotation
	diff digest.Digest
}

// TestBadLayers pulls images whose largest layer lies about itself. It is not mounted; one warning says which layer of which image,
// and why; containerd unpacks it instead, or finds that it is not what the image says; what is read is right.
func TestBadLayers(t *testing.T) {
	entry := func(e estargz.TOCEntry) func(*estargz.JTOC) {
		return func(toc *estargz.JTOC) { toc.Entries = append(toc.Entries, &e) }
	}
	none := digest.FromString("").String()
	for _, c := range []struct {
		name  string
		edit  func(*estargz.JTOC)
		cut   int  // bytes of the blob's end
		other bool // the annotation has the digest of something else
		says  string
	}{
		{name: "another TOC", other: true, says: "digest"},
		{name: "no footer", cut: estargz.FooterSize, says: "footer"},
		{name: "dotdot", edit: entry(estargz.TOCEntry{Name: "../../evil", Type: "dir"}), says: "../../evil"},
		{name: "absolute", edit: entry(estargz.TOCEntry{Name: "/evil", Type: "symlink", LinkName: "x"}), says: "/evil"},
		{name: "long name", edit: entry(estargz.TOCEntry{Name: strings.Repeat("n", 256), Type: "dir"}), says: "nnn"},
		{name: "two kinds", edit: entry(estargz.TOCEntry{Name: "odd/files/byte", Type: "dir"}), says: "odd/files/byte"},
		{name: "huge", edit: entry(estargz.TOCEntry{Name: "evil", Type: "reg", Size: 1<<63 - 1, ChunkDigest: none}), says: "evil"},
		{name: "outside of the blob", edit: entry(estargz.TOCEntry{Name: "evil", Type: "reg", Size: 5, Offset: 1 << 62, ChunkDigest: none}), says: "evil"},
		{name: "link to nowhere", edit: entry(estargz.TOCEntry{Name: "evil", Type: "hardlink", LinkName: "no/where"}), says: "evil"},
		{name: "link to a folder", edit: entry(estargz.TOCEntry{Name: "evil", Type: "hardlink", LinkName: "odd"}), says: "evil"},
		{name: "under a file", edit: entry(estargz.TOCEntry{Name: "odd/files/byte/evil", Type: "dir"}), says: "evil"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			reg := registry(t)
			n := node(t, "auto")
			im := lazyImage(t, odd)
			at := slices.IndexFunc(im.Manifest.Layers, func(l ocispec.Descriptor) bool { return l.Digest == largestLayer(t, odd).Digest })
			bad := remake(t, im, at, c.edit, c.cut)
			if c.other {
				bad.toc = []byte("something else")
			}
			changed := replace(t, im, at, bad)
			ref := upload(t, reg, changed, "test/odd:bad")
			pull(t, n, stack.Container{Ref: ref})
			readRight(t, n, ref)
			layer := changed.Manifest.Layers[at].Digest.String()
			if got := warnings(n, layer); len(got) != 1 || !strings.Contains(got[0], ref) || !strings.Contains(got[0], c.says) {
				t.Errorf("the log has these warnings, want one with image, layer and %q:\n%s", c.says, strings.Join(got, "\n"))
			}
			s, err := n.Status(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			if len(s.Layers) != len(im.Manifest.Layers)-1 {
				t.Errorf("%d layers are mounted, want all %d but one", len(s.Layers), len(im.Manifest.Layers))
			}
		})
	}
}

// TestFullDisk gives the daemon a store that is too small. What a container reads is right all the same, and the log says why it is
// slow.
func TestFullDisk(t *testing.T) {
	image, root := filepath.Join(t.TempDir(), "disk"), t.TempDir()
	layers := filepath.Join(root, "layers")
	err := errors.Join(os.WriteFile(image, nil, 0o600), os.Truncate(image, 8<<20), os.Mkdir(layers, 0o700))
	if err != nil {
		t.Fatal(err)
	}
	command(t, "mkfs.ext4", "-q", "-O", "^has_journal", image)
	command(t, "mount", "-o", "loop", image, layers)
	t.Cleanup(func() {
		if err := unix.Unmount(layers, 0); err != nil {
			t.Errorf("unmount %s: %v", layers, err)
		}
	})
	reg := registry(t)
	o := daemon("auto")
	o.TOML += "[cache]\nlimit_percent = 0\n"
	o.Args = []string{"--root", root}
	n := nodeWith(t, stack.NodeOptions{Daemon: o})
	ref := upload(t, reg, lazyImage(t, odd), "test/odd:esgz")
	pull(t, n, stack.Container{Ref: ref})
	readRight(t, n, ref)
	readRight(t, n, ref)
	if got := warnings(n, largestLayer(t, odd).Digest.String()); len(got) != 1 || !strings.Contains(got[0], "no space left on device") {
		t.Errorf("the log has these warnings, want one of a full disk:\n%s", strings.Join(got, "\n"))
	}
}

// warnings are the lines of the daemon's log about a layer that somebody should read.
func warnings(n *stack.Node, layer string) []string {
	var lines []string
	for line := range strings.Lines(n.Tail(1000)) {
		serious := strings.Contains(line, "level=warning") || strings.Contains(line, "level=error")
		if serious && strings.Contains(line, layer) && !strings.Contains(line, "runtime=") {
			lines = append(lines, line)
		}
	}
	return lines
}

// remake builds layer i anew with another TOC, as somebody would who means harm: everything fits but what was changed.
func remake(t *testing.T, im *images.Image, i int, edit func(*estargz.JTOC), cut int) badLayer {
	t.Helper()
	good, err := os.ReadFile(blobPath(im.Dir, im.Manifest.Layers[i].Digest))
	if err != nil {
		t.Fatal(err)
	}
	off, _, err := estargz.OpenFooter(io.NewSectionReader(bytes.NewReader(good), 0, int64(len(good))))
	if err != nil {
		t.Fatal(err)
	}
	toc, _, err := new(estargz.GzipDecompressor).ParseTOC(bytes.NewReader(good[off:]))
	if err != nil {
		t.Fatal(err)
	}
	if edit != nil {
		edit(toc)
	}
	blob := bytes.NewBuffer(good[:off:off])
	gz := gzip.NewWriter(blob)
	tw := tar.NewWriter(gz)
	text, err := json.Marshal(toc)
	if err != nil {
		t.Fatal(err)
	}
	err = tw.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: estargz.TOCTarName, Size: int64(len(text))})
	if err == nil {
		_, err = tw.Write(text)
	}
	if err := errors.Join(err, tw.Close(), gz.Close()); err != nil {
		t.Fatal(err)
	}
	place := fmt.Sprintf("%016xSTARGZ", off)
	blob.Write(estargz.CreateGzipFooter(append([]byte{'S', 'G', byte(len(place)), 0}, place...)))
	blob.Truncate(blob.Len() - cut)
	zr, err := gzip.NewReader(bytes.NewReader(blob.Bytes()))
	if err != nil {
		t.Fatal(err)
	}
	diff, err := digest.FromReader(zr)
	if err != nil {
		t.Fatal(err)
	}
	return badLayer{blob.Bytes(), text, diff}
}

// replace makes an image with another layer i.
func replace(t *testing.T, im *images.Image, i int, bad badLayer) *images.Image {
	t.Helper()
	dir := t.TempDir()
	var config ocispec.Image
	readBlob(t, im.Dir, im.Manifest.Config.Digest, &config)
	manifest := im.Manifest
	manifest.Layers = slices.Clone(manifest.Layers)
	for _, l := range manifest.Layers {
		copyBlob(t, im.Dir, dir, l.Digest)
	}
	l := ocispec.Descriptor{
		MediaType: manifest.Layers[i].MediaType, Digest: digest.FromBytes(bad.blob), Size: int64(len(bad.blob)),
		Annotations: map[string]string{estargz.TOCJSONDigestAnnotation: digest.FromBytes(bad.toc).String()},
	}
	if err := os.WriteFile(blobPath(dir, l.Digest), bad.blob, 0o644); err != nil {
		t.Fatal(err)
	}
	manifest.Layers[i], config.RootFS.DiffIDs[i] = l, bad.diff
	manifest.Config = writeBlob(t, dir, manifest.Config.MediaType, config)
	return &images.Image{Dir: dir, Target: writeBlob(t, dir, im.Target.MediaType, manifest), Manifest: manifest}
}

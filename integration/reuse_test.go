package integration

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"encoding/json"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/sluice-snapshotter/sluice/integration/images"
	"github.com/sluice-snapshotter/sluice/integration/stack"
)

// newPercent is how much of the compressed bytes of an image's files is in chunks that are new in its next version.
const newPercent = 5

// mostOfNext is the most percent of an image's bytes that may be fetched of its next version, of which five are new.
const mostOfNext = 8

// TestNextVersion pulls an image, and when all of it is there and proven the next version of it, until that is proven too: every layer is another, and
// 5 % of the bytes of their files are.
func TestNextVersion(t *testing.T) {
	first := lazyImage(t, goroot)
	plain := nextVersion(t, plainImage(t, goroot))
	next, err := convert(plain, filepath.Base(t.TempDir())+"-next", "/usr/local/go/bin/go")
	if err != nil {
		t.Fatal(err)
	}
	for i, l := range next.Manifest.Layers {
		if l.Digest == first.Manifest.Layers[i].Digest {
			t.Errorf("layer %d is that of the first version", i)
		}
	}
	reg := registry(t)
	o := daemon("auto")
	o.TOML = strings.Replace(o.TOML, "background = false", "background = true", 1)
	n := nodeWith(t, stack.NodeOptions{Daemon: o})
	c := stack.Container{Ref: upload(t, reg, first, "test/goroot:1")}
	pull(t, n, c)
	goVersion(t, run(t, n, c))
	untilComplete(t, n)
	untilProven(t, n, len(first.Manifest.Layers))

	c.Ref = upload(t, reg, next, "test/goroot:2")
	reg.Link.ResetCounts()
	pull(t, n, c)
	goVersion(t, run(t, n, c))
	untilComplete(t, n)
	untilProven(t, n, len(first.Manifest.Layers)+len(next.Manifest.Layers))
	got := reg.Link.Counts()
	m, err := n.Metrics(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("%+v at the link of an image of %d bytes, %.2f %%; %.0f bytes copied", got.Kinds, next.Size(),
		100*float64(got.Total().Bytes)/float64(next.Size()), m.Sum("sluice_dedup_bytes_total", nil))
	if most := next.Size() * mostOfNext / 100; got.Total().Bytes > most {
		t.Errorf("%d bytes at the link, want at most %d", got.Total().Bytes, most)
	}

	// It is what overlayfs makes of it.
	other := stack.Container{Ref: upload(t, reg, plain, "test/goroot:plain"), Namespace: "other"}
	if err := n.Pull(t.Context(), other); err != nil {
		t.Fatal(err)
	}
	dir := "/usr/local/go/src/net"
	sameTree(t, walk(t, n, lazily(c), dir), walk(t, n, other, dir))
}

// nextVersion is im with other layers: in each there is a new file, and of one file now and again some bytes and the time are
// changed.
func nextVersion(t *testing.T, im *images.Image) *images.Image {
	t.Helper()
	dir := t.TempDir()
	var config ocispec.Image
	readBlob(t, im.Dir, im.Manifest.Config.Digest, &config)
	var layers []ocispec.Descriptor
	var v versioner
	for i, l := range im.Manifest.Layers {
		next, diffID := v.layer(t, im, dir, l)
		config.RootFS.DiffIDs[i] = diffID
		layers = append(layers, next)
	}
	t.Logf("%.2f %% of the compressed bytes of files are in chunks that have changed", 100*float64(v.changed)/float64(v.all))
	if v.changed*1000 < v.all*(newPercent*10-1) {
		t.Errorf("%d of %d bytes have changed, want %d %%", v.changed, v.all, newPercent)
	}
	next := assembled(t, dir, im, config, layers)
	target := next.Target
	target.Annotations = map[string]string{ocispec.AnnotationRefName: "latest"}
	layout(t, dir, target)
	return next
}

// layout makes a folder of blobs an OCI image layout of one image.
func layout(t *testing.T, dir string, target ocispec.Descriptor) {
	t.Helper()
	index := ocispec.Index{Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageIndex, Manifests: []ocispec.Descriptor{target}}
	for name, v := range map[string]any{
		ocispec.ImageIndexFile: index, ocispec.ImageLayoutFile: ocispec.ImageLayout{Version: ocispec.ImageLayoutVersion},
	} {
		p, err := json.Marshal(v)
		if err == nil {
			err = os.WriteFile(filepath.Join(dir, name), p, 0o644)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
}

// versioner makes layers of a next version.
type versioner struct{ all, changed int64 } // compressed bytes of files

// packed is how many bytes a chunk has when it is compressed.
func packed(chunk []byte) (int64, error) {
	if len(chunk) == 0 {
		return 0, nil
	}
	var b bytes.Buffer
	w, err := gzip.NewWriterLevel(&b, gzip.BestSpeed)
	if err != nil {
		return 0, err
	}
	_, err = w.Write(chunk)
	return int64(b.Len()), errors.Join(err, w.Close())
}

func (v *versioner) layer(t *testing.T, im *images.Image, dir string, l ocispec.Descriptor) (ocispec.Descriptor, digest.Digest) {
	t.Helper()
	in, err := os.Open(blobPath(im.Dir, l.Digest))
	if err != nil {
		t.Fatal(err)
	}
	defer in.Close()
	z, err := gzip.NewReader(in)
	if err != nil {
		t.Fatal(err)
	}
	name := filepath.Join(dir, "layer")
	out, err := os.Create(name)
	if err != nil {
		t.Fatal(err)
	}
	defer out.Close()
	whole, unpacked := digest.SHA256.Digester(), digest.SHA256.Digester()
	packed, err := gzip.NewWriterLevel(io.MultiWriter(out, whole.Hash()), gzip.BestSpeed)
	if err != nil {
		t.Fatal(err)
	}
	w := tar.NewWriter(io.MultiWriter(packed, unpacked.Hash()))
	err = v.rewrite(w, tar.NewReader(z))
	if err = errors.Join(err, w.Close(), packed.Close()); err != nil {
		t.Fatal(err)
	}
	l.Digest = whole.Digest()
	st, err := out.Stat()
	if err != nil {
		t.Fatal(err)
	}
	l.Size = st.Size()
	path := blobPath(dir, l.Digest)
	if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o755), os.Rename(name, path)); err != nil {
		t.Fatal(err)
	}
	return l, unpacked.Digest()
}

// chunkSize is that of ctr-remote: a file is changed in the first one.
const chunkSize = 4 << 20

func (v *versioner) rewrite(w *tar.Writer, r *tar.Reader) error {
	for {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return err
		}
		content, err := io.ReadAll(r)
		if err != nil {
			return err
		}
		first, err := packed(content[:min(len(content), chunkSize)])
		if err != nil {
			return err
		}
		rest, err := packed(content[min(len(content), chunkSize):])
		if err != nil {
			return err
		}
		v.all += first + rest
		if v.changed*100 < v.all*newPercent && h.Size > 0 && h.Mode&0o111 == 0 { // programs are to run
			v.changed += first
			h.ModTime = h.ModTime.AddDate(0, 0, 1)
			copy(content, "// changed\n")
		}
		if err := w.WriteHeader(h); err != nil {
			return err
		}
		if _, err := w.Write(content); err != nil {
			return err
		}
	}
	h := &tar.Header{Typeflag: tar.TypeReg, Name: "version", Mode: 0o644, Size: 2}
	if err := w.WriteHeader(h); err != nil {
		return err
	}
	_, err := w.Write([]byte("2\n"))
	return err
}

package stream

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"testing"

	"github.com/containerd/stargz-snapshotter/estargz"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

const chunks = 3

func image(t *testing.T) *Image {
	t.Helper()
	im, err := New(chunks)
	if err != nil {
		t.Fatal(err)
	}
	return im
}

// whole is the layer's blob, read from front to back.
func whole(t *testing.T, im *Image) []byte {
	t.Helper()
	p, err := io.ReadAll(io.NewSectionReader(im, 0, im.size))
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// TestLayer reads the layer with other people's code: what is in it, and whether its digests are right.
func TestLayer(t *testing.T) {
	im := image(t)
	blob := whole(t, im)
	if got := digest.FromBytes(blob); got != im.layer || int64(len(blob)) != im.size {
		t.Errorf("%d bytes, %s; want %d, %s", len(blob), got, im.size, im.layer)
	}
	manifest, config := described(t, im)
	zr, err := gzip.NewReader(bytes.NewReader(blob))
	if err != nil {
		t.Fatal(err)
	}
	content, err := io.ReadAll(zr)
	if err != nil {
		t.Fatal(err)
	}
	if got := digest.FromBytes(content); got != config.RootFS.DiffIDs[0] {
		t.Errorf("diffID %s, want %s", got, config.RootFS.DiffIDs[0])
	}
	file := fileOf(t, content)
	r, err := estargz.Open(io.NewSectionReader(bytes.NewReader(blob), 0, im.size))
	if err != nil {
		t.Fatal(err)
	}
	verifier, err := r.VerifyTOC(digest.Digest(manifest.Layers[0].Annotations[estargz.TOCJSONDigestAnnotation]))
	if err != nil {
		t.Fatal(err)
	}
	for i := range chunks {
		e, ok := r.ChunkEntryForOffset(File[1:], int64(i)*ChunkBytes)
		if !ok {
			t.Fatalf("no chunk %d", i)
		}
		v, err := verifier.Verifier(e)
		if err != nil {
			t.Fatal(err)
		}
		p := file[i*ChunkBytes:][:ChunkBytes]
		if _, err := v.Write(p); err != nil || !v.Verified() {
			t.Errorf("chunk %d has another digest, %v", i, err)
		}
		if got := binary.BigEndian.Uint64(p); got != uint64(i) {
			t.Errorf("chunk %d says that it is %d", i, got)
		}
	}
}

// described is the manifest and the config.
func described(t *testing.T, im *Image) (m ocispec.Manifest, c ocispec.Image) {
	t.Helper()
	if err := json.Unmarshal(im.blobs[im.manifest], &m); err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(im.blobs[m.Config.Digest], &c); err != nil {
		t.Fatal(err)
	}
	if len(m.Layers) != 1 || m.Layers[0].Digest != im.layer || len(c.RootFS.DiffIDs) != 1 {
		t.Fatalf("%+v %+v", m, c)
	}
	return m, c
}

// fileOf is the content of the one file in a tar.
func fileOf(t *testing.T, content []byte) []byte {
	t.Helper()
	for tr := tar.NewReader(bytes.NewReader(content)); ; {
		h, err := tr.Next()
		if err != nil {
			t.Fatal(err)
		}
		if "/"+h.Name != File {
			continue
		}
		p, err := io.ReadAll(tr)
		if err != nil || len(p) != chunks*ChunkBytes {
			t.Fatalf("%d bytes, %v", len(p), err)
		}
		return p
	}
}

func TestReadAt(t *testing.T) {
	im := image(t)
	blob := whole(t, im)
	r := rand.New(rand.NewPCG(1, 2))
	edges := []int64{0, int64(len(im.head)), int64(len(im.head) + im.member.size()), im.size - int64(len(im.tail)), im.size}
	for range 2000 {
		off := min(max(edges[r.IntN(len(edges))]+r.Int64N(64)-32, 0), im.size)
		p := make([]byte, r.IntN(100))
		n, err := im.ReadAt(p, off)
		want := blob[off:min(int(off)+len(p), len(blob))]
		if !bytes.Equal(p[:n], want) || (n < len(p)) != errors.Is(err, io.EOF) {
			t.Fatalf("%d bytes at %d: %d, %v", len(p), off, n, err)
		}
	}
}

func TestRegistry(t *testing.T) {
	im := image(t)
	reg, err := Serve(im)
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := reg.Close(); err != nil {
			t.Error(err)
		}
	}()
	blob := whole(t, im)
	manifest := string(im.blobs[im.manifest])
	for _, c := range []struct {
		method, path, bytes string
		status              int
		want                string
	}{
		{"GET", "", "", 200, ""},
		{"HEAD", "stream/file/manifests/latest", "", 200, ""},
		{"GET", "stream/file/manifests/latest", "", 200, manifest},
		{"GET", "stream/file/manifests/" + im.manifest.String(), "", 200, manifest},
		{"GET", "stream/file/manifests/other", "", 404, "404 page not found\n"},
		{"GET", "stream/file/blobs/" + im.layer.String(), "bytes=5000000-5000009", 206, string(blob[5000000:5000010])},
		{"GET", "stream/file/blobs/" + digest.FromString("").String(), "", 404, "404 page not found\n"},
		{"PUT", "stream/file/manifests/latest", "", 405, "Method Not Allowed\n"},
	} {
		t.Run(c.method+" "+c.path, func(t *testing.T) {
			req, err := http.NewRequestWithContext(t.Context(), c.method, fmt.Sprintf("http://%s/v2/%s", reg.Link.Addr(), c.path), nil)
			if err != nil {
				t.Fatal(err)
			}
			if c.bytes != "" {
				req.Header.Set("Range", c.bytes)
			}
			resp, err := http.DefaultClient.Do(req)
			if err != nil {
				t.Fatal(err)
			}
			defer resp.Body.Close()
			got, err := io.ReadAll(resp.Body)
			if err != nil || resp.StatusCode != c.status || string(got) != c.want {
				t.Errorf("%s, %d bytes, %v; want %d, %d bytes", resp.Status, len(got), err, c.status, len(c.want))
			}
		})
	}
}

func TestNew(t *testing.T) {
	if im, err := New(0); err == nil {
		t.Errorf("no chunks: %+v", im)
	}
}

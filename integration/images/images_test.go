package images

import (
	"archive/tar"
	"compress/gzip"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"os"
	"testing"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// check reads every blob back: digests, sizes, diffIDs, and tar syntax. It returns the entries of all layers.
func check(t *testing.T, im *Image) []*tar.Header {
	t.Helper()
	var config ocispec.Image
	if err := readJSON(im.blob(im.Manifest.Config.Digest), &config); err != nil {
		t.Fatal(err)
	}
	if len(config.RootFS.DiffIDs) != len(im.Manifest.Layers) {
		t.Fatalf("%d diffIDs, %d layers", len(config.RootFS.DiffIDs), len(im.Manifest.Layers))
	}
	var all []*tar.Header
	for i, l := range im.Manifest.Layers {
		f, err := os.Open(im.blob(l.Digest))
		if err != nil {
			t.Fatal(err)
		}
		blob, content, size := sha256.New(), sha256.New(), &counter{}
		zr, err := gzip.NewReader(io.TeeReader(f, io.MultiWriter(blob, size)))
		if err != nil {
			t.Fatal(err)
		}
		whole := io.TeeReader(zr, content)
		all = append(all, headers(t, whole)...)
		if _, err := io.Copy(io.Discard, whole); err != nil {
			t.Fatal(err)
		}
		if err := f.Close(); err != nil {
			t.Fatal(err)
		}
		if got := digest.NewDigest(digest.SHA256, blob); got != l.Digest || size.n != l.Size {
			t.Errorf("layer %d: got %s, %d bytes; want %s, %d", i, got, size.n, l.Digest, l.Size)
		}
		if got := digest.NewDigest(digest.SHA256, content); got != config.RootFS.DiffIDs[i] {
			t.Errorf("layer %d: diffID %s, want %s", i, got, config.RootFS.DiffIDs[i])
		}
	}
	return all
}

func headers(t *testing.T, r io.Reader) (all []*tar.Header) {
	t.Helper()
	for tr := tar.NewReader(r); ; {
		h, err := tr.Next()
		if errors.Is(err, io.EOF) {
			return all
		}
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, h)
	}
}

func TestOdd(t *testing.T) {
	im, err := Odd(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if n := len(im.Manifest.Layers); n < 4 {
		t.Errorf("%d layers", n)
	}
	types := make(map[byte]int)
	for _, h := range check(t, im) {
		types[h.Typeflag]++
	}
	for _, want := range []byte{tar.TypeReg, tar.TypeDir, tar.TypeLink, tar.TypeSymlink, tar.TypeChar, tar.TypeBlock, tar.TypeFifo} {
		if types[want] == 0 {
			t.Errorf("no entry of type %c", want)
		}
	}
}

func TestOddIsTheSameEachTime(t *testing.T) {
	r := oddRecipe([]byte("a program"))
	var digests []digest.Digest
	for range 2 {
		dir := t.TempDir()
		if err := r.write(t.Context(), dir); err != nil {
			t.Fatal(err)
		}
		im, err := Open(dir)
		if err != nil {
			t.Fatal(err)
		}
		digests = append(digests, im.Target.Digest)
	}
	if digests[0] != digests[1] {
		t.Errorf("%s, then %s", digests[0], digests[1])
	}
}

func TestGoroot(t *testing.T) {
	im, err := Goroot(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	// Containerd checks the contents each time it pulls them; here they would take longer to read than to make.
	for i, l := range im.Manifest.Layers {
		if info, err := os.Stat(im.blob(l.Digest)); err != nil || info.Size() != l.Size {
			t.Errorf("layer %d: %v, %v; want %d bytes", i, info, err, l.Size)
		}
	}
	if n := len(im.Manifest.Layers); n < 4 {
		t.Errorf("%d layers", n)
	}
	t.Logf("%d layers, %d bytes compressed", len(im.Manifest.Layers), im.Size())
}

func TestPause(t *testing.T) {
	im, err := Pause(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	check(t, im)
}

// store is the push half of a registry, as strict as distribution is.
type store struct {
	blobs    map[string]bool
	manifest []byte
}

func (s *store) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	const repo = "/v2/some/name/"
	switch {
	case r.Method == http.MethodHead:
		if !s.blobs[r.URL.Path[len(repo+"blobs/"):]] {
			w.WriteHeader(http.StatusNotFound)
		}
	case r.Method == http.MethodPost && r.URL.Path == repo+"blobs/uploads/":
		w.Header().Set("Location", "/upload?state=x")
		w.WriteHeader(http.StatusAccepted)
	case r.URL.Path == "/upload":
		d, err := digest.FromReader(r.Body)
		if err != nil || r.URL.Query().Get("state") != "x" || r.URL.Query().Get("digest") != d.String() {
			w.WriteHeader(http.StatusBadRequest)
			return
		}
		s.blobs[d.String()] = true
		w.WriteHeader(http.StatusCreated)
	case r.Method == http.MethodPut && r.URL.Path == repo+"manifests/tag":
		s.manifest, _ = io.ReadAll(r.Body)
		w.WriteHeader(http.StatusCreated)
	default:
		w.WriteHeader(http.StatusNotFound)
	}
}

func TestPush(t *testing.T) {
	im, err := Pause(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	s := &store{blobs: make(map[string]bool)}
	host := serve(t, s)
	for range 2 { // the second time everything is there
		if err := im.Push(t.Context(), host+"/some/name:tag"); err != nil {
			t.Fatal(err)
		}
	}
	var m ocispec.Manifest
	if err := json.Unmarshal(s.manifest, &m); err != nil {
		t.Fatal(err)
	}
	for _, d := range append(m.Layers, m.Config) {
		if !s.blobs[d.Digest.String()] {
			t.Errorf("blob %s was not pushed", d.Digest)
		}
	}
	if err := im.Push(t.Context(), host+"/some/name"); err == nil {
		t.Error("a reference without a tag is accepted")
	}
	if err := im.Push(t.Context(), host+"/other/name:tag"); err == nil {
		t.Error("a registry that says no is not noticed")
	}
}

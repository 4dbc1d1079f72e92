package fs

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/containerd/stargz-snapshotter/estargz"
	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/sluice-snapshotter/sluice/cache"
	"github.com/sluice-snapshotter/sluice/fs/layer"
	"github.com/sluice-snapshotter/sluice/fs/remote"
	"github.com/sluice-snapshotter/sluice/fs/toc"
)

// file is an entry of a layer's tar.
type file struct {
	tar.Header
	data []byte
}

var epoch = time.Unix(1_700_000_000, 123_456_789)

func dir(name string) file {
	return file{Header: tar.Header{Typeflag: tar.TypeDir, Name: name + "/", Mode: 0o755, ModTime: epoch}}
}

func regular(name string, data []byte) file {
	return file{Header: tar.Header{Typeflag: tar.TypeReg, Name: name, Mode: 0o644, Size: int64(len(data)), ModTime: epoch}, data: data}
}

// noise is n bytes that do not compress, the same for the same seed.
func noise(seed uint64, n int) []byte {
	p := make([]byte, n)
	r := rand.NewChaCha8([32]byte{byte(seed), byte(seed >> 8)})
	_, _ = r.Read(p)
	return p
}

// blob is a layer as a registry has it.
type blob struct {
	files     []file
	bytes     []byte
	digest    digest.Digest
	tocDigest digest.Digest
	// annotations of its descriptor; nil means the one that tocDigest makes
	annotations map[string]string
}

// tarOf is the tar of a layer.
func tarOf(t testing.TB, files []file) *io.SectionReader {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for _, f := range files {
		f.Format = tar.FormatPAX
		if err := w.WriteHeader(&f.Header); err != nil {
			t.Fatal(err)
		}
		if _, err := w.Write(f.data); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return io.NewSectionReader(bytes.NewReader(b.Bytes()), 0, int64(b.Len()))
}

func buildBlob(t testing.TB, files []file, prefetch ...string) blob {
	t.Helper()
	r, err := estargz.Build(tarOf(t, files),
		estargz.WithChunkSize(64<<10), estargz.WithCompressionLevel(gzip.BestSpeed), estargz.WithPrioritizedFiles(prefetch))
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	packed, err := io.ReadAll(r)
	if err != nil {
		t.Fatal(err)
	}
	return blob{files: files, bytes: packed, digest: digest.FromBytes(packed), tocDigest: r.TOCDigest()}
}

// registry serves one image of some layers, and fails as it is told.
type registry struct {
	*httptest.Server
	ref      string
	manifest digest.Digest
	content  map[digest.Digest][]byte

	blobs, manifests atomic.Int64 // requests
	fail             atomic.Int64 // HTTP status of every answer, unless 0

	mu         sync.Mutex
	requests   map[digest.Digest]int // for blobs
	stallBelow int64                 // with stalled: only requests for ranges that begin before this byte wait; 0: all
	stalled    chan struct{}         // while not nil, requests wait until it is closed
	crawling   bool                  // with stalled: answers come byte by byte instead
	waiting    chan struct{}         // gets one for each request that waits
}

func newRegistry(t testing.TB, layers ...blob) *registry {
	t.Helper()
	r := &registry{content: make(map[digest.Digest][]byte), requests: make(map[digest.Digest]int), waiting: make(chan struct{}, 1024)}
	m := ocispec.Manifest{Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageManifest}
	config := []byte("{}")
	m.Config = ocispec.Descriptor{MediaType: ocispec.MediaTypeImageConfig, Digest: digest.FromBytes(config), Size: int64(len(config))}
	for _, l := range layers {
		r.content[l.digest] = l.bytes
		desc := ocispec.Descriptor{MediaType: ocispec.MediaTypeImageLayerGzip, Digest: l.digest, Size: int64(len(l.bytes))}
		if l.tocDigest != "" {
			desc.Annotations = map[string]string{toc.TOCDigestAnnotation: l.tocDigest.String()}
		}
		if l.annotations != nil {
			desc.Annotations = l.annotations
		}
		m.Layers = append(m.Layers, desc)
	}
	raw, err := json.Marshal(m)
	if err != nil {
		t.Fatal(err)
	}
	r.manifest = digest.FromBytes(raw)
	r.content[r.manifest] = raw
	r.Server = httptest.NewServer(r)
	r.ref = strings.TrimPrefix(r.URL, "http://") + "/test/image:latest"
	t.Cleanup(func() {
		r.release()
		r.Server.Close()
	})
	return r
}

func (r *registry) ServeHTTP(w http.ResponseWriter, req *http.Request) {
	kind, d := filepath.Base(filepath.Dir(req.URL.Path)), digest.Digest(filepath.Base(req.URL.Path))
	r.mu.Lock()
	stalled := r.stalled
	var first int64
	if _, err := fmt.Sscanf(req.Header.Get("Range"), "bytes=%d-", &first); err == nil && r.stallBelow > 0 && first >= r.stallBelow {
		stalled = nil
	}
	crawling := r.crawling
	r.mu.Unlock()
	switch {
	case stalled == nil:
	case crawling:
		r.waiting <- struct{}{}
		w = crawl{w, stalled}
	default:
		r.waiting <- struct{}{}
		select {
		case <-stalled:
		case <-req.Context().Done():
			return
		}
	}
	content, ok := r.content[d]
	switch kind {
	case "manifests":
		r.manifests.Add(1)
		w.Header().Set("Content-Type", ocispec.MediaTypeImageManifest)
		w.Header().Set("Docker-Content-Digest", d.String())
	case "blobs":
		r.blobs.Add(1)
		r.mu.Lock()
		r.requests[d]++
		r.mu.Unlock()
	}
	switch code := int(r.fail.Load()); {
	case code != 0:
		w.WriteHeader(code)
	case !ok:
		w.WriteHeader(http.StatusNotFound)
	default:
		http.ServeContent(w, req, "", time.Time{}, bytes.NewReader(content))
	}
}

// asked returns how many requests there were for a blob.
func (r *registry) asked(d digest.Digest) int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.requests[d]
}

// stall makes requests wait until release.
func (r *registry) stall() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.stalled, r.crawling = make(chan struct{}), false
}

// crawl makes answers come byte by byte until release: who waits for them hears of them all the time.
func (r *registry) crawl() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.stalled, r.crawling = make(chan struct{}), true
}

// crawl is an answer that does so until released is closed.
type crawl struct {
	http.ResponseWriter
	released <-chan struct{}
}

func (c crawl) Write(p []byte) (n int, err error) {
	for n < len(p) && err == nil {
		next := p[n : n+1]
		select {
		case <-c.released:
			next = p[n:]
		case <-time.After(20 * time.Millisecond):
		}
		var m int
		m, err = c.ResponseWriter.Write(next)
		n += m
		c.ResponseWriter.(http.Flusher).Flush()
	}
	return n, err
}

func (r *registry) release() {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.stalled != nil {
		close(r.stalled)
		r.stalled = nil
	}
}

func (r *registry) source(l blob) Source {
	return Source{Ref: r.ref, Digest: l.digest, Manifest: r.manifest}
}

// told is source with what the manifest says.
func (r *registry) told(l blob) Source {
	src := r.source(l)
	src.TOCDigest, src.Size = l.tocDigest, int64(len(l.bytes))
	return src
}

// node is a folder with a store, and an FS on it.
type node struct {
	*FS
	root  string
	store *cache.Store
}

func testRegistry() *remote.Registry {
	return remote.New(remote.Options{
		ConfigPath:  "/nonexistent",
		PlainHTTP:   true,
		MaxAttempts: 2,
		Backoff:     remote.Backoff{Min: time.Millisecond, Max: 10 * time.Millisecond},
		Credentials: func(string) (string, string, error) { return "", "", nil },
	})
}

func newNode(t testing.TB, o Options) *node {
	t.Helper()
	return openNode(t, t.TempDir(), o)
}

// openNode makes an FS below root. It skips the test where the kernel lacks what o asks for.
func openNode(t testing.TB, root string, o Options) *node {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("mounting needs root")
	}
	n, err := tryNode(t.Context(), root, o)
	if err != nil {
		if strings.Contains(err.Error(), "mode "+string(o.Mode)+": ") {
			t.Skip(err)
		}
		t.Fatal(err)
	}
	t.Cleanup(func() { n.close(t) })
	return n
}

func tryNode(ctx context.Context, root string, o Options) (*node, error) {
	store, err := cache.Open(filepath.Join(root, "root"))
	if err != nil {
		return nil, err
	}
	o.StateDir, o.Store = filepath.Join(root, "state"), store
	if o.Registry == nil {
		o.Registry = testRegistry()
	}
	if o.Scheduler == nil { // small layers are to be fetched bit by bit
		o.Scheduler = layer.NewScheduler(layer.SchedulerOptions{TailMemory: -1})
	}
	f, err := New(ctx, o)
	if err != nil {
		return nil, fmt.Errorf("%w%w", err, store.Close())
	}
	f.Relieve()
	return &node{FS: f, root: root, store: store}, nil
}

func (n *node) close(t testing.TB) {
	t.Helper()
	if n.FS == nil {
		return
	}
	if err := n.FS.Close(); err != nil {
		t.Error(err)
	}
	if err := n.store.Close(); err != nil {
		t.Error(err)
	}
	n.FS = nil
	if left := mountsBelow(t, n.root); len(left) > 0 {
		t.Errorf("mounts left: %q", left)
	}
}

func mountsBelow(t testing.TB, dir string) []string {
	t.Helper()
	points, err := mountPoints()
	if err != nil {
		t.Fatal(err)
	}
	var out []string
	for _, p := range points {
		if below(p, dir) {
			out = append(out, p)
		}
	}
	return out
}

// mountLayer mounts l and returns its folder.
func (n *node) mountLayer(t testing.TB, src Source) string {
	t.Helper()
	if err := n.Mount(t.Context(), src); err != nil {
		t.Fatal(err)
	}
	path, err := n.Path(src.Digest, t.Name())
	if err != nil {
		t.Fatal(err)
	}
	return path
}

// inModes runs a test with each kind of mount.
func inModes(t *testing.T, test func(t *testing.T, mode Mode)) {
	for _, mode := range []Mode{EROFS, Loop, FUSE} {
		t.Run(string(mode), func(t *testing.T) { test(t, mode) })
	}
}

// everyKind has all kinds of mounts that a complete layer can have.
var everyKind = []struct {
	name     string
	mode     Mode
	noNative bool
}{{"native", EROFS, false}, {"loop", Loop, false}, {"lazy", EROFS, true}, {"lazy loop", Loop, true}, {"tree", FUSE, true}}

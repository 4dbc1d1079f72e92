package plain

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"io"
	iofs "io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"
	"github.com/opencontainers/go-digest"

	"github.com/sluice-snapshotter/sluice/cache"
	"github.com/sluice-snapshotter/sluice/fs/layer"
	"github.com/sluice-snapshotter/sluice/fs/metadata"
)

// fakeBlob is a registry with two hosts.
type fakeBlob struct {
	bytes   []byte
	damaged []byte        // what the host sends that is asked first; nil if it is honest
	stall   chan struct{} // if not nil, reads wait for it
	err     error         // of reads from the second piece on
	short   bool          // bodies end early

	mu         sync.Mutex
	distrusted []string
	ranges     atomic.Int64
	open       atomic.Int64 // bodies
	most       atomic.Int64 // that were open at once
}

func (b *fakeBlob) Host() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.damaged != nil && len(b.distrusted) == 0 {
		return "liar"
	}
	return "honest"
}

func (b *fakeBlob) Link() layer.Link { return layer.Link{} }

func (b *fakeBlob) Distrust(host string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.distrusted = append(b.distrusted, host)
}

func (b *fakeBlob) ReadRange(ctx context.Context, off, size int64) (io.ReadCloser, error) {
	b.ranges.Add(1)
	if layer.PriorityFrom(ctx) != layer.Prefetch {
		return nil, errors.New("wrong priority")
	}
	if b.err != nil && off > 0 {
		return nil, b.err
	}
	from := b.bytes
	if b.Host() == "liar" {
		from = b.damaged
	}
	n := b.open.Add(1)
	for most := b.most.Load(); n > most && !b.most.CompareAndSwap(most, n); most = b.most.Load() {
	}
	body := from[off : off+size]
	if b.short {
		body = body[:size/2]
	}
	return &fakeBody{Reader: bytes.NewReader(body), ctx: ctx, blob: b}, nil
}

type fakeBody struct {
	*bytes.Reader
	ctx  context.Context
	blob *fakeBlob
}

func (b *fakeBody) Read(p []byte) (int, error) {
	if b.blob.stall != nil {
		select {
		case <-b.blob.stall:
		case <-b.ctx.Done():
			return 0, context.Cause(b.ctx)
		}
	}
	return b.Reader.Read(p[:min(len(p), 100_000)])
}

func (b *fakeBody) Close() error {
	b.blob.open.Add(-1)
	return nil
}

// noise is n bytes that do not compress, the same for a seed.
func noise(seed uint64, n int) []byte {
	p := make([]byte, n)
	r := rand.NewChaCha8([32]byte{byte(seed)})
	_, _ = r.Read(p)
	return p
}

// tarOf makes a tar of files.
func tarOf(t testing.TB, files map[string][]byte) []byte {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for name, data := range files {
		if err := w.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: name, Mode: 0o644, Size: int64(len(data))}); err != nil {
			t.Fatal(err)
		}
		if _, err := w.Write(data); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func gzipped(t testing.TB, p []byte) []byte {
	t.Helper()
	var b bytes.Buffer
	w := gzip.NewWriter(&b)
	if _, err := w.Write(p); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func zstandard(t testing.TB, p []byte) []byte {
	t.Helper()
	w, err := zstd.NewWriter(nil)
	if err != nil {
		t.Fatal(err)
	}
	defer w.Close()
	return w.EncodeAll(p, nil)
}

// rig is a store and what takes layers into it.
type rig struct {
	root  string
	store *cache.Store
	Options
}

func newRig(t testing.TB, blob *fakeBlob, mediaType string) *rig {
	t.Helper()
	root := t.TempDir()
	store, err := cache.Open(root)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := store.Close(); err != nil {
			t.Error(err)
		}
	})
	return &rig{root, store, Options{
		Ref: "example.com/a:b", Digest: digest.FromBytes(blob.bytes), Size: int64(len(blob.bytes)), MediaType: mediaType,
		Store: store, Scheduler: layer.NewScheduler(layer.SchedulerOptions{}), Blob: blob,
	}}
}

// nothing checks that nothing is left of the layer, and that what was reserved was given back.
func (r *rig) nothing(t *testing.T) {
	t.Helper()
	if _, err := r.store.Get(r.Digest); !errors.Is(err, iofs.ErrNotExist) {
		t.Errorf("the store has the layer: %v", err)
	}
	if left, err := os.ReadDir(filepath.Join(r.root, "layers", "tmp")); err != nil || len(left) > 0 {
		t.Errorf("left behind: %v, %v", left, err)
	}
	r.idle(t)
}

func (r *rig) idle(t *testing.T) {
	t.Helper()
	if n := r.Scheduler.Inflight(); n != 0 {
		t.Errorf("%d bytes are still reserved", n)
	}
	if b, ok := r.Blob.(*fakeBlob); ok && b.open.Load() != 0 {
		t.Errorf("%d bodies were not closed", b.open.Load())
	}
}

// check compares the layer in the store.
func (r *rig) check(t *testing.T, format string, content []byte, files map[string][]byte) {
	t.Helper()
	l, err := r.store.Get(r.Digest)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	info := l.Info()
	if info.Format != format || info.DiffID != digest.FromBytes(content) || info.BlobSize != r.Size || info.TOCDigest != "" || !l.Complete() {
		t.Errorf("info is %+v, complete %v", info, l.Complete())
	}
	im, err := metadata.Open(l.MetadataPath())
	if err != nil {
		t.Fatal(err)
	}
	defer im.Close()
	for name, want := range files {
		nid, err := im.Lookup(im.Root(), name)
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		in, err := im.Inode(nid)
		got := make([]byte, in.Size)
		if _, readErr := l.ReadAt(got, in.Offset); err != nil || readErr != nil || !bytes.Equal(got, want) {
			t.Errorf("%s has other contents (%v, %v)", name, err, readErr)
		}
	}
	r.idle(t)
}

package layer

import (
	"archive/tar"
	"bytes"
	"cmp"
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/containerd/stargz-snapshotter/estargz"
	"github.com/containerd/stargz-snapshotter/estargz/zstdchunked"
	"github.com/klauspost/compress/zstd"
	"github.com/opencontainers/go-digest"

	"github.com/sluice-snapshotter/sluice/cache"
	"github.com/sluice-snapshotter/sluice/fs/metadata"
)

// fixture is a lazy layer and what is in it.
type fixture struct {
	blob   []byte
	toc    digest.Digest
	digest digest.Digest
	files  map[string][]byte
}

type zstdCompression struct {
	*zstdchunked.Compressor
	*zstdchunked.Decompressor
}

const (
	testChunk = 64 << 10
	hotFile   = "lib/hot.so" // first in the prefetch list
	bigFile   = "lib/big.bin"
)

// formats are the kinds of blob that tests run over, each with testFiles in it.
var formats = map[string]func() fixture{
	"estargz":         testLayer,
	"estargz, stored": storedLayer,
	"estargz, several chunks in a member": sync.OnceValue(func() fixture {
		return build(testFiles(), estargz.WithMinChunkSize(200<<10), estargz.WithCompressionLevel(gzip.BestSpeed))
	}),
	"zstd:chunked": sync.OnceValue(func() fixture {
		return build(testFiles(), estargz.WithCompression(
			zstdCompression{&zstdchunked.Compressor{CompressionLevel: zstd.SpeedDefault}, &zstdchunked.Decompressor{}}))
	}),
}

var (
	testLayer = sync.OnceValue(func() fixture { return build(testFiles(), estargz.WithCompressionLevel(gzip.BestSpeed)) })
	// storedLayer is not compressed, so that a changed byte of a chunk still decompresses.
	storedLayer = sync.OnceValue(func() fixture { return build(testFiles(), estargz.WithCompressionLevel(gzip.NoCompression)) })
)

func testFiles() map[string][]byte {
	rng := rand.NewChaCha8([32]byte{1})
	bytesOf := func(n int) []byte {
		p := make([]byte, n)
		_, _ = rng.Read(p)
		for i := range p { // compressible, about 2:1
			p[i] &= 0x0f
		}
		return p
	}
	files := map[string][]byte{
		hotFile:     bytesOf(300 << 10),
		bigFile:     bytesOf(3<<20 + 123),
		"lib/empty": {},
		"lib/zeros": make([]byte, 500<<10),
	}
	for i := range 100 {
		files[fmt.Sprintf("etc/small%03d", i)] = bytesOf(100 + 97*i)
	}
	return files
}

func build(files map[string][]byte, opts ...estargz.Option) fixture {
	return buildAs(func(*tar.Header) {}, files, opts...)
}

// buildAs builds a layer of a tar whose headers change has changed.
func buildAs(change func(h *tar.Header), files map[string][]byte, opts ...estargz.Option) fixture {
	var buf bytes.Buffer
	tw := tar.NewWriter(&buf)
	names := make([]string, 0, len(files))
	for name := range files {
		names = append(names, name)
	}
	slices.Sort(names)
	header := func(h *tar.Header) {
		change(h)
		must(0, tw.WriteHeader(h))
	}
	for _, dir := range []string{"etc/", "lib/"} {
		header(&tar.Header{Typeflag: tar.TypeDir, Name: dir, Mode: 0o755})
	}
	for _, name := range names {
		header(&tar.Header{Typeflag: tar.TypeReg, Name: name, Mode: 0o644, Size: int64(len(files[name]))})
		must(tw.Write(files[name]))
	}
	must(0, tw.Close())
	opts = append([]estargz.Option{estargz.WithChunkSize(testChunk)}, opts...)
	if _, ok := files[hotFile]; ok {
		opts = append(opts, estargz.WithPrioritizedFiles([]string{hotFile, "etc/small007"}))
	}
	r := bytes.NewReader(buf.Bytes())
	b := must(estargz.Build(io.NewSectionReader(r, 0, r.Size()), opts...))
	blob := must(io.ReadAll(b))
	must(0, b.Close())
	return fixture{blob: blob, toc: b.TOCDigest(), digest: digest.FromBytes(blob), files: files}
}

func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}

// fake is a blob that fails, stalls and lies as told. It promises nothing that a Blob does not.
type fake struct {
	t    testing.TB
	data []byte
	// serve answers request n, counted from 0, in its own way, if it is not nil; plain answers it right.
	serve func(ctx context.Context, n int, q request) (io.ReadCloser, error)

	mu       sync.Mutex
	requests []request
	open     int // bodies
	link     Link
	host     string          // "" for registry.test
	head     context.Context // of the last request for the blob's beginning

	distrusted []string // hosts, each time one is
}

type request struct {
	off, size int64
	priority  Priority
}

func (q request) end() int64 { return q.off + q.size }

func (b *fake) Host() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return cmp.Or(b.host, "registry.test")
}

// from has another host answer from now on.
func (b *fake) from(host string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.host = host
}

// urgent says whether the request for the beginning knows that a reader waits.
func (b *fake) urgent() bool {
	b.mu.Lock()
	ctx := b.head
	b.mu.Unlock()
	return UrgencyFrom(ctx) == Demand
}

func (b *fake) Link() Link {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.link
}

func (b *fake) Distrust(host string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.distrusted = append(b.distrusted, host)
}

func (b *fake) ReadRange(ctx context.Context, off, size int64) (io.ReadCloser, error) {
	q := request{off, size, PriorityFrom(ctx)}
	b.mu.Lock()
	n := len(b.requests)
	b.requests = append(b.requests, q)
	if off == 0 {
		b.head = ctx
	}
	serve := b.serve
	b.mu.Unlock()
	if off < 0 || size <= 0 || q.end() > int64(len(b.data)) {
		b.t.Errorf("asked for %d+%d of a blob of %d bytes", off, size, len(b.data))
		return nil, errors.New("outside of the blob")
	}
	if serve == nil {
		return b.plain(q), nil
	}
	return serve(ctx, n, q)
}

func (b *fake) plain(q request) io.ReadCloser { return b.body(bytes.NewReader(b.data[q.off:q.end()])) }

// body counts open bodies.
func (b *fake) body(r io.Reader) io.ReadCloser {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.open++
	return &fakeBody{Reader: r, blob: b}
}

type fakeBody struct {
	io.Reader
	blob *fake
	once sync.Once
}

func (f *fakeBody) Close() error {
	f.once.Do(func() {
		f.blob.mu.Lock()
		defer f.blob.mu.Unlock()
		f.blob.open--
	})
	return nil
}

// answer changes how requests are served from now on, and forgets those so far.
func (b *fake) answer(serve func(ctx context.Context, n int, q request) (io.ReadCloser, error)) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.serve, b.requests = serve, nil
}

func (b *fake) seen() []request {
	b.mu.Lock()
	defer b.mu.Unlock()
	return slices.Clone(b.requests)
}

// demands counts the requests that a reader waits for: not what is fetched ahead of it.
func (b *fake) demands() (n int) {
	for _, q := range b.seen() {
		if q.priority == Demand {
			n++
		}
	}
	return n
}

// until gives its bytes once ready is closed, or the error of ctx.
type until struct {
	ctx   context.Context
	ready <-chan struct{}
	r     io.Reader
}

func (u until) Read(p []byte) (int, error) {
	select {
	case <-u.ready:
		return u.r.Read(p)
	case <-u.ctx.Done():
		return 0, u.ctx.Err()
	}
}

func (b *fake) stalled(ctx context.Context, q request, ready <-chan struct{}) io.ReadCloser {
	return b.body(until{ctx, ready, bytes.NewReader(b.data[q.off:q.end()])})
}

// harness is an open layer over a fake blob.
type harness struct {
	*Layer
	t     testing.TB
	blob  *fake
	store *cache.Store
	want  []byte // the address space
	fix   fixture
}

func newStore(t testing.TB) *cache.Store {
	t.Helper()
	s, err := cache.Open(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	return s
}

func (f fixture) options(t testing.TB, s *cache.Store) Options {
	return Options{
		Ref: "registry.test/app:1", Digest: f.digest, Store: s, Scheduler: NewScheduler(SchedulerOptions{TailMemory: -1}),
		Blob: &fake{t: t, data: f.blob}, BlobSize: int64(len(f.blob)), TOCDigest: f.toc,
	}
}

// open opens f in a new store. What change does to the options counts.
func open(t testing.TB, f fixture, change func(*Options)) *harness {
	t.Helper()
	s := newStore(t)
	o := f.options(t, s)
	if change != nil {
		change(&o)
	}
	h := openWith(t, f, o)
	h.blob.answer(nil)
	return h
}

// openWith opens f with options, and does not forget the requests.
func openWith(t testing.TB, f fixture, o Options) *harness {
	t.Helper()
	l, err := Open(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	h := &harness{Layer: l, t: t, blob: o.Blob.(*fake), store: o.Store, want: f.space(t, l), fix: f}
	t.Cleanup(func() {
		if l.life.Err() == nil {
			h.close()
		}
	})
	return h
}

// close closes the layer, and checks that nothing is left of its work.
func (h *harness) close() {
	h.t.Helper()
	if err := h.Close(); err != nil {
		h.t.Error(err)
	}
	if n := len(h.pending); n > 0 {
		h.t.Errorf("%d chunks still in flight after Close", n)
	}
	if h.blob.open != 0 {
		h.t.Errorf("%d bodies were not closed", h.blob.open)
	}
	if n := h.scheduler.Inflight(); n != 0 {
		h.t.Errorf("%d bytes still reserved after Close", n)
	}
	for p := Background; p <= Demand; p++ {
		if n := h.scheduler.ranges.inside[p] + h.scheduler.cores.inside[p]; n != 0 {
			h.t.Errorf("%d %s still inside the scheduler after Close", n, p)
		}
	}
}

// space lays the files out as the layer did, by its metadata image.
func (f fixture) space(t testing.TB, l *Layer) []byte {
	t.Helper()
	image, err := metadata.Open(l.Store().MetadataPath())
	if err != nil {
		t.Fatal(err)
	}
	defer image.Close()
	space := make([]byte, l.Store().Info().DataSize)
	for name, content := range f.files {
		nid := image.Root()
		for part := range strings.SplitSeq(name, "/") {
			if nid, err = image.Lookup(nid, part); err != nil {
				t.Fatal(name, err)
			}
		}
		inode, err := image.Inode(nid)
		if err != nil || inode.Size != int64(len(content)) {
			t.Fatalf("%s: inode %+v, error %v", name, inode, err)
		}
		copy(space[inode.Offset:], content)
	}
	return space
}

// place returns where a file lies in the address space, and its first chunk.
func (h *harness) place(name string) (off int64, chunk int) {
	h.t.Helper()
	for off = 0; !bytes.HasPrefix(h.want[off:], h.fix.files[name]); off += 4096 { // files are aligned
	}
	return off, h.Store().Find(off)
}

// check reads n bytes at off and compares them.
func (h *harness) check(ctx context.Context, off int64, n int) error {
	p := make([]byte, n)
	got, err := h.ReadAt(ctx, p, off)
	if err != nil {
		return err
	}
	if got != n || !bytes.Equal(p, h.want[off:off+int64(n)]) {
		h.t.Errorf("read %d+%d: wrong bytes", off, n)
	}
	return nil
}

// mustCheck is check where no error may be.
func (h *harness) mustCheck(off int64, n int) {
	h.t.Helper()
	if err := h.check(h.t.Context(), off, n); err != nil {
		h.t.Error(err)
	}
}

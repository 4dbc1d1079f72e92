package remote

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"math"
	"math/rand/v2"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"testing/iotest"

	"github.com/containerd/containerd/v2/pkg/reference"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sync/errgroup"
)

func TestRanges(t *testing.T) {
	p := content(1000)
	for _, known := range []bool{true, false} {
		t.Run(fmt.Sprint("size known=", known), func(t *testing.T) {
			b, h, _ := newBlob(t, p, Options{})
			if !known {
				b.size.Store(0)
			}
			for _, r := range [][2]int64{{0, 1000}, {0, 1}, {999, 1}, {500, 250}, {0, 0}, {1000, 0}} {
				mustRead(t, b, p, r[0], r[1])
			}
			before := len(h.seen())
			for _, r := range [][2]int64{{-1, 1}, {0, -1}, {0, 1001}, {1000, 1}, {math.MaxInt64, 1}, {1, math.MaxInt64}} {
				if _, err := b.ReadRange(t.Context(), r[0], r[1]); !errors.Is(err, ErrRange) || temporary(err) {
					t.Errorf("%v: %v", r, err)
				}
			}
			if n := len(h.seen()); n != before {
				t.Errorf("%d requests for ranges that cannot be", n-before)
			}
		})
	}
}

func TestSize(t *testing.T) {
	p := content(1000)
	tests := []struct {
		name   string
		fault  http.HandlerFunc
		size   int64
		errors bool
	}{
		{name: "by a range", size: 1000},
		{name: "from the whole", fault: whole(p), size: 1000},
		{name: "empty, 416", fault: status(416, "Content-Range", "bytes */0")},
		{name: "empty, whole", fault: status(200, "Content-Length", "0")},
		{name: "416 of something", fault: status(416, "Content-Range", "bytes */5"), errors: true},
		{name: "not told", fault: partly(206, p[:1], "Content-Range", "bytes 0-0/*"), errors: true},
		{name: "404", fault: status(404), errors: true},
		{name: "503", fault: status(503), size: 1000},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			b, h, _ := newBlob(t, p, Options{}, test.fault)
			b.size.Store(0)
			got, err := b.Size(t.Context())
			if got != test.size || (err != nil) != test.errors {
				t.Fatalf("got %d, %v", got, err)
			}
			if err != nil && asError(t, err).Op != "size" {
				t.Errorf("got %v", err)
			}
			if test.size > 0 {
				before := len(h.seen())
				if got, err := b.Size(t.Context()); got != test.size || err != nil || len(h.seen()) != before {
					t.Errorf("then %d, %v", got, err)
				}
			}
		})
	}
	t.Run("given", func(t *testing.T) {
		b, h, _ := newBlob(t, p, Options{})
		if got, err := b.Size(t.Context()); got != 1000 || err != nil || len(h.seen()) != 0 {
			t.Errorf("got %d, %v", got, err)
		}
	})
}

func TestReaderAt(t *testing.T) {
	p := content(1000)
	b, _, _ := newBlob(t, p, Options{}, status(503), nil,
		partly(206, p[:10], "Content-Range", "bytes 0-99/1000"))
	b.size.Store(0)
	ra := b.ReaderAt(t.Context())
	buf := make([]byte, 100)
	if n, err := ra.ReadAt(buf, 0); n != 100 || err != nil || !bytes.Equal(buf, p[:100]) {
		t.Errorf("%d, %v", n, err)
	}
	if err := iotest.TestReader(io.NewSectionReader(ra, 0, 1000), p); err != nil {
		t.Error(err)
	}
	if n, err := ra.ReadAt(buf, 990); n != 10 || err != io.EOF || !bytes.Equal(buf[:n], p[990:]) {
		t.Errorf("across the end: %d, %v", n, err)
	}
	if n, err := ra.ReadAt(buf, 5000); n != 0 || err != io.EOF {
		t.Errorf("past the end: %d, %v", n, err)
	}
	if _, err := ra.ReadAt(buf, -1); !errors.Is(err, ErrRange) {
		t.Errorf("before the start: %v", err)
	}
}

func TestNewBlob(t *testing.T) {
	r := New(Options{})
	tests := []struct {
		ref  string
		d    digest.Digest
		size int64
		want error
	}{
		{"registry.test/app", emptyDigest, -1, nil},
		{"registry.test/app", "sha256:short", 0, digest.ErrDigestInvalidLength},
		{"registry.test/app", "", 0, digest.ErrDigestInvalidFormat},
		{"registry.test", emptyDigest, 0, reference.ErrInvalid},
		{"https://registry.test/app", emptyDigest, 0, reference.ErrInvalid},
		{"registry.test/../app", emptyDigest, 0, reference.ErrInvalid},
		{"", emptyDigest, 0, reference.ErrHostnameRequired},
	}
	for _, test := range tests {
		_, err := r.Blob(test.ref, test.d, test.size)
		if err == nil || test.want != nil && !errors.Is(err, test.want) {
			t.Errorf("Blob(%q, %q, %d): %v", test.ref, test.d, test.size, err)
		}
		if _, err := r.Manifest(t.Context(), test.ref, test.d); test.size == 0 && !errors.Is(err, test.want) {
			t.Errorf("Manifest(%q, %q): %v", test.ref, test.d, err)
		}
	}
	for i := range 2*maxRepositories + 10 {
		if _, err := r.Blob(fmt.Sprintf("registry.test/app-%d", i), emptyDigest, 0); err != nil {
			t.Fatal(err)
		}
	}
	if n := len(r.repositories); n > maxRepositories {
		t.Errorf("%d repositories are remembered", n)
	}
}

// TestConcurrentReads has many readers on one blob at hosts that fail in every way, now and then.
func TestConcurrentReads(t *testing.T) {
	p := content(256 << 10)
	var storage *fakeHost
	lie := func(next http.HandlerFunc) http.HandlerFunc {
		return func(w http.ResponseWriter, r *http.Request) {
			switch rand.IntN(12) {
			case 0:
				status(503)(w, r)
			case 1:
				status(429, "Retry-After", "1")(w, r)
			case 2:
				hangUp(w, r)
			case 3:
				whole(p)(w, r)
			case 4:
				reset(200, p[:100<<10], "Content-Length", fmt.Sprint(len(p)))(w, r)
			case 5:
				http.Redirect(w, r, storage.URL+r.URL.Path+"?key=1", http.StatusTemporaryRedirect)
			default:
				next(w, r)
			}
		}
	}
	storage, mirror, origin := newHost(t), newHost(t), newHost(t)
	tokens := newTokenServer(t)
	d := storage.addBlob("/v2/team/app", p)
	mirror.addBlob("/v2/team/app", p)
	origin.addBlob("/v2/team/app", p)
	mirror.wrap(lie)
	origin.wrap(func(next http.HandlerFunc) http.HandlerFunc { return tokens.guard(lie(next)) })
	storage.wrap(func(next http.HandlerFunc) http.HandlerFunc {
		return func(w http.ResponseWriter, r *http.Request) {
			if rand.IntN(4) == 0 {
				status(403)(w, r)
				return
			}
			next(w, r)
		}
	})
	root := hostsDir(t, origin, fmt.Sprintf("[host.%q]\n", mirror.URL))
	r, _ := newRegistry(t, origin, Options{ConfigPath: root, MaxAttempts: 1000})
	b, err := r.Blob(testRef, d, int64(len(p)))
	if err != nil {
		t.Fatal(err)
	}
	var good atomic.Int32
	g, ctx := errgroup.WithContext(t.Context())
	for range 16 {
		g.Go(func() error {
			for range 10 {
				off := rand.Int64N(int64(len(p)))
				size := rand.Int64N(int64(len(p)) - off + 1)
				got, err := readRange(ctx, b, off, size)
				// Storage may refuse the fresh URLs of both hosts, and a token may expire on its way.
				if e, ok := errors.AsType[*Error](err); ok && (e.Status == 403 || e.Status == 401) {
					continue
				}
				if err != nil {
					return err
				}
				good.Add(1)
				if !bytes.Equal(got, p[off:off+size]) {
					return fmt.Errorf("wrong bytes at %d, %d", off, size)
				}
				if rand.IntN(10) == 0 {
					tokens.expire()
				}
				b.Host()
			}
			return nil
		})
	}
	if err := g.Wait(); err != nil {
		t.Error(err)
	}
	if n := good.Load(); n < 80 {
		t.Errorf("only %d of 160 reads came through", n)
	}
}

func TestResolver(t *testing.T) {
	p := content(100)
	tokens := newTokenServer(t)
	b, h, _ := newBlob(t, p, Options{UserAgent: "sluice/1"})
	h.wrap(tokens.guard)
	h.content["/v2/team/app/manifests/v1"] = served{ocispec.MediaTypeImageManifest, []byte("{}")}
	resolver := b.repo.registry.Resolver()
	_, desc, err := resolver.Resolve(t.Context(), testRef)
	if err != nil || desc.MediaType != ocispec.MediaTypeImageManifest || desc.Digest != digest.FromString("{}") {
		t.Fatalf("%+v, %v", desc, err)
	}
	fetcher, err := resolver.Fetcher(t.Context(), testRef)
	if err != nil {
		t.Fatal(err)
	}
	rc, err := fetcher.Fetch(t.Context(), ocispec.Descriptor{Digest: b.subject.digest, Size: 100})
	if err != nil {
		t.Fatal(err)
	}
	defer rc.Close()
	if got, err := io.ReadAll(rc); err != nil || !bytes.Equal(got, p) {
		t.Errorf("%d bytes, %v", len(got), err)
	}
	for _, r := range h.seen() {
		if got := strings.Join(r.Header["User-Agent"], "|"); got != "sluice/1" {
			t.Errorf("User-Agent %q", got)
		}
	}
}

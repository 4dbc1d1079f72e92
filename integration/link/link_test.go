package link

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"
)

// registry serves one blob with ranges, and a manifest, and counts nothing.
type registry struct {
	content []byte
	digest  digest.Digest
}

func newRegistry(size int) *registry {
	content := bytes.Repeat([]byte("0123456789abcdef"), size/16+1)[:size]
	return &registry{content, digest.FromBytes(content)}
}

func (g *registry) path() string { return "/v2/some/image/blobs/" + g.digest.String() }

func (g *registry) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	switch r.URL.Path {
	case g.path():
		http.ServeContent(w, r, "", time.Time{}, bytes.NewReader(g.content))
	case "/v2/some/image/manifests/latest", "/v2/":
		_, _ = io.WriteString(w, "{}")
	default:
		http.NotFound(w, r)
	}
}

func start(t *testing.T, g *registry, o Options) *Link {
	t.Helper()
	server := httptest.NewServer(g)
	t.Cleanup(server.Close)
	o.Upstream = server.URL
	l, err := Start(o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := l.Close(); err != nil {
			t.Error(err)
		}
	})
	return l
}

type answer struct {
	code   int
	header http.Header
	body   []byte
	err    error // of the request or of reading the body
}

// get reads path from the front, with headers as "Name", "value" pairs.
func get(t *testing.T, l *Link, path string, headers ...string) answer {
	t.Helper()
	return getWith(t, newClient(t), l, path, headers...)
}

func getWith(t *testing.T, c *http.Client, l *Link, path string, headers ...string) answer {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+l.Addr()+path, nil)
	if err != nil {
		t.Fatal(err)
	}
	for i := 0; i < len(headers); i += 2 {
		req.Header.Set(headers[i], headers[i+1])
	}
	resp, err := c.Do(req)
	if err != nil {
		return answer{err: err}
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	return answer{resp.StatusCode, resp.Header, body, err}
}

func newClient(t *testing.T) *http.Client {
	transport := &http.Transport{}
	t.Cleanup(transport.CloseIdleConnections)
	return &http.Client{Transport: transport}
}

func TestForward(t *testing.T) {
	g := newRegistry(300_000)
	l := start(t, g, Options{})
	for _, c := range []struct {
		name, rng string
		code      int
		want      []byte
	}{
		{"whole", "", http.StatusOK, g.content},
		{"range", "bytes=100000-199999", http.StatusPartialContent, g.content[100000:200000]},
		{"suffix", "bytes=-17", http.StatusPartialContent, g.content[300_000-17:]},
		{"unsatisfiable", "bytes=300000-", http.StatusRequestedRangeNotSatisfiable, nil},
	} {
		t.Run(c.name, func(t *testing.T) {
			a := get(t, l, g.path(), "Range", c.rng)
			if a.err != nil || a.code != c.code {
				t.Fatalf("got %d, %v; want %d", a.code, a.err, c.code)
			}
			if c.want != nil && !bytes.Equal(a.body, c.want) {
				t.Errorf("got %d bytes, want %d", len(a.body), len(c.want))
			}
		})
	}
}

func TestCounts(t *testing.T) {
	g := newRegistry(100_000)
	l := start(t, g, Options{})
	get(t, l, g.path())
	get(t, l, g.path(), "Range", "bytes=0-9")
	get(t, l, "/v2/some/image/manifests/latest")
	get(t, l, "/v2/")

	got := l.ResetCounts()
	for kind, want := range map[Kind]Count{
		Blob: {2, 100_010}, Manifest: {1, 2}, Other: {1, 2}, Token: {},
	} {
		if got.Kinds[kind] != want {
			t.Errorf("%s: got %+v, want %+v", kind, got.Kinds[kind], want)
		}
	}
	if want := (Count{2, 100_010}); got.Blobs[g.digest] != want {
		t.Errorf("blob: got %+v, want %+v", got.Blobs[g.digest], want)
	}
	if want := (Count{4, 100_014}); got.Total() != want {
		t.Errorf("total: got %+v, want %+v", got.Total(), want)
	}
	if after := l.Counts().Total(); after != (Count{}) {
		t.Errorf("after reset: %+v", after)
	}
}

// TestLast: the moment of the last body byte stays as it is while nothing comes, whatever else is asked for, and goes with the counts.
func TestLast(t *testing.T) {
	g := newRegistry(100_000)
	l := start(t, g, Options{})
	if last := l.Counts().Last; !last.IsZero() {
		t.Errorf("before anything came: %s", last)
	}
	before := time.Now()
	get(t, l, g.path())
	last, after := l.Counts().Last, time.Now()
	if last.Before(before) || last.After(after) {
		t.Errorf("%s, want a moment from %s to %s", last, before, after)
	}
	l.Inject(Rule{Kind: Manifest}, Reset{After: -1})
	get(t, l, "/v2/some/image/manifests/latest")
	if c := l.Counts(); !c.Last.Equal(last) || c.Kinds[Manifest] != (Count{Requests: 1}) {
		t.Errorf("after a request without an answer: %+v, want %s", c, last)
	}
	if c := l.ResetCounts(); !c.Last.Equal(last) {
		t.Errorf("reset returns %s, want %s", c.Last, last)
	}
	if last := l.Counts().Last; !last.IsZero() {
		t.Errorf("after reset: %s", last)
	}
}

func TestKeepAlive(t *testing.T) {
	g := newRegistry(1000)
	l := start(t, g, Options{Latency: time.Millisecond})
	dials := 0
	transport := &http.Transport{}
	transport.DialContext = func(ctx context.Context, network, addr string) (net.Conn, error) {
		dials++
		return new(net.Dialer).DialContext(ctx, network, addr)
	}
	t.Cleanup(transport.CloseIdleConnections)
	c := &http.Client{Transport: transport}
	for range 5 {
		if a := getWith(t, c, l, g.path()); a.err != nil {
			t.Fatal(a.err)
		}
	}
	if dials != 1 {
		t.Errorf("%d connections for 5 requests, want 1", dials)
	}
}

func TestLatencyIsAtLeastWhatWasAsked(t *testing.T) {
	g := newRegistry(10)
	const latency = 30 * time.Millisecond
	l := start(t, g, Options{Latency: latency})
	begin := time.Now()
	for range 3 {
		if a := get(t, l, g.path()); a.err != nil {
			t.Fatal(a.err)
		}
	}
	if took := time.Since(begin); took < 3*latency {
		t.Errorf("3 requests took %s, want at least %s", took, 3*latency)
	}
}

func TestBandwidthIsSharedByAllConnections(t *testing.T) {
	const size, readers, bandwidth = 200_000, 4, 2_000_000
	g := newRegistry(size)
	l := start(t, g, Options{Bandwidth: bandwidth})
	begin := time.Now()
	var wg sync.WaitGroup
	for range readers {
		wg.Go(func() {
			if a := get(t, l, g.path()); a.err != nil || len(a.body) != size {
				t.Errorf("got %d bytes, %v", len(a.body), a.err)
			}
		})
	}
	wg.Wait()
	credit := l.shape.burst()
	if took, least := time.Since(begin), carry(size*readers, bandwidth)-credit; took < least {
		t.Errorf("%d bytes took %s, want at least %s", size*readers, took, least)
	}
}

// TestReserve checks the token bucket against a clock of its own: exactly the asked bandwidth, with a bounded credit.
func TestReserve(t *testing.T) {
	now := time.Unix(1000, 0)
	s := newShape(0, 1_000_000)
	var last time.Duration
	for range 100 {
		last = s.reserve(10_000, now)
	}
	if want := time.Second - s.burst(); last != want {
		t.Errorf("1 MB at 1 MB/s is through after %s, want %s", last, want)
	}
	if got := s.reserve(10_000, now.Add(time.Hour)); got > 0 {
		t.Errorf("after a pause the first bytes wait %s", got)
	}
	s.set(0, 0)
	if got := s.reserve(1<<30, now); got != 0 {
		t.Errorf("without a bandwidth: %s", got)
	}
}

func TestRefuseAndAccept(t *testing.T) {
	g := newRegistry(10)
	l := start(t, g, Options{})
	for range 3 {
		if err := l.Refuse(); err != nil {
			t.Fatal(err)
		}
		if a := get(t, l, g.path()); !errors.Is(a.err, syscall.ECONNREFUSED) {
			t.Errorf("got %d, %v; want connection refused", a.code, a.err)
		}
		if err := l.Accept(); err != nil {
			t.Fatal(err)
		}
		if a := get(t, l, g.path()); a.err != nil || a.code != http.StatusOK {
			t.Errorf("got %d, %v", a.code, a.err)
		}
	}
	if err := l.Refuse(); err != nil {
		t.Fatal(err)
	}
}

func TestUpstreamGone(t *testing.T) {
	l, err := Start(Options{Upstream: "unix:" + t.TempDir() + "/none"})
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	if a := get(t, l, "/v2/"); a.code != http.StatusBadGateway {
		t.Errorf("got %d, %v", a.code, a.err)
	}
	if _, err := Start(Options{Upstream: "ftp://x"}); err == nil {
		t.Error("an upstream that is no registry is accepted")
	}
}

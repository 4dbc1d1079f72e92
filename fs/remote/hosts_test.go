package remote

import (
	"context"
	"encoding/pem"
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/containerd/containerd/v2/core/remotes/docker"
	"golang.org/x/sync/errgroup"
)

func TestMirrors(t *testing.T) {
	p := content(1000)
	pushOnly, without, down, prefixed, origin := newHost(t), newHost(t), newHost(t), newHost(t), newHost(t)
	down.Close()
	d := prefixed.addBlob("/cache/registry.test/team/app", p)
	root := hostsDir(t, origin, fmt.Sprintf(`
[host.%q]
  capabilities = ["push"]
[host.%q]
  capabilities = ["pull"]
[host.%q]
  capabilities = ["pull"]
[host."%s/cache/registry.test"]
  capabilities = ["pull", "resolve"]
  override_path = true
  [host."%s/cache/registry.test".header]
    x-mirror = ["one", "two"]
`, pushOnly.URL, without.URL, down.URL, prefixed.URL, prefixed.URL))
	r, clock := newRegistry(t, origin, Options{ConfigPath: filepath.Join(root, "none") + ":" + root})
	b, err := r.Blob(testRef, d, 1000)
	if err != nil {
		t.Fatal(err)
	}
	mustRead(t, b, p, 0, 100)
	mustRead(t, b, p, 100, 100)

	for _, want := range []struct {
		name     string
		host     *fakeHost
		requests int
	}{{"push only", pushOnly, 0}, {"without the blob", without, 1}, {"the one that has it", prefixed, 2}, {"origin", origin, 0}} {
		if n := len(want.host.seen()); n != want.requests {
			t.Errorf("%s: %d requests, want %d", want.name, n, want.requests)
		}
	}
	if got := without.seen()[0].URL; got.Path != "/v2/team/app/blobs/"+d.String() || got.RawQuery != "ns=registry.test" {
		t.Errorf("asked a mirror for %s", got)
	}
	if got := prefixed.seen()[0].Header["X-Mirror"]; strings.Join(got, " ") != "one two" {
		t.Errorf("x-mirror: %q", got)
	}
	if b.Host() != prefixed.host() || len(clock.slept()) != 0 {
		t.Errorf("answered by %s after %v", b.Host(), clock.slept())
	}
}

func TestEveryHostIsInTheError(t *testing.T) {
	p := content(10)
	mirror, origin := newHost(t, status(404)), newHost(t, status(503), status(503))
	root := hostsDir(t, origin, fmt.Sprintf("[host.%q]\n", mirror.URL))
	r, _ := newRegistry(t, origin, Options{ConfigPath: root, MaxAttempts: 2})
	b, err := r.Blob(testRef, origin.addBlob("/v2/team/app", p), 10)
	if err != nil {
		t.Fatal(err)
	}
	_, err = readRange(t.Context(), b, 0, 10)
	joined, ok := err.(interface{ Unwrap() []error })
	if !ok || len(joined.Unwrap()) != 2 {
		t.Fatalf("got %v", err)
	}
	first, second := asError(t, joined.Unwrap()[0]), asError(t, joined.Unwrap()[1])
	if first.Host != mirror.host() || first.Status != 404 || first.Temporary() || first.Attempts != 1 {
		t.Errorf("mirror: %+v", first)
	}
	if second.Host != origin.host() || second.Status != 503 || !second.Temporary() || second.Attempts != 2 {
		t.Errorf("origin: %+v", second)
	}
	if !temporary(err) || !temporary(fmt.Errorf("open layer: %w", err)) || temporary(errors.New("other")) || temporary(nil) {
		t.Error("Temporary is wrong")
	}
	if n := len(mirror.seen()); n != 1 {
		t.Errorf("%d requests at the mirror", n)
	}
}

func TestMirrorTakesOverInTheMiddle(t *testing.T) {
	p := content(1000)
	first, second := newHost(t), newHost(t)
	d := first.addBlob("/v2/team/app", p)
	second.addBlob("/v2/team/app", p)
	first.fail(partly(206, p[:300], "Content-Range", "bytes 0-999/1000", "Content-Length", "1000"))
	root := hostsDir(t, second, fmt.Sprintf("[host.%q]\n", first.URL))
	r, clock := newRegistry(t, second, Options{ConfigPath: root})
	b, err := r.Blob(testRef, d, 1000)
	if err != nil {
		t.Fatal(err)
	}
	mustRead(t, b, p, 0, 1000)
	if got := second.seen(); len(got) != 1 || got[0].Header.Get("Range") != "bytes=300-999" || len(clock.slept()) != 0 {
		t.Errorf("%d requests at the second, %d waits", len(got), len(clock.slept()))
	}
}

func TestRetryAfterHoldsOneHostOnly(t *testing.T) {
	p := content(100)
	busy, flaky := newHost(t, status(429, "Retry-After", "30")), newHost(t, status(500), status(500))
	d := flaky.addBlob("/v2/team/app", p)
	busy.addBlob("/v2/team/app", p)
	root := hostsDir(t, flaky, fmt.Sprintf("[host.%q]\n", busy.URL))
	r, _ := newRegistry(t, flaky, Options{ConfigPath: root})
	b, err := r.Blob(testRef, d, 100)
	if err != nil {
		t.Fatal(err)
	}
	mustRead(t, b, p, 0, 100)
	if n, m := len(busy.seen()), len(flaky.seen()); n != 1 || m != 3 {
		t.Errorf("%d requests at the busy host, %d at the other", n, m)
	}
}

func TestDistrust(t *testing.T) {
	p := content(100)
	wrong, right := newHost(t), newHost(t)
	d := right.addBlob("/v2/team/app", p)
	wrong.content["/v2/team/app/blobs/"+d.String()] = served{body: make([]byte, 100)}
	root := hostsDir(t, right, fmt.Sprintf("[host.%q]\n", wrong.URL))
	r, _ := newRegistry(t, right, Options{ConfigPath: root})
	b, err := r.Blob(testRef, d, 100)
	if err != nil {
		t.Fatal(err)
	}
	if got, err := readRange(t.Context(), b, 0, 100); err != nil || string(got) == string(p) {
		t.Fatal("the wrong host was not asked", err)
	}
	b.Distrust(b.Host())
	mustRead(t, b, p, 0, 100)
	mustRead(t, b, p, 0, 100)
	b.Distrust(right.host())
	if n := len(wrong.seen()); n != 1 {
		t.Errorf("%d requests at the wrong host", n)
	}
	if _, err := readRange(t.Context(), b, 0, 100); err != nil {
		t.Errorf("with nobody trusted: %v", err)
	}
}

func TestHostsAreReadAgain(t *testing.T) {
	p := content(100)
	before, after := newHost(t), newHost(t)
	d := before.addBlob("/v2/team/app", p)
	after.addBlob("/v2/team/app", p)
	root := hostsDir(t, before, "")
	r, _ := newRegistry(t, before, Options{ConfigPath: root})
	b, err := r.Blob(testRef, d, 100)
	if err != nil {
		t.Fatal(err)
	}
	mustRead(t, b, p, 0, 100)
	same, err := r.hosts.get(t.Context(), "registry.test")
	if again, _ := r.hosts.get(t.Context(), "registry.test"); err != nil || again != same {
		t.Error("read again without a change")
	}
	writeHosts(t, root, fmt.Sprintf("# now\nserver = %q\n", after.URL))
	mustRead(t, b, p, 0, 100)
	if n, m := len(before.seen()), len(after.seen()); n != 1 || m != 1 {
		t.Errorf("%d requests before, %d after", n, m)
	}
	if err := os.RemoveAll(filepath.Join(root, "registry.test")); err != nil {
		t.Fatal(err)
	}
	list, err := r.hosts.get(t.Context(), "registry.test")
	if err != nil || len(list.hosts) != 1 || list.hosts[0].Host != "registry.test" || list.hosts[0].Scheme != "https" {
		t.Errorf("without a folder: %+v, %v", list, err)
	}
}

func TestHostsOfANamespace(t *testing.T) {
	tests := []struct {
		namespace, scheme, host string
		plain                   bool
	}{
		{"docker.io", "https", "registry-1.docker.io", false},
		{"docker.io", "https", "registry-1.docker.io", true},
		{"ghcr.io", "https", "ghcr.io", false},
		{"ghcr.io", "http", "ghcr.io", true},
		{"localhost:5000", "https", "localhost:5000", false}, // and http if that does not answer: see below
		{"localhost:5000", "http", "localhost:5000", true},
		{"127.0.0.1:80", "http", "127.0.0.1:80", false},
	}
	for _, test := range tests {
		t.Run(fmt.Sprint(test.namespace, " plain=", test.plain), func(t *testing.T) {
			r := New(Options{ConfigPath: t.TempDir(), PlainHTTP: test.plain})
			list, err := r.hosts.get(t.Context(), test.namespace)
			if err != nil || len(list.hosts) != 1 || list.hosts[0].Scheme != test.scheme || list.hosts[0].Host != test.host {
				t.Fatalf("%+v, %v", list, err)
			}
			if !list.hosts[0].Capabilities.Has(docker.HostCapabilityPull | docker.HostCapabilityPush) {
				t.Error("not all capabilities")
			}
		})
	}
	t.Run("ns", func(t *testing.T) {
		r := New(Options{ConfigPath: t.TempDir(), Credentials: anonymous})
		for ref, want := range map[string]string{
			"docker.io/library/busybox:1":  "https://registry-1.docker.io/v2/library/busybox/blobs/" + emptyDigest,
			"ghcr.io/a/b/c@" + emptyDigest: "https://ghcr.io/v2/a/b/c/blobs/" + emptyDigest,
		} {
			b, err := r.Blob(ref, emptyDigest, 0)
			if err != nil {
				t.Fatal(err)
			}
			list, err := b.hosts(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			if got := list[0].url("blobs", emptyDigest).String(); got != want {
				t.Errorf("got %s, want %s", got, want)
			}
		}
	})
}

const emptyDigest = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"

// Localhost needs no configuration, in plain HTTP or in TLS with any certificate, as in containerd.
func TestLocalhost(t *testing.T) {
	p := content(100)
	for name, start := range map[string]func(*fakeHost){
		"plain": func(h *fakeHost) { h.Start() },
		"TLS":   func(h *fakeHost) { h.StartTLS() },
	} {
		t.Run(name, func(t *testing.T) {
			h := newUnstartedHost(t)
			start(h)
			r, _ := newRegistry(t, h, Options{ConfigPath: t.TempDir()})
			b, err := r.Blob(h.host()+"/team/app", h.addBlob("/v2/team/app", p), 100)
			if err != nil {
				t.Fatal(err)
			}
			mustRead(t, b, p, 0, 100)
			mustRead(t, b, p, 0, 100)
			if got := h.seen(); len(got) != 2 || got[0].URL.RawQuery != "" {
				t.Errorf("got %d requests, %s", len(got), got[0].URL)
			}
		})
	}
}

func TestNoHosts(t *testing.T) {
	h := newHost(t)
	root := t.TempDir()
	writeHosts(t, root, fmt.Sprintf("server = %q\ncapabilities = [\"push\"]\n", h.URL))
	r, _ := newRegistry(t, h, Options{ConfigPath: root})
	b, err := r.Blob(testRef, emptyDigest, 0)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := b.ReadRange(t.Context(), 0, 1); !errors.Is(err, errNoHosts) {
		t.Errorf("ReadRange: %v", err)
	}
	if _, err := b.Size(t.Context()); !errors.Is(err, errNoHosts) {
		t.Errorf("Size: %v", err)
	}
	if _, err := r.Manifest(t.Context(), testRef, emptyDigest); !errors.Is(err, errNoHosts) {
		t.Errorf("Manifest: %v", err)
	}
}

// connections counts them as they are made.
func connections(h *fakeHost) func() int {
	var mu sync.Mutex
	var n int
	h.Config.ConnContext = countConn(&mu, &n)
	return func() int {
		mu.Lock()
		defer mu.Unlock()
		return n
	}
}

func TestTransport(t *testing.T) {
	p := content(100 << 10)
	setUp := func(t *testing.T, h *fakeHost, toml string) *Blob {
		root := hostsDir(t, h, toml)
		r, _ := newRegistry(t, h, Options{ConfigPath: root})
		b, err := r.Blob(testRef, h.addBlob("/v2/team/app", p), int64(len(p)))
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	t.Run("HTTP/1.1 connections are used again", func(t *testing.T) {
		h := newUnstartedHost(t)
		count := connections(h)
		h.Start()
		b := setUp(t, h, "")
		for range 10 {
			mustRead(t, b, p, 10, 90<<10)
		}
		h.fail(status(503), status(503))
		mustRead(t, b, p, 0, 10)
		if n := count(); n != 1 {
			t.Errorf("%d connections", n)
		}
	})
	t.Run("HTTP/2 with a private CA", func(t *testing.T) {
		h := newUnstartedHost(t)
		count := connections(h)
		h.EnableHTTP2 = true
		h.StartTLS()
		ca := filepath.Join(t.TempDir(), "ca.pem")
		cert := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: h.Certificate().Raw})
		if err := os.WriteFile(ca, cert, 0o644); err != nil {
			t.Fatal(err)
		}
		b := setUp(t, h, fmt.Sprintf("ca = %q\n", ca))
		mustRead(t, b, p, 0, int64(len(p))) // so that the protocol is known
		g, ctx := errgroup.WithContext(t.Context())
		for range 20 {
			g.Go(func() error {
				_, err := readRange(ctx, b, 0, int64(len(p)))
				return err
			})
		}
		if err := g.Wait(); err != nil {
			t.Fatal(err)
		}
		if got := h.seen()[0].Proto; got != "HTTP/2.0" || count() != 1 {
			t.Errorf("%s, %d connections", got, count())
		}
	})
	t.Run("an unknown CA is not tried again", func(t *testing.T) {
		h := newUnstartedHost(t)
		count := connections(h)
		h.Config.ErrorLog = discardLog()
		h.StartTLS()
		_, err := readRange(t.Context(), setUp(t, h, ""), 0, 1)
		if err == nil || temporary(err) || count() != 1 {
			t.Errorf("%v after %d connections", err, count())
		}
	})
	t.Run("the default transport is left alone", func(t *testing.T) {
		d := http.DefaultTransport.(*http.Transport)
		if d.MaxIdleConnsPerHost != 0 || d.HTTP2 != nil {
			t.Error("it was changed")
		}
	})
}

func TestTrace(t *testing.T) {
	type key struct{}
	p := content(1000)
	var mu sync.Mutex
	var codes []int
	var bytes int
	tr := Trace{
		Response: func(ctx context.Context, host string, code int) {
			mu.Lock()
			defer mu.Unlock()
			codes = append(codes, code)
			if ctx.Value(key{}) != "demand" || !strings.HasPrefix(host, "127.0.0.1:") {
				t.Errorf("host %s, context %v", host, ctx)
			}
		},
		Bytes: func(ctx context.Context, _ string, n int) {
			mu.Lock()
			defer mu.Unlock()
			bytes += n
			if ctx.Value(key{}) != "demand" {
				t.Errorf("context %v", ctx)
			}
		},
	}
	b, _, _ := newBlob(t, p, Options{Trace: tr}, status(503), whole(p))
	ctx := context.WithValue(t.Context(), key{}, "demand")
	if _, err := readRange(ctx, b, 100, 200); err != nil {
		t.Fatal(err)
	}
	if fmt.Sprint(codes) != "[503 200]" || bytes != 300 { // 100 of which were skipped
		t.Errorf("codes %v, %d bytes", codes, bytes)
	}
}

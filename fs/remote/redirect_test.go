package remote

import (
	"bytes"
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"sync/atomic"
	"testing"
)

// signing makes a registry that sends blob requests to storage, with a signature that is valid while key says so.
func signing(storage *fakeHost, key *atomic.Int64) func(http.HandlerFunc) http.HandlerFunc {
	return func(http.HandlerFunc) http.HandlerFunc {
		return func(w http.ResponseWriter, r *http.Request) {
			http.Redirect(w, r, fmt.Sprintf("%s%s?X-Signature=secret-%d", storage.URL, r.URL.Path, key.Load()), http.StatusTemporaryRedirect)
		}
	}
}

// checking makes storage that refuses old signatures, as S3 does.
func checking(key *atomic.Int64, refusal int) func(http.HandlerFunc) http.HandlerFunc {
	return func(next http.HandlerFunc) http.HandlerFunc {
		return func(w http.ResponseWriter, r *http.Request) {
			if r.URL.Query().Get("X-Signature") != fmt.Sprintf("secret-%d", key.Load()) {
				message(refusal, `<Error><Code>AccessDenied</Code><Token>secret</Token></Error>`)(w, r)
				return
			}
			next(w, r)
		}
	}
}

func TestSignedURL(t *testing.T) {
	p := content(1000)
	for _, refusal := range []int{400, 401, 403, 404, 410} {
		t.Run(fmt.Sprint(refusal), func(t *testing.T) {
			var key atomic.Int64
			tokens := newTokenServer(t)
			registry, storage := newHost(t), newHost(t)
			d := storage.addBlob("/v2/team/app", p)
			registry.wrap(func(next http.HandlerFunc) http.HandlerFunc { return tokens.guard(signing(storage, &key)(next)) })
			storage.wrap(checking(&key, refusal))
			root := hostsDir(t, registry, "[header]\nX-Api-Key = \"api-secret\"\n")
			r, clock := newRegistry(t, registry, Options{ConfigPath: root})
			b, err := r.Blob(testRef, d, 1000)
			if err != nil {
				t.Fatal(err)
			}

			mustRead(t, b, p, 0, 100)
			mustRead(t, b, p, 100, 100)
			if n, m := len(registry.seen()), len(storage.seen()); n != 2 || m != 2 {
				t.Errorf("%d requests at the registry and %d at storage for two reads, want 2 and 2", n, m)
			}
			key.Add(1)
			mustRead(t, b, p, 200, 100)
			mustRead(t, b, p, 300, 100)
			if n, m := len(registry.seen()), len(storage.seen()); n != 3 || m != 5 {
				t.Errorf("%d requests at the registry and %d at storage after expiry, want 3 and 5", n, m)
			}
			if n := len(clock.slept()); n != 0 {
				t.Errorf("waited %d times", n)
			}
			for _, req := range storage.seen() {
				for _, name := range []string{"Authorization", "X-Api-Key", "Cookie", "Referer"} {
					if got := req.Header.Get(name); got != "" {
						t.Errorf("storage got %s: %s", name, got)
					}
				}
			}
			if got := registry.seen()[2].Header; got.Get("X-Api-Key") != "api-secret" || !strings.HasPrefix(got.Get("Authorization"), "Bearer ") {
				t.Errorf("the registry got %v", got)
			}
			if got := b.Host(); got != registry.host() {
				t.Errorf("answered by %s", got)
			}
		})
	}
}

func TestSignedURLFaults(t *testing.T) {
	p := content(1000)
	setUp := func(t *testing.T) (*Blob, *fakeHost, *fakeHost) {
		var key atomic.Int64
		registry, storage := newHost(t), newHost(t)
		d := storage.addBlob("/v2/team/app", p)
		registry.wrap(signing(storage, &key))
		r, _ := newRegistry(t, registry, Options{})
		b, err := r.Blob(testRef, d, 1000)
		if err != nil {
			t.Fatal(err)
		}
		return b, registry, storage
	}
	t.Run("fresh and refused", func(t *testing.T) {
		b, registry, storage := setUp(t)
		storage.fail(message(403, `{"errors":[{"code":"X","message":"from storage"}]}`))
		_, err := readRange(t.Context(), b, 0, 100)
		e := asError(t, err)
		if e.Status != 403 || e.Host != registry.host() || e.Message != "" {
			t.Errorf("got %+v", e)
		}
		if want := storage.URL + "/v2/team/app/blobs/" + b.subject.digest.String(); e.URL != want || strings.Contains(err.Error(), "secret") {
			t.Errorf("got %v, URL %s", err, e.URL)
		}
	})
	t.Run("broken body", func(t *testing.T) {
		b, registry, storage := setUp(t)
		storage.fail(partly(206, p[:50], "Content-Range", "bytes 0-99/1000", "Content-Length", "100"))
		mustRead(t, b, p, 0, 100)
		if n := len(registry.seen()); n != 1 {
			t.Errorf("%d requests at the registry", n)
		}
	})
	t.Run("remembered and down", func(t *testing.T) {
		b, registry, storage := setUp(t)
		mustRead(t, b, p, 0, 100)
		storage.fail(status(503))
		mustRead(t, b, p, 100, 100)
		if n := len(registry.seen()); n != 2 {
			t.Errorf("%d requests at the registry", n)
		}
	})
	t.Run("remembered and lying", func(t *testing.T) {
		b, registry, storage := setUp(t)
		mustRead(t, b, p, 0, 100)
		storage.fail(partly(206, p[:100], "Content-Range", "bytes 0-99/1000"))
		mustRead(t, b, p, 100, 100)
		if n := len(registry.seen()); n != 2 {
			t.Errorf("%d requests at the registry", n)
		}
	})
	t.Run("storage gone", func(t *testing.T) {
		b, _, storage := setUp(t)
		b.repo.registry.opts.MaxAttempts = 2
		storage.Close()
		_, err := readRange(t.Context(), b, 0, 100)
		if err == nil || !temporary(err) || strings.Contains(err.Error(), "secret") {
			t.Errorf("got %v", err)
		}
	})
	t.Run("no challenge is taken from storage", func(t *testing.T) {
		b, _, storage := setUp(t)
		creds, asked := counted("alice", "hunter2")
		b.repo.registry.opts.Credentials = creds
		storage.fail(status(401, "WWW-Authenticate", `Basic realm="give me"`))
		if _, err := readRange(t.Context(), b, 0, 100); err == nil || asked.Load() != 0 {
			t.Errorf("got %v, credentials asked for %d times", err, asked.Load())
		}
	})
}

func TestRedirects(t *testing.T) {
	p := content(1000)
	t.Run("on the same host", func(t *testing.T) {
		tokens := newTokenServer(t)
		b, h, _ := newBlob(t, p, Options{})
		h.wrap(tokens.guard)
		blob := "/v2/team/app/blobs/" + b.subject.digest.String()
		h.content["/elsewhere"] = h.content[blob]
		h.fail(nil, status(302, "Location", "/elsewhere"))
		mustRead(t, b, p, 0, 100)
		mustRead(t, b, p, 100, 100)
		var paths []string
		for _, r := range h.seen() {
			paths = append(paths, strings.TrimPrefix(r.URL.Path, "/v2/team/app"))
		}
		// It needs a token, so it is not remembered.
		if got, want := strings.Join(paths, " "), strings.ReplaceAll("B B /elsewhere B", "B", strings.TrimPrefix(blob, "/v2/team/app")); got != want {
			t.Errorf("got %s, want %s", got, want)
		}
	})
	t.Run("for ever", func(t *testing.T) {
		b, h, _ := newBlob(t, p, Options{})
		h.wrap(func(http.HandlerFunc) http.HandlerFunc { return status(307, "Location", "/again") })
		_, err := readRange(t.Context(), b, 0, 100)
		if err == nil || !strings.Contains(err.Error(), errRedirects.Error()) || len(h.seen()) > 20 {
			t.Errorf("%v after %d requests", err, len(h.seen()))
		}
	})
	t.Run("away and back", func(t *testing.T) {
		tokens := newTokenServer(t)
		b, h, _ := newBlob(t, p, Options{})
		h.wrap(tokens.guard)
		other := newHost(t, status(307, "Location", h.URL+"/back"))
		h.fail(nil, status(307, "Location", other.URL))
		if _, err := readRange(t.Context(), b, 0, 100); asError(t, err).Status != 401 {
			t.Errorf("got %v", err)
		}
		if got := h.seen()[2].Header.Get("Authorization"); got != "" {
			t.Errorf("another host had our token sent: %s", got)
		}
	})
}

func TestSameHost(t *testing.T) {
	for pair, want := range map[[2]string]bool{
		{"https://a.test/x", "https://a.test/y"}:           true,
		{"https://a.test/x", "https://A.test:443/y"}:       true,
		{"http://a.test/x", "https://a.test/y"}:            true,
		{"https://a.test/x", "http://a.test/y"}:            false,
		{"https://a.test/x", "https://a.test:444/y"}:       false,
		{"https://a.test/x", "https://b.a.test/y"}:         false,
		{"https://a.test/x", "https://a.test.evil.test/y"}: false,
		{"https://a.test/x", "https://a.test@evil.test/y"}: false,
		{"http://127.0.0.1:1/x", "http://127.0.0.1:2/y"}:   false,
	} {
		a, errA := url.Parse(pair[0])
		b, errB := url.Parse(pair[1])
		if errA != nil || errB != nil {
			t.Fatal(errA, errB)
		}
		if got := sameHost(a, b); got != want {
			t.Errorf("%s and %s: %v", pair[0], pair[1], got)
		}
	}
}

func TestWholeForPart(t *testing.T) {
	p := content(300 << 10)
	root := t.TempDir()
	ignoring, origin := newHost(t), newHost(t)
	origin.addBlob("/v2/team/app", p)
	ignoring.wrap(func(http.HandlerFunc) http.HandlerFunc { return whole(p) })
	r, _ := newRegistry(t, origin, Options{ConfigPath: root})
	writeHosts(t, root, fmt.Sprintf("server = %q\n[host.%q]\n", origin.URL, ignoring.URL))
	b, err := r.Blob(testRef, origin.addBlob("/v2/team/app", p), int64(len(p)))
	if err != nil {
		t.Fatal(err)
	}
	var all bytes.Buffer
	const piece = 100 << 10
	for off := int64(0); off < int64(len(p)); off += piece {
		got, err := readRange(t.Context(), b, off, piece)
		if err != nil {
			t.Fatal(err)
		}
		all.Write(got)
	}
	if !bytes.Equal(all.Bytes(), p) {
		t.Error("wrong bytes")
	}
	// Once it has shown what it does with ranges, another host is preferred.
	if n, m := len(ignoring.seen()), len(origin.seen()); n != 1 || m != 2 {
		t.Errorf("%d requests at the host that ignores ranges and %d at the other", n, m)
	}
}

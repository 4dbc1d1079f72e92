package remote

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"golang.org/x/sync/errgroup"
)

// A tokenServer gives out a new token for each request, of which only the last is valid.
type tokenServer struct {
	*httptest.Server
	quiet bool // does not say why a token is refused

	mu       sync.Mutex
	valid    string
	answers  []http.HandlerFunc // to the next requests
	requests []string           // "user:secret scope"
}

func newTokenServer(t *testing.T) *tokenServer {
	s := &tokenServer{}
	s.Server = httptest.NewServer(s)
	t.Cleanup(s.Close)
	return s
}

func (s *tokenServer) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if err := r.ParseForm(); err != nil {
		w.WriteHeader(http.StatusBadRequest)
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	user, secret, _ := r.BasicAuth()
	if r.Method == http.MethodPost {
		user, secret = r.Form.Get("username"), r.Form.Get("password")+r.Form.Get("refresh_token")
	}
	s.requests = append(s.requests, fmt.Sprintf("%s:%s %s", user, secret, strings.Join(r.Form["scope"], " ")))
	if len(s.answers) > 0 {
		answer := s.answers[0]
		s.answers = s.answers[1:]
		answer(w, r)
		return
	}
	s.valid = fmt.Sprintf("token-%d", len(s.requests))
	fmt.Fprintf(w, `{"token":%q,"access_token":%q}`, s.valid, s.valid)
}

// guard is for fakeHost.wrap.
func (s *tokenServer) guard(next http.HandlerFunc) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		s.mu.Lock()
		valid := s.valid
		s.mu.Unlock()
		got := r.Header.Get("Authorization")
		if valid != "" && got == "Bearer "+valid {
			next(w, r)
			return
		}
		repo, _, _ := strings.Cut(strings.TrimPrefix(r.URL.Path, "/v2/"), "/blobs/")
		challenge := fmt.Sprintf(`Bearer realm=%q,service="registry.test",scope="repository:%s:pull"`, s.URL+"/token?key=realm-secret", repo)
		if got != "" && !s.quiet {
			challenge += `,error="invalid_token"`
		}
		w.Header().Set("WWW-Authenticate", challenge)
		message(http.StatusUnauthorized, `{"errors":[{"code":"UNAUTHORIZED","message":"authentication required"}]}`)(w, r)
	}
}

func (s *tokenServer) expire() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.valid = "none any more"
}

func (s *tokenServer) fail(answers ...http.HandlerFunc) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.answers = append(s.answers, answers...)
}

func (s *tokenServer) seen() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return append([]string(nil), s.requests...)
}

// counted returns credentials that tell how often they were asked for.
func counted(user, secret string) (func(string) (string, string, error), *atomic.Int32) {
	var n atomic.Int32
	return func(string) (string, string, error) {
		n.Add(1)
		return user, secret, nil
	}, &n
}

func TestToken(t *testing.T) {
	p := content(1000)
	tests := []struct {
		name, user, secret, want string
	}{
		{"anonymous", "", "", ": repository:team/app:pull"},
		{"password", "alice", "hunter2", "alice:hunter2 repository:team/app:pull"},
		{"identity token", "", "idtoken", ":idtoken repository:team/app:pull"},
	}
	for _, test := range tests {
		for _, quiet := range []bool{false, true} {
			t.Run(fmt.Sprint(test.name, " quiet=", quiet), func(t *testing.T) {
				tokens := newTokenServer(t)
				tokens.quiet = quiet
				creds, asked := counted(test.user, test.secret)
				b, h, clock := newBlob(t, p, Options{Credentials: creds})
				h.wrap(tokens.guard)

				mustRead(t, b, p, 0, 100)
				mustRead(t, b, p, 100, 100)
				if n := len(h.seen()); n != 3 {
					t.Errorf("%d requests for two reads, want 3", n)
				}
				if got := tokens.seen(); len(got) != 1 || got[0] != test.want {
					t.Errorf("token requests %q, want %q", got, test.want)
				}

				tokens.expire()
				mustRead(t, b, p, 200, 100)
				if n := len(h.seen()); n != 5 {
					t.Errorf("%d requests after expiry, want 5", n)
				}
				if n := len(tokens.seen()); n != 2 || asked.Load() != 2 {
					t.Errorf("%d tokens, credentials asked for %d times, want 2 of each", n, asked.Load())
				}
				if n := len(clock.slept()); n != 0 {
					t.Errorf("waited %d times", n)
				}
			})
		}
	}
}

func TestTokensPerRepository(t *testing.T) {
	p := content(100)
	tokens := newTokenServer(t)
	b, h, _ := newBlob(t, p, Options{})
	h.wrap(tokens.guard)
	mustRead(t, b, p, 0, 100)
	other, err := b.repo.registry.Blob("registry.test/team/other@"+b.subject.digest.String(), h.addBlob("/v2/team/other", p), 100)
	if err != nil {
		t.Fatal(err)
	}
	mustRead(t, other, p, 0, 100)
	if got := tokens.seen(); len(got) != 2 || got[1] != ": repository:team/other:pull" {
		t.Errorf("token requests %q", got)
	}
}

func TestTokenIsSharedByConcurrentReads(t *testing.T) {
	const readers = 20
	p := content(1000)
	tokens := newTokenServer(t)
	creds, asked := counted("alice", "hunter2")
	b, h, _ := newBlob(t, p, Options{Credentials: creds})
	// All requests of a wave are refused before any of them may ask for a token.
	var wave sync.WaitGroup
	h.wrap(func(next http.HandlerFunc) http.HandlerFunc {
		return func(w http.ResponseWriter, r *http.Request) {
			tokens.mu.Lock()
			good := tokens.valid != "" && r.Header.Get("Authorization") == "Bearer "+tokens.valid
			tokens.mu.Unlock()
			if !good {
				wave.Done()
				wave.Wait()
			}
			tokens.guard(next)(w, r)
		}
	})
	for i := range 3 {
		wave.Add(readers)
		g, ctx := errgroup.WithContext(t.Context())
		for range readers {
			g.Go(func() error {
				_, err := readRange(ctx, b, 0, 1000)
				return err
			})
		}
		if err := g.Wait(); err != nil {
			t.Fatal(err)
		}
		if n := len(tokens.seen()); n != i+1 || int(asked.Load()) != i+1 {
			t.Fatalf("wave %d: %d tokens, credentials asked for %d times in all", i, n, asked.Load())
		}
		tokens.expire()
	}
}

func TestTokenServerFails(t *testing.T) {
	p := content(100)
	tests := []struct {
		name      string
		answers   []http.HandlerFunc
		want      string
		temporary bool
	}{
		{name: "503 once", answers: []http.HandlerFunc{status(503)}},
		{name: "nothing once", answers: []http.HandlerFunc{hangUp}},
		{name: "half a token", answers: []http.HandlerFunc{reset(200, []byte(`{"tok`))}},
		{name: "403", answers: []http.HandlerFunc{message(403, `{"errors":[{"code":"DENIED","message":"hunter2 is no password"}]}`)}, want: "403 Forbidden: no token from http://"},
		{name: "429 for ever", answers: []http.HandlerFunc{status(429), status(429), status(429)}, want: "429 Too Many Requests: no token", temporary: true},
		{name: "no token", answers: []http.HandlerFunc{message(200, `{}`)}, want: "did not include a token"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			tokens := newTokenServer(t)
			tokens.fail(test.answers...)
			b, h, _ := newBlob(t, p, Options{MaxAttempts: 3})
			h.wrap(tokens.guard)
			_, err := readRange(t.Context(), b, 0, 100)
			if test.want == "" {
				if err != nil {
					t.Fatal(err)
				}
				return
			}
			if err == nil || !strings.Contains(err.Error(), test.want) || temporary(err) != test.temporary {
				t.Errorf("got %v", err)
			}
			for _, secret := range []string{"realm-secret", "hunter2", "?"} {
				if strings.Contains(err.Error(), secret) {
					t.Errorf("%q is in %v", secret, err)
				}
			}
			// What went wrong is not remembered: once the token server is well again, so is reading.
			mustRead(t, b, p, 0, 100)
		})
	}
}

// A reader that dies while it fetches a token takes nobody along.
func TestTokenOutlivesItsFirstReader(t *testing.T) {
	p := content(100)
	tokens := newTokenServer(t)
	b, h, _ := newBlob(t, p, Options{})
	h.wrap(tokens.guard)
	ctx, cancel := context.WithCancel(t.Context())
	asked, release := make(chan struct{}), make(chan struct{})
	tokens.fail(func(w http.ResponseWriter, _ *http.Request) {
		close(asked)
		<-release
		tokens.valid = "token-late" // under the caller's lock
		fmt.Fprintf(w, `{"token":%q}`, tokens.valid)
	})
	first := make(chan error, 1)
	go func() {
		_, err := readRange(ctx, b, 0, 100)
		first <- err
	}()
	<-asked
	cancel()
	if err := <-first; !errors.Is(err, context.Canceled) {
		t.Errorf("first reader: %v", err)
	}
	close(release)
	mustRead(t, b, p, 0, 100)
	if n := len(tokens.seen()); n != 1 {
		t.Errorf("%d token requests", n)
	}
}

func TestBasicAuth(t *testing.T) {
	p := content(100)
	var mu sync.Mutex
	password, known := "old", "old" // the registry's, and ours
	b, h, _ := newBlob(t, p, Options{Credentials: func(string) (string, string, error) {
		mu.Lock()
		defer mu.Unlock()
		return "alice", known, nil
	}})
	h.wrap(func(next http.HandlerFunc) http.HandlerFunc {
		return func(w http.ResponseWriter, r *http.Request) {
			mu.Lock()
			user, secret, _ := r.BasicAuth()
			good := user == "alice" && secret == password
			mu.Unlock()
			if !good {
				w.Header().Set("WWW-Authenticate", `Basic realm="registry"`)
				message(401, fmt.Sprintf(`{"errors":[{"code":"UNAUTHORIZED","message":"not %s"}]}`, secret))(w, r)
				return
			}
			next(w, r)
		}
	})
	mustRead(t, b, p, 0, 100)
	mu.Lock()
	password = "new-password"
	mu.Unlock()
	_, err := readRange(t.Context(), b, 0, 100)
	if err == nil || strings.Contains(err.Error(), "not old") || !strings.Contains(err.Error(), "quotes a credential") {
		t.Errorf("with the old password: %v", err)
	}
	if e := asError(t, err); e.Status != 401 || e.Temporary() {
		t.Errorf("with the old password: %+v", e)
	}
	mu.Lock()
	known = password
	mu.Unlock()
	mustRead(t, b, p, 0, 100)
}

func TestCredentialsFail(t *testing.T) {
	p := content(100)
	cause := errors.New("keychain is locked")
	for scheme, challenge := range map[string]string{
		"basic":  `Basic realm="registry"`,
		"bearer": `Bearer realm="http://auth.test/token"`,
	} {
		t.Run(scheme, func(t *testing.T) {
			b, h, _ := newBlob(t, p, Options{Credentials: func(string) (string, string, error) { return "", "", cause }})
			h.fail(status(401, "WWW-Authenticate", challenge))
			_, err := readRange(t.Context(), b, 0, 100)
			if !errors.Is(err, cause) || asError(t, err).Status != 401 {
				t.Errorf("got %v", err)
			}
			mustRead(t, b, p, 0, 100)
		})
	}
	t.Run("none for basic", func(t *testing.T) {
		b, _, _ := newBlob(t, p, Options{}, status(401, "WWW-Authenticate", `Basic realm="registry"`))
		_, err := readRange(t.Context(), b, 0, 100)
		if err == nil || !strings.Contains(err.Error(), "no basic auth credentials") {
			t.Errorf("got %v", err)
		}
	})
}

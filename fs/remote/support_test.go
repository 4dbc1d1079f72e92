package remote

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log"
	"maps"
	"math/rand/v2"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"
)

const testRef = "registry.test/team/app:v1"

// content returns n bytes that are the same in every run.
func content(n int) []byte {
	p := make([]byte, n)
	r := rand.New(rand.NewPCG(1, 2))
	for i := range p {
		p[i] = byte(r.Uint32())
	}
	return p
}

// A fakeHost is a registry host that serves blobs and manifests by digest. The handlers in faults answer the first requests
// instead, one each; a nil one lets its request pass.
type fakeHost struct {
	*httptest.Server
	content map[string]served // by path

	mu       sync.Mutex
	faults   []http.HandlerFunc
	always   func(http.HandlerFunc) http.HandlerFunc
	requests []*http.Request
}

type served struct {
	mediaType string
	body      []byte
}

func newHost(t testing.TB, faults ...http.HandlerFunc) *fakeHost {
	h := newUnstartedHost(t, faults...)
	h.Start()
	return h
}

func newUnstartedHost(t testing.TB, faults ...http.HandlerFunc) *fakeHost {
	h := &fakeHost{content: make(map[string]served), faults: faults}
	h.Server = httptest.NewUnstartedServer(h)
	t.Cleanup(func() {
		h.CloseClientConnections() // of readers that a test has left open
		h.Close()
	})
	return h
}

func (h *fakeHost) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	h.mu.Lock()
	h.requests = append(h.requests, r.Clone(context.WithoutCancel(r.Context())))
	serve := http.HandlerFunc(h.serve)
	if len(h.faults) > 0 {
		if h.faults[0] != nil {
			serve = h.faults[0]
		}
		h.faults = h.faults[1:]
	}
	if h.always != nil {
		serve = h.always(serve)
	}
	h.mu.Unlock()
	serve(w, r)
}

func (h *fakeHost) serve(w http.ResponseWriter, r *http.Request) {
	s, ok := h.content[r.URL.Path]
	if !ok {
		w.WriteHeader(http.StatusNotFound)
		fmt.Fprint(w, `{"errors":[{"code":"BLOB_UNKNOWN","message":"blob unknown to registry"}]}`)
		return
	}
	w.Header().Set("Content-Type", s.mediaType)
	w.Header().Set("Docker-Content-Digest", digest.FromBytes(s.body).String())
	http.ServeContent(w, r, "", time.Time{}, bytes.NewReader(s.body))
}

// fail adds answers to the next requests.
func (h *fakeHost) fail(faults ...http.HandlerFunc) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.faults = append(h.faults, faults...)
}

// wrap puts f around every answer from now on.
func (h *fakeHost) wrap(f func(http.HandlerFunc) http.HandlerFunc) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.always = f
}

// seen returns the requests so far.
func (h *fakeHost) seen() []*http.Request {
	h.mu.Lock()
	defer h.mu.Unlock()
	return append([]*http.Request(nil), h.requests...)
}

func (h *fakeHost) host() string {
	return strings.TrimPrefix(strings.TrimPrefix(h.URL, "http://"), "https://")
}

// addBlob serves p below prefix, "/v2/team/app" as a rule.
func (h *fakeHost) addBlob(prefix string, p []byte) digest.Digest {
	d := digest.FromBytes(p)
	h.content[prefix+"/blobs/"+d.String()] = served{"application/octet-stream", p}
	return d
}

func (h *fakeHost) addManifest(mediaType string, p []byte) digest.Digest {
	d := digest.FromBytes(p)
	h.content["/v2/team/app/manifests/"+d.String()] = served{mediaType, p}
	return d
}

// hostsDir returns a folder whose hosts.toml sends registry.test to the given origin, with more of the file before.
func hostsDir(t *testing.T, origin *fakeHost, mirrors string) string {
	root := t.TempDir()
	writeHosts(t, root, fmt.Sprintf("server = %q\n%s", origin.URL, mirrors))
	return root
}

func writeHosts(t testing.TB, root, toml string) {
	dir := filepath.Join(root, "registry.test")
	if err := os.MkdirAll(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "hosts.toml"), []byte(toml), 0o644); err != nil {
		t.Fatal(err)
	}
}

func anonymous(string) (string, string, error) { return "", "", nil }

// newRegistry returns a Registry for hostsDir(origin) whose clock is the returned one.
func newRegistry(t *testing.T, origin *fakeHost, o Options) (*Registry, *fakeClock) {
	if o.ConfigPath == "" {
		o.ConfigPath = hostsDir(t, origin, "")
	}
	if o.Credentials == nil {
		o.Credentials = anonymous
	}
	r := New(o)
	c := &fakeClock{running: make(map[*fakeTimer]bool), at: time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)}
	r.clock = c.clock()
	t.Cleanup(r.hosts.transport.CloseIdleConnections)
	return r, c
}

// newBlob serves p at a host with faults and returns it as a Blob.
func newBlob(t *testing.T, p []byte, o Options, faults ...http.HandlerFunc) (*Blob, *fakeHost, *fakeClock) {
	h := newHost(t, faults...)
	d := h.addBlob("/v2/team/app", p)
	r, c := newRegistry(t, h, o)
	b, err := r.Blob(testRef, d, int64(len(p)))
	if err != nil {
		t.Fatal(err)
	}
	return b, h, c
}

func readRange(ctx context.Context, b *Blob, off, size int64) ([]byte, error) {
	r, err := b.ReadRange(ctx, off, size)
	if err != nil {
		return nil, err
	}
	defer r.Close()
	return io.ReadAll(r)
}

// mustRead reads a range and compares it with the blob's bytes.
func mustRead(t *testing.T, b *Blob, p []byte, off, size int64) {
	t.Helper()
	got, err := readRange(t.Context(), b, off, size)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got, p[off:off+size]) {
		t.Fatalf("got %d bytes, not the %d at %d", len(got), size, off)
	}
}

// asError returns the first *Error in err.
func asError(t *testing.T, err error) *Error {
	t.Helper()
	e, ok := errors.AsType[*Error](err)
	if !ok {
		t.Fatalf("got %v, want an *Error", err)
	}
	return e
}

// A fakeClock moves when somebody sleeps, at once. Its timers fire only through expire and fire.
type fakeClock struct {
	mu      sync.Mutex
	at      time.Time
	sleeps  []time.Duration
	running map[*fakeTimer]bool
	expired int                                  // timers that are to fire when they are set next
	onSleep func(context.Context, time.Duration) // may be nil
}

func (c *fakeClock) clock() clock {
	return clock{now: c.now, sleep: c.sleep, afterFunc: func(_ time.Duration, f func()) timer { return &fakeTimer{c, f} }}
}

func (c *fakeClock) now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.at
}

func (c *fakeClock) sleep(ctx context.Context, d time.Duration) error {
	c.mu.Lock()
	c.at = c.at.Add(d)
	c.sleeps = append(c.sleeps, d)
	onSleep := c.onSleep
	c.mu.Unlock()
	if onSleep != nil {
		onSleep(ctx, d)
	}
	return context.Cause(ctx)
}

// slept returns the waits so far.
func (c *fakeClock) slept() []time.Duration {
	c.mu.Lock()
	defer c.mu.Unlock()
	return append([]time.Duration(nil), c.sleeps...)
}

// expire makes the timer that is set next run out as it is set.
func (c *fakeClock) expire() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.expired++
}

// fire makes the timers that are running run out.
func (c *fakeClock) fire() {
	c.mu.Lock()
	running := slices.Collect(maps.Keys(c.running))
	c.mu.Unlock()
	for _, t := range running {
		t.f()
	}
}

type fakeTimer struct {
	clock *fakeClock
	f     func()
}

func (t *fakeTimer) Stop() bool {
	t.clock.mu.Lock()
	defer t.clock.mu.Unlock()
	delete(t.clock.running, t)
	return true
}

func (t *fakeTimer) Reset(time.Duration) bool {
	c := t.clock
	c.mu.Lock()
	fire := c.expired > 0
	if fire {
		c.expired--
	} else {
		c.running[t] = true
	}
	c.mu.Unlock()
	if fire {
		t.f()
	}
	return true
}

// Answers of hosts that fail, stall and lie.

func status(code int, headers ...string) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		for i := 0; i < len(headers); i += 2 {
			w.Header().Set(headers[i], headers[i+1])
		}
		w.WriteHeader(code)
	}
}

func message(code int, text string) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		w.WriteHeader(code)
		fmt.Fprint(w, text)
	}
}

// partly answers with the headers given and then p, of which more may have been promised.
func partly(code int, p []byte, headers ...string) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		status(code, headers...)(w, r)
		w.Write(p)
		if len(p) > 0 {
			w.(http.Flusher).Flush()
		}
	}
}

// reset answers as partly does and then resets the connection.
func reset(code int, p []byte, headers ...string) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		partly(code, p, headers...)(w, r)
		conn, _, err := w.(http.Hijacker).Hijack()
		if err == nil {
			err = conn.(*net.TCPConn).SetLinger(0)
		}
		if err != nil {
			panic(err)
		}
		conn.Close()
	}
}

// stall answers as partly does and then says nothing more until the client has gone.
func stall(code int, p []byte, headers ...string) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		if len(p) > 0 {
			partly(code, p, headers...)(w, r)
		}
		<-r.Context().Done()
	}
}

// whole ignores ranges.
func whole(p []byte) http.HandlerFunc {
	return partly(http.StatusOK, p, "Content-Length", strconv.Itoa(len(p)))
}

// hangUp closes the connection instead of answering.
func hangUp(w http.ResponseWriter, _ *http.Request) {
	conn, _, err := w.(http.Hijacker).Hijack()
	if err != nil {
		panic(err)
	}
	conn.Close()
}

func countConn(mu *sync.Mutex, n *int) func(context.Context, net.Conn) context.Context {
	return func(ctx context.Context, _ net.Conn) context.Context {
		mu.Lock()
		defer mu.Unlock()
		*n++
		return ctx
	}
}

func discardLog() *log.Logger { return log.New(io.Discard, "", 0) }

// temporary reports whether any host that err tells of may answer better later.
func temporary(err error) bool {
	switch e := err.(type) { //nolint:errorlint // this walks the tree itself: errors.As stops at the first host
	case *Error:
		return e.temporary
	case interface{ Unwrap() []error }:
		for _, err := range e.Unwrap() {
			if temporary(err) {
				return true
			}
		}
	case interface{ Unwrap() error }:
		return temporary(e.Unwrap())
	}
	return false
}

package endpoint

import (
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/containerd/containerd/v2/core/remotes"
	"github.com/containerd/containerd/v2/core/remotes/docker"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// fakeRegistry keeps one repository in memory, and misbehaves on demand.
type fakeRegistry struct {
	fault func(w http.ResponseWriter, r *http.Request) bool // whether it has answered

	mu      sync.Mutex
	blobs   map[string][]byte // by digest; manifests also by tag
	types   map[string]string
	puts    []string // what was written, in order
	uploads int
}

func startRegistry(t *testing.T) (*fakeRegistry, string) {
	t.Helper()
	f := &fakeRegistry{blobs: map[string][]byte{}, types: map[string]string{}}
	s := httptest.NewServer(f)
	t.Cleanup(s.Close)
	return f, strings.TrimPrefix(s.URL, "http://")
}

func resolver() remotes.Resolver {
	return docker.NewResolver(docker.ResolverOptions{Hosts: docker.ConfigureDefaultRegistries(docker.WithPlainHTTP(docker.MatchAllHosts))})
}

func (f *fakeRegistry) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if f.fault != nil && f.fault(w, r) {
		return
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	last := r.URL.Path[strings.LastIndex(r.URL.Path, "/")+1:]
	switch r.Method {
	case http.MethodPost:
		f.uploads++
		w.Header().Set("Location", fmt.Sprintf("/v2/repo/blobs/uploads/%d", f.uploads))
		w.WriteHeader(http.StatusAccepted)
	case http.MethodPut:
		f.put(w, r, last)
	default:
		f.get(w, r, last)
	}
}

func (f *fakeRegistry) put(w http.ResponseWriter, r *http.Request, last string) {
	raw, err := io.ReadAll(r.Body)
	d := digest.FromBytes(raw)
	if want := r.URL.Query().Get("digest"); err != nil || want != "" && want != d.String() {
		w.WriteHeader(http.StatusBadRequest)
		return
	}
	f.blobs[d.String()] = raw
	name := "blob"
	if strings.Contains(r.URL.Path, "/manifests/") {
		f.blobs[last] = raw
		f.types[last], f.types[d.String()] = r.Header.Get("Content-Type"), r.Header.Get("Content-Type")
		name = last
	}
	f.puts = append(f.puts, name)
	w.Header().Set("Docker-Content-Digest", d.String())
	w.WriteHeader(http.StatusCreated)
}

func (f *fakeRegistry) get(w http.ResponseWriter, r *http.Request, last string) {
	raw, ok := f.blobs[last]
	if !ok {
		w.WriteHeader(http.StatusNotFound)
		return
	}
	if t := f.types[last]; t != "" {
		w.Header().Set("Content-Type", t)
	}
	w.Header().Set("Docker-Content-Digest", digest.FromBytes(raw).String())
	http.ServeContent(w, r, "", time.Time{}, strings.NewReader(string(raw)))
}

func TestRegistry(t *testing.T) {
	f, host := startRegistry(t)
	ref := host + "/repo:v1"
	dst, err := NewRegistryTarget(resolver(), ref)
	if err != nil {
		t.Fatal(err)
	}
	blob, open := blobOf("a blob")
	blob.MediaType = ocispec.MediaTypeImageLayerGzip
	child, openChild := blobOf("child")
	if err := errors.Join(dst.Push(t.Context(), blob, open), dst.Push(t.Context(), child, openChild)); err != nil {
		t.Fatal(err)
	}
	if _, ok := f.blobs["v1"]; ok {
		t.Error("tagged before Tag")
	}
	root, _ := blobOf("root")
	if err := dst.Tag(t.Context(), root, []byte("root")); err != nil {
		t.Fatal(err)
	}
	if got, want := fmt.Sprint(f.puts), fmt.Sprint([]string{"blob", child.Digest.String(), "v1"}); got != want {
		t.Errorf("puts %s, want %s", got, want)
	}
	mustNotOpen := func() (io.ReadCloser, error) { return nil, errors.New("opened what is there") }
	again, err := NewRegistryTarget(resolver(), ref)
	if err != nil {
		t.Fatal(err)
	}
	if err := again.Push(t.Context(), blob, mustNotOpen); err != nil {
		t.Error(err)
	}
	src := NewRegistrySource(resolver(), ref)
	if got, err := src.Resolve(t.Context()); err != nil || got.Digest != root.Digest {
		t.Errorf("resolve: %v, %v", got, err)
	}
	if raw, err := ReadDocument(t.Context(), src, blob); err != nil || string(raw) != "a blob" {
		t.Errorf("read: %q, %v", raw, err)
	}
	ra, err := src.ReaderAt(t.Context(), blob)
	if err != nil {
		t.Fatal(err)
	}
	defer ra.Close()
	p := make([]byte, 4)
	if _, err := ra.ReadAt(p, 2); err != nil || string(p) != "blob" {
		t.Errorf("ReadAt: %q, %v", p, err)
	}
}

func TestRegistryRefuses(t *testing.T) {
	blob, open := blobOf("a blob")
	blob.MediaType = ocispec.MediaTypeImageLayerGzip
	for _, tt := range []struct {
		name, method string
		code         int
	}{
		{"upload forbidden", http.MethodPost, http.StatusForbidden},
		{"upload unauthorized", http.MethodPost, http.StatusUnauthorized},
		{"write too large", http.MethodPut, http.StatusRequestEntityTooLarge},
		{"disk full there", http.MethodPut, http.StatusInsufficientStorage},
	} {
		t.Run(tt.name, func(t *testing.T) {
			f, host := startRegistry(t)
			f.fault = func(w http.ResponseWriter, r *http.Request) bool {
				if r.Method != tt.method {
					return false
				}
				w.WriteHeader(tt.code)
				return true
			}
			dst, err := NewRegistryTarget(resolver(), host+"/repo:v1")
			if err != nil {
				t.Fatal(err)
			}
			if err := dst.Push(t.Context(), blob, open); err == nil || !strings.Contains(err.Error(), blob.Digest.String()) {
				t.Errorf("push: %v", err)
			}
		})
	}
}

func TestRegistryLies(t *testing.T) {
	f, host := startRegistry(t)
	blob, _ := blobOf("a blob")
	src := NewRegistrySource(resolver(), host+"/repo:v1")
	if _, err := src.Resolve(t.Context()); err == nil || !strings.Contains(err.Error(), "not found") {
		t.Errorf("missing image: %v", err)
	}
	for name, body := range map[string]string{"other content": "a blab", "less": "a b", "more": "a blob and more", "nothing": ""} {
		t.Run(name, func(t *testing.T) {
			f.fault = func(w http.ResponseWriter, _ *http.Request) bool {
				_, err := io.WriteString(w, body)
				return err == nil
			}
			if raw, err := ReadDocument(t.Context(), src, blob); err == nil {
				t.Errorf("read %q", raw)
			}
		})
	}
}

func TestTargetNeedsATag(t *testing.T) {
	for _, ref := range []string{"example.com/a@" + nothing.String(), "not a reference"} {
		if _, err := NewRegistryTarget(resolver(), ref); err == nil {
			t.Errorf("%s: accepted", ref)
		}
	}
}

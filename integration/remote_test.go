package integration

import (
	"bytes"
	"context"
	"encoding/pem"
	"fmt"
	"io"
	"log"
	"math/rand/v2"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sync/errgroup"

	"github.com/sluice-snapshotter/sluice/fs/remote"
	"github.com/sluice-snapshotter/sluice/integration/link"
	"github.com/sluice-snapshotter/sluice/integration/stack"
)

// unreliable is what networks and registries do now and then, but for what only a digest shows.
var unreliable = map[string]link.Effect{
	"429":                  link.Status{Code: 429},
	"429 with Retry-After": link.Status{Code: 429, RetryAfter: time.Second},
	"503":                  link.Status{Code: 503},
	"503 with Retry-After": link.Status{Code: 503, RetryAfter: time.Second},
	"500":                  link.Status{Code: 500},
	"reset":                link.Reset{After: -1},
	"reset in the body":    link.Reset{After: 50_000},
	"stall":                link.Stall{After: -1},
	"stall in the body":    link.Stall{After: 50_000},
	"truncated":            link.Truncate{After: 50_000},
}

// TestReadersOfAnUnreliableRegistry has 32 readers of ranges at once, by each way to a registry, of which each kind of fault hits 5 % of
// all requests: every range is read right, in time.
func TestReadersOfAnUnreliableRegistry(t *testing.T) {
	for _, way := range []struct {
		name   string
		reach  func(*testing.T, *stack.Registry) remote.Options
		signed bool
	}{
		{"HTTP/1.1", plainly, false},
		{"HTTP/2", secured, false},
		{"signed URLs", plainly, true},
	} {
		t.Run(way.name, func(t *testing.T) {
			t.Parallel()
			reg := registry(t)
			im := plainImage(t, odd)
			upload(t, reg, im, "test/odd:plain")
			layer := slices.MaxFunc(im.Manifest.Layers, func(a, b ocispec.Descriptor) int { return int(a.Size - b.Size) })
			o := way.reach(t, reg)
			o.StallTimeout = time.Second
			blob, err := remote.New(o).Blob("registry.test/test/odd:plain", layer.Digest, layer.Size)
			if err != nil {
				t.Fatal(err)
			}
			if way.signed {
				reg.Link.RedirectBlobs(0)
			}
			var faults []*link.Injection
			for _, fault := range unreliable {
				rule := link.Rule{Blob: layer.Digest, Signed: way.signed, Probability: 0.05, Seed: uint64(len(faults))}
				faults = append(faults, reg.Link.Inject(rule, fault))
			}
			content, err := os.ReadFile(blobPath(im.Dir, layer.Digest))
			if err != nil {
				t.Fatal(err)
			}
			readRanges(t, blob, content)
			hits := 0
			for _, f := range faults {
				hits += f.Hits()
			}
			if hits < 32 {
				t.Errorf("only %d faults", hits)
			}
			t.Logf("%d faults, %d requests, %+v", hits, reg.Link.Counts().Total().Requests, blob.Link())
		})
	}
}

// readRanges reads ranges of all sizes, 32 at once, and compares them.
func readRanges(t *testing.T, blob *remote.Blob, content []byte) {
	ctx, cancel := context.WithTimeout(t.Context(), 3*time.Minute)
	defer cancel()
	g, ctx := errgroup.WithContext(ctx)
	for range readers {
		g.Go(func() error {
			for i := range 6 {
				size := min(int64(1)<<(12+2*i), int64(len(content))) // 4 KiB to 4 MiB
				off := rand.N(int64(len(content)) - size + 1)
				r, err := blob.ReadRange(ctx, off, size)
				if err != nil {
					return err
				}
				got, err := io.ReadAll(r)
				r.Close()
				if err != nil {
					return err
				}
				if !bytes.Equal(got, content[off:off+size]) {
					return fmt.Errorf("wrong bytes in %d at %d", size, off)
				}
			}
			return nil
		})
	}
	if err := g.Wait(); err != nil {
		t.Error(err)
	}
}

// plainly reaches a registry as it is.
func plainly(t *testing.T, reg *stack.Registry) remote.Options {
	return reachedAt(t, "http://"+reg.Link.Addr(), "")
}

// secured reaches a registry by TLS and HTTP/2.
func secured(t *testing.T, reg *stack.Registry) remote.Options {
	proxy := httputil.NewSingleHostReverseProxy(&url.URL{Scheme: "http", Host: reg.Link.Addr()})
	proxy.ErrorLog = log.New(io.Discard, "", 0) // of what is broken on purpose
	proxy.FlushInterval = -1
	server := httptest.NewUnstartedServer(proxy)
	server.Config.ErrorLog = proxy.ErrorLog
	server.EnableHTTP2 = true
	server.StartTLS()
	t.Cleanup(func() {
		server.CloseClientConnections()
		server.Close()
	})
	ca := filepath.Join(t.TempDir(), "ca.pem")
	cert := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: server.Certificate().Raw})
	if err := os.WriteFile(ca, cert, 0o644); err != nil {
		t.Fatal(err)
	}
	return reachedAt(t, server.URL, fmt.Sprintf("ca = %q\n", ca))
}

// reachedAt says that registry.test is at url.
func reachedAt(t *testing.T, url, more string) remote.Options {
	root := t.TempDir()
	dir := filepath.Join(root, "registry.test")
	if err := os.Mkdir(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "hosts.toml"), fmt.Appendf(nil, "server = %q\n%s", url, more), 0o644); err != nil {
		t.Fatal(err)
	}
	return remote.Options{ConfigPath: root, Credentials: func(string) (string, string, error) { return "", "", nil }}
}

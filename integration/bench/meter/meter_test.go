package meter

import (
	"context"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"

	"github.com/sluice-snapshotter/sluice/integration/bench/result"
	"github.com/sluice-snapshotter/sluice/integration/link"
	"github.com/sluice-snapshotter/sluice/integration/stack"
)

func TestMain(m *testing.M) { os.Exit(stack.Isolate(m.Run)) }

const (
	body  = "twelve bytes"
	quiet = 300 * time.Millisecond
)

// behindLink is a meter without a node that has just begun, in front of a server whose every answer is body.
func behindLink(t *testing.T) *Meter {
	t.Helper()
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, body) }))
	t.Cleanup(server.Close)
	l, err := link.Start(link.Options{Upstream: server.URL})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := l.Close(); err != nil {
			t.Error(err)
		}
	})
	return &Meter{reg: &stack.Registry{Link: l}, start: time.Now(), quiet: quiet}
}

// come lets body come through the link.
func come(t *testing.T, m *Meter) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://"+m.reg.Link.Addr()+"/", nil)
	if err != nil {
		t.Fatal(err)
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if _, err := io.Copy(io.Discard, resp.Body); err != nil {
		t.Fatal(err)
	}
}

func TestRest(t *testing.T) {
	for _, c := range []struct {
		name   string
		pieces int           // that come, 100 ms after one another
		after  time.Duration // from the last of them to Rest
	}{
		{"nothing came", 0, 0},
		{"quiet begins", 2, 0},
		{"quiet for long", 2, 2 * quiet},
	} {
		t.Run(c.name, func(t *testing.T) {
			m := behindLink(t)
			from, to := 0.0, 0.0 // of the last piece
			for range c.pieces {
				time.Sleep(100 * time.Millisecond)
				from = m.Elapsed()
				come(t, m)
				to = m.Elapsed()
			}
			time.Sleep(c.after)
			called := time.Now()
			got, err := m.Rest(t.Context(), time.Minute)
			if err != nil {
				t.Fatal(err)
			}
			if all := got[result.All]; all < from || all > to {
				t.Errorf("the last came after %.3f s, want %.3f to %.3f", all, from, to)
			}
			if n := float64(c.pieces); got[result.RequestsAll] != n || got[result.BytesAll] != n*float64(len(body)) {
				t.Errorf("%v, want %d pieces", got, c.pieces)
			}
			if took := time.Since(called); c.after > quiet && took > quiet/2 {
				t.Errorf("waited for %s although all had come long before", took)
			}
			if m.Elapsed() < from+quiet.Seconds() {
				t.Errorf("returned %.3f s after the last had come", m.Elapsed()-from)
			}
		})
	}
}

// TestRestWaitsForMore: what comes during the wait is waited for as well.
func TestRestWaitsForMore(t *testing.T) {
	m := behindLink(t)
	come(t, m)
	var got map[result.Measure]float64
	var g errgroup.Group
	g.Go(func() (err error) {
		got, err = m.Rest(t.Context(), time.Minute)
		return err
	})
	time.Sleep(quiet / 3)
	from := m.Elapsed()
	come(t, m)
	to := m.Elapsed()
	if err := g.Wait(); err != nil {
		t.Fatal(err)
	}
	if all := got[result.All]; got[result.RequestsAll] != 2 || all < from || all > to {
		t.Errorf("%v, want 2 requests, the second after %.3f to %.3f s", got, from, to)
	}
}

func TestRestGivesUp(t *testing.T) {
	m := behindLink(t)
	m.quiet = time.Minute
	if got, err := m.Rest(t.Context(), 50*time.Millisecond); got != nil || err != nil {
		t.Errorf("%v, %v after the limit, want nothing", got, err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if got, err := m.Rest(ctx, time.Minute); got != nil || !errors.Is(err, context.Canceled) {
		t.Errorf("%v, %v when canceled", got, err)
	}
}

// TestReady runs nodes that do nothing: whose memory is it?
func TestReady(t *testing.T) {
	for name, o := range map[string]stack.NodeOptions{
		"containerd alone": {},
		"sluice":           {Daemon: &stack.DaemonOptions{TOML: "[registry]\nconfig_path = \"$NODE/certs.d\"\n"}},
	} {
		t.Run(name, func(t *testing.T) {
			n, err := stack.StartNode(t.Context(), o)
			if err != nil {
				t.Fatal(err)
			}
			defer func() {
				if err := n.Close(); err != nil {
					t.Error(err)
				}
			}()
			m, err := Begin(n, behindLink(t).reg)
			if err != nil {
				t.Fatal(err)
			}
			if m.quiet != Quiet {
				t.Errorf("quiet is %s", m.quiet)
			}
			come(t, m)
			got, err := m.Ready()
			if err != nil {
				t.Fatal(err)
			}
			const least = 5e6 // no such program is smaller
			if rss, ok := got[result.RSS]; ok != (o.Daemon != nil) || ok && rss < least {
				t.Errorf("the snapshotter's peak is %.0f, %t", rss, ok)
			}
			if rss := got[result.ContainerdRSS]; rss < least {
				t.Errorf("containerd's peak is %.0f", rss)
			}
			if got[result.BytesReady] != float64(len(body)) || got[result.RequestsReady] != 1 || got[result.CPU] < 0 {
				t.Errorf("%v", got)
			}
		})
	}
}

// TestPageCache is loose: the machine does other things as well.
func TestPageCache(t *testing.T) {
	const size = 64 << 20
	path := filepath.Join(t.TempDir(), "file")
	var fs unix.Statfs_t
	if err := unix.Statfs(filepath.Dir(path), &fs); err != nil || fs.Type == unix.TMPFS_MAGIC {
		t.Skip("the temporary folder is in memory: ", err)
	}
	if err := os.WriteFile(path, make([]byte, size), 0o644); err != nil {
		t.Fatal(err)
	}
	grown := int64(0)
	for range 3 {
		if err := stack.DropCaches(); err != nil {
			t.Fatal(err)
		}
		before, err := pageCache()
		if err != nil {
			t.Fatal(err)
		}
		if _, err := os.ReadFile(path); err != nil {
			t.Fatal(err)
		}
		after, err := pageCache()
		if err != nil {
			t.Fatal(err)
		}
		if grown = after - before; grown > size/2 {
			return
		}
	}
	t.Errorf("the page cache grew by %d bytes when %d were read", grown, size)
}

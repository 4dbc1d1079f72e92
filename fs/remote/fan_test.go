package remote

import (
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"
)

// secureBlob serves p by TLS at h, with HTTP/2 if that is enabled there. h is not started yet.
func secureBlob(tb testing.TB, h *fakeHost, p []byte) *Blob {
	tb.Helper()
	d := h.addBlob("/v2/team/app", p)
	h.StartTLS()
	ca, root := filepath.Join(tb.TempDir(), "ca.pem"), tb.TempDir()
	if err := os.WriteFile(ca, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: h.Certificate().Raw}), 0o644); err != nil {
		tb.Fatal(err)
	}
	writeHosts(tb, root, fmt.Sprintf("server = %q\nca = %q\n", h.URL, ca))
	b, err := New(Options{ConfigPath: root, Credentials: anonymous}).Blob(testRef, d, int64(len(p)))
	if err != nil {
		tb.Fatal(err)
	}
	return b
}

// hold opens n ranges of size and keeps them open.
func hold(t *testing.T, b *Blob, n int, size int64) []io.ReadCloser {
	t.Helper()
	held := make([]io.ReadCloser, n)
	for i := range held {
		r, err := b.ReadRange(t.Context(), 0, size)
		if err != nil {
			t.Fatal(err)
		}
		held[i] = r
	}
	return held
}

func closeAll(held []io.ReadCloser) {
	for _, r := range held {
		r.Close()
	}
}

func TestConnections(t *testing.T) {
	p := content(1 << 20)
	t.Run("HTTP/2", func(t *testing.T) {
		h := newUnstartedHost(t)
		count := connections(h)
		h.EnableHTTP2 = true
		b := secureBlob(t, h, p)
		for _, step := range []struct {
			what        string
			ranges      int
			size        int64
			connections int
		}{
			{"few", perLane, largeRange, 1},
			{"many small ones", 40, largeRange - 1, 1},
			{"a few more", perLane + 1, largeRange, 2},
			{"as many again", perLane + 1, largeRange, 2},
			{"many", maxLanes * perLane, largeRange, maxLanes},
			{"more", 40, largeRange, maxLanes},
			{"few again", perLane, largeRange, maxLanes},
		} {
			closeAll(hold(t, b, step.ranges, step.size))
			if n := count(); n != step.connections {
				t.Errorf("%d connections after %s, want %d", n, step.what, step.connections)
			}
		}
		if seen := h.seen(); seen[len(seen)-1].Proto != "HTTP/2.0" {
			t.Error(seen[0].Proto)
		}
		list, err := b.hosts(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		for _, r := range list[0].fan.routes {
			if r.under != [maxLanes]int{} {
				t.Errorf("closed ranges are under way: %v", r.under)
			}
		}
	})
	t.Run("HTTP/1.1", func(t *testing.T) {
		h := newUnstartedHost(t)
		count := connections(h)
		b := secureBlob(t, h, p)
		for range 3 {
			var g errgroup.Group
			for _, r := range hold(t, b, 16, int64(len(p))) {
				g.Go(func() error {
					defer r.Close()
					_, err := io.Copy(io.Discard, r)
					return err
				})
			}
			if err := g.Wait(); err != nil {
				t.Fatal(err)
			}
		}
		if n := count(); n != 16 {
			t.Errorf("%d connections for 16 ranges at once", n)
		}
	})
}

// Ranges that all begin at once make no more connections than those that come one by one.
func TestConnectionsAtOnce(t *testing.T) {
	p := content(1 << 20)
	h := newUnstartedHost(t)
	count := connections(h)
	h.EnableHTTP2 = true
	b := secureBlob(t, h, p)
	mustRead(t, b, p, 0, 10) // so that the protocol is known
	for range 2 {
		var g errgroup.Group
		for range 32 {
			g.Go(func() error {
				got, err := readRange(t.Context(), b, 0, int64(len(p)))
				if err == nil && string(got) != string(p) {
					err = errors.New("wrong bytes")
				}
				return err
			})
		}
		if err := g.Wait(); err != nil {
			t.Fatal(err)
		}
	}
	if n := count(); n > maxLanes || n == 1 {
		t.Errorf("%d connections", n)
	}
}

// A range that is much larger than what HTTP/2 allows without asking arrives within a few round trips of 100 ms.
func TestWindow(t *testing.T) {
	p := content(4 << 20)
	h := newUnstartedHost(t)
	h.Listener = slowListener{h.Listener, 50 * time.Millisecond, 0}
	h.EnableHTTP2 = true
	b := secureBlob(t, h, p)
	mustRead(t, b, p, 0, 1)
	start := time.Now()
	mustRead(t, b, p, 0, int64(len(p)))
	if d := time.Since(start); d > 2*time.Second { // 6.4 s if it came by 64 KiB
		t.Errorf("4 MiB took %v", d)
	}
}

// BenchmarkLink reads 64 MiB in ranges of 4 MiB, 16 at once, over HTTP/2 by a link with 50 ms each way, where each connection gets so
// many bytes per second; and a single range.
func BenchmarkLink(b *testing.B) {
	p := content(64 << 20)
	for _, rate := range []int64{0, 4 << 20} {
		for _, ranges := range []int64{16, 1} {
			b.Run(fmt.Sprintf("%d MiB per s and connection, %d ranges", rate>>20, ranges), func(b *testing.B) {
				h := newUnstartedHost(b)
				h.Listener = slowListener{h.Listener, 50 * time.Millisecond, rate}
				h.EnableHTTP2 = true
				count := connections(h)
				blob := secureBlob(b, h, p)
				if _, err := readRange(b.Context(), blob, 0, 1); err != nil {
					b.Fatal(err)
				}
				b.SetBytes(ranges * 4 << 20)
				for b.Loop() {
					var g errgroup.Group
					for i := range ranges {
						g.Go(func() error {
							_, err := readRange(b.Context(), blob, i*4<<20, 4<<20)
							return err
						})
					}
					if err := g.Wait(); err != nil {
						b.Fatal(err)
					}
				}
				b.ReportMetric(float64(count()), "connections")
				b.ReportMetric(blob.Link().Rate/1e6, "Link-MB/s")
				b.ReportMetric(float64(blob.Link().RTT.Milliseconds()), "Link-RTT-ms")
			})
		}
	}
}

// slowListener accepts connections that are as slow as those over a long link.
type slowListener struct {
	net.Listener
	delay time.Duration // one way
	rate  int64         // bytes per second and connection, from here; 0: no limit
}

func (l slowListener) Accept() (net.Conn, error) {
	far, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	near, here := net.Pipe()
	go carry(far, here, l.delay, 0)
	go carry(here, far, l.delay, l.rate)
	return pipeEnd{near, far}, nil
}

// A pipeEnd has the addresses of the connection that it stands for.
type pipeEnd struct {
	net.Conn
	far net.Conn
}

func (p pipeEnd) RemoteAddr() net.Addr { return p.far.RemoteAddr() }
func (p pipeEnd) LocalAddr() net.Addr  { return p.far.LocalAddr() }

// carry copies as a line does that takes delay and lets rate pass.
func carry(from, to net.Conn, delay time.Duration, rate int64) {
	type packet struct {
		bytes []byte
		due   time.Time
	}
	line := make(chan packet, 1<<16)
	go func() {
		defer close(line)
		free := time.Now()
		for {
			buf := make([]byte, 16<<10)
			n, err := from.Read(buf)
			if n > 0 {
				if now := time.Now(); free.Before(now) {
					free = now
				}
				if rate > 0 {
					free = free.Add(time.Duration(n) * time.Second / time.Duration(rate))
				}
				line <- packet{buf[:n], free.Add(delay)}
			}
			if err != nil {
				return
			}
		}
	}()
	defer to.Close()
	for p := range line {
		time.Sleep(time.Until(p.due))
		if _, err := to.Write(p.bytes); err != nil {
			from.Close()
			for range line { // until the other half has noticed
			}
			return
		}
	}
}

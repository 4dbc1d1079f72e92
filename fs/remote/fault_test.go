package remote

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"strconv"
	"strings"
	"testing"
	"testing/iotest"
	"time"
)

// TestFaults has one host answer the first requests wrongly, and reads 1000 bytes at 100.
func TestFaults(t *testing.T) {
	const off, size = 100, 1000
	p := content(5000)
	part := fmt.Sprintf("bytes %d-%d/%d", off, off+size-1, len(p))
	length := strconv.Itoa(size)
	half := p[off : off+size/2]
	ok206 := []string{"Content-Range", part, "Content-Length", length}

	tests := []struct {
		name      string
		faults    []http.HandlerFunc
		requests  int    // that the host got
		sleeps    int    // between them
		want      string // in the error; "" for none
		status    int
		temporary bool
	}{
		{name: "none", requests: 1},
		{name: "400", faults: []http.HandlerFunc{status(400)}, requests: 1, want: "400 Bad Request", status: 400},
		{name: "401 without a challenge", faults: []http.HandlerFunc{status(401)}, requests: 1, want: "401 Unauthorized", status: 401},
		{name: "403", faults: []http.HandlerFunc{message(403, `{"errors":[{"code":"DENIED","message":"not you"}]}`)}, requests: 1, want: "403 Forbidden: DENIED: not you", status: 403},
		{name: "404", faults: []http.HandlerFunc{status(404)}, requests: 1, want: "404 Not Found", status: 404},
		{name: "408", faults: []http.HandlerFunc{status(408)}, requests: 2, sleeps: 1},
		{name: "410", faults: []http.HandlerFunc{status(410)}, requests: 1, want: "410 Gone", status: 410},
		{name: "416", faults: []http.HandlerFunc{status(416, "Content-Range", "bytes */50")}, requests: 1,
			want: "416 Requested Range Not Satisfiable: range outside the blob: 1000 bytes at 100 of 50", status: 416},
		{name: "416 that says nothing", faults: []http.HandlerFunc{status(416)}, requests: 1, want: "1000 bytes at 100", status: 416},
		{name: "418", faults: []http.HandlerFunc{status(418)}, requests: 1, want: "418", status: 418},
		{name: "429", faults: []http.HandlerFunc{status(429), status(429)}, requests: 3, sleeps: 2},
		{name: "500", faults: []http.HandlerFunc{status(500)}, requests: 2, sleeps: 1},
		{name: "501", faults: []http.HandlerFunc{status(501)}, requests: 1, want: "501", status: 501},
		{name: "502", faults: []http.HandlerFunc{status(502)}, requests: 2, sleeps: 1},
		{name: "503", faults: []http.HandlerFunc{status(503), nil}, requests: 2, sleeps: 1},
		{name: "504", faults: []http.HandlerFunc{status(504)}, requests: 2, sleeps: 1},
		{name: "503 to the end", faults: []http.HandlerFunc{status(503), status(503), status(503)}, requests: 3, sleeps: 2,
			want: "503 Service Unavailable (3 attempts)", status: 503, temporary: true},
		{name: "204", faults: []http.HandlerFunc{status(204)}, requests: 1, want: "204", status: 204},
		{name: "redirect to nowhere", faults: []http.HandlerFunc{status(307)}, requests: 1, want: errLocation.Error()},
		{name: "redirect to a file", faults: []http.HandlerFunc{status(307, "Location", "file:///etc/passwd")}, requests: 1, want: errLocation.Error()},
		{name: "truncated", faults: []http.HandlerFunc{partly(206, half, ok206...)}, requests: 2, sleeps: 1},
		{name: "truncated at once", faults: []http.HandlerFunc{partly(206, nil, ok206...)}, requests: 2, sleeps: 1},
		{name: "truncated to the end", faults: []http.HandlerFunc{partly(206, nil, ok206...), partly(206, nil, ok206...), partly(206, nil, ok206...)},
			requests: 3, sleeps: 2, want: "body: unexpected EOF (3 attempts)", temporary: true},
		{name: "chunked and truncated", faults: []http.HandlerFunc{partly(206, half, "Content-Range", part)}, requests: 2, sleeps: 1},
		{name: "reset before the answer", faults: []http.HandlerFunc{hangUp}, requests: 2, sleeps: 1},
		{name: "reset in the body", faults: []http.HandlerFunc{reset(206, half, ok206...)}, requests: 2, sleeps: 1},
		{name: "shorter part than asked for", faults: []http.HandlerFunc{partly(206, half, "Content-Range", fmt.Sprintf("bytes %d-%d/*", off, off+size/2-1))}, requests: 2},
		{name: "more bytes than the part", faults: []http.HandlerFunc{partly(206, p[off:off+size+50], "Content-Range", part)}, requests: 1},
		{name: "whole for part", faults: []http.HandlerFunc{whole(p)}, requests: 1},
		{name: "whole for part, chunked", faults: []http.HandlerFunc{partly(200, p)}, requests: 1},
		{name: "whole, truncated before the range", faults: []http.HandlerFunc{partly(200, p[:50], "Content-Length", strconv.Itoa(len(p)))}, requests: 2, sleeps: 1},
		{name: "whole, truncated in the range", faults: []http.HandlerFunc{partly(200, p[:500], "Content-Length", strconv.Itoa(len(p)))}, requests: 2, sleeps: 1},
		{name: "whole of another size", faults: []http.HandlerFunc{partly(200, p[:3000], "Content-Length", "3000")}, requests: 1, want: "the blob has 3000 bytes there, and 5000 by its descriptor"},
		{name: "206 without Content-Range", faults: []http.HandlerFunc{partly(206, p[off:off+size])}, requests: 1, want: `Content-Range is "" for bytes 100-1099`},
		{name: "206 of other bytes", faults: []http.HandlerFunc{partly(206, p[:size], "Content-Range", "bytes 0-999/5000")}, requests: 1, want: `Content-Range is "bytes 0-999/5000"`},
		{name: "206 of more bytes", faults: []http.HandlerFunc{partly(206, p[off:], "Content-Range", "bytes 100-4999/5000")}, requests: 1, want: `Content-Range is "bytes 100-4999/5000"`},
		{name: "206 of another blob", faults: []http.HandlerFunc{partly(206, p[off:off+size], "Content-Range", "bytes 100-1099/6000")}, requests: 1, want: "6000 bytes there"},
		{name: "206 with nonsense", faults: []http.HandlerFunc{partly(206, p[off:off+size], "Content-Range", "bytes of nonsense")}, requests: 1, want: "Content-Range is"},
		{name: "206 that contradicts itself", faults: []http.HandlerFunc{partly(206, half, "Content-Range", part, "Content-Length", "500")}, requests: 1, want: "Content-Length is 500"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			b, h, clock := newBlob(t, p, Options{MaxAttempts: 3}, test.faults...)
			got, err := readRange(t.Context(), b, off, size)
			if n := len(h.seen()); n != test.requests {
				t.Errorf("the host got %d requests, want %d", n, test.requests)
			}
			if n := len(clock.slept()); n != test.sleeps {
				t.Errorf("waited %d times, want %d", n, test.sleeps)
			}
			if test.want == "" {
				if err != nil || !bytes.Equal(got, p[off:off+size]) {
					t.Fatalf("got %d bytes and %v", len(got), err)
				}
				return
			}
			if err == nil || !strings.Contains(err.Error(), test.want) {
				t.Fatalf("got %v, want %s", err, test.want)
			}
			e := asError(t, err)
			if e.Op != "read" || e.Ref != testRef || e.Digest != b.subject.digest || e.Host != h.host() || e.URL != "" {
				t.Errorf("incomplete: %+v", e)
			}
			if e.Status != test.status || e.Temporary() != test.temporary || temporary(err) != test.temporary {
				t.Errorf("status %d, temporary %v, want %d, %v", e.Status, e.Temporary(), test.status, test.temporary)
			}
		})
	}
}

func TestResumesWhereItBroke(t *testing.T) {
	p := content(1 << 20)
	b, h, clock := newBlob(t, p, Options{MaxAttempts: 3})
	const piece = 1 << 17
	for off := 0; off < len(p)-piece; off += piece { // more breaks than attempts, each after progress
		// A reset would take bytes along that the reader has not seen yet.
		h.fail(partly(206, p[off:off+piece], "Content-Range", fmt.Sprintf("bytes %d-%d/%d", off, len(p)-1, len(p)),
			"Content-Length", strconv.Itoa(len(p)-off)))
	}
	mustRead(t, b, p, 0, int64(len(p)))
	if n := len(h.seen()); n != 8 {
		t.Errorf("%d requests, want 8", n)
	}
	for i, r := range h.seen() {
		if got, want := r.Header.Get("Range"), fmt.Sprintf("bytes=%d-%d", i*piece, len(p)-1); got != want {
			t.Errorf("request %d asks for %s, want %s", i, got, want)
		}
	}
	for _, d := range clock.slept() {
		if d > 100*time.Millisecond {
			t.Errorf("waited %v after progress", d)
		}
	}
}

// A host that gives a byte per request makes progress for ever; it is not asked for ever.
func TestAttemptsAreBoundedOverall(t *testing.T) {
	p := content(1000)
	for name, answer := range map[string]func(off int) http.HandlerFunc{
		"broken": func(off int) http.HandlerFunc {
			return partly(206, p[off:off+1], "Content-Range", fmt.Sprintf("bytes %d-%d/%d", off, len(p)-1, len(p)),
				"Content-Length", strconv.Itoa(len(p)-off))
		},
		"complete": func(off int) http.HandlerFunc {
			return partly(206, p[off:off+1], "Content-Range", fmt.Sprintf("bytes %d-%d/%d", off, off, len(p)))
		},
	} {
		t.Run(name, func(t *testing.T) {
			b, h, _ := newBlob(t, p, Options{MaxAttempts: 4})
			for off := range p {
				h.fail(answer(off))
			}
			got, err := readRange(t.Context(), b, 0, int64(len(p)))
			if err == nil || !temporary(err) || !bytes.Equal(got, p[:len(got)]) {
				t.Errorf("got %d bytes and %v", len(got), err)
			}
			if n := len(h.seen()); n != 4 {
				t.Errorf("%d requests, want 4", n)
			}
		})
	}
}

func TestRetryAfter(t *testing.T) {
	p := content(100)
	tests := []struct {
		name, value string
		min, max    time.Duration
	}{
		{"none", "", 50 * time.Millisecond, 100 * time.Millisecond},
		{"seconds", "7", 7 * time.Second, 7 * time.Second},
		{"date", "Fri, 02 Jan 2026 03:04:15 GMT", 10 * time.Second, 10 * time.Second},
		{"past", "Fri, 02 Jan 2026 03:00:00 GMT", 50 * time.Millisecond, 100 * time.Millisecond},
		{"shorter than the backoff", "0", 50 * time.Millisecond, 100 * time.Millisecond},
		{"absurd", "86400000", time.Minute, time.Minute},
		{"negative", "-5", 50 * time.Millisecond, 100 * time.Millisecond},
		{"nonsense", "soon", 50 * time.Millisecond, 100 * time.Millisecond},
	}
	for _, code := range []int{429, 503} {
		for _, test := range tests {
			t.Run(fmt.Sprint(code, " ", test.name), func(t *testing.T) {
				b, _, clock := newBlob(t, p, Options{}, status(code, "Retry-After", test.value))
				mustRead(t, b, p, 0, 100)
				got := clock.slept()
				if most := test.max + min(test.max/8, time.Second); len(got) != 1 || got[0] < test.min || got[0] > most {
					t.Errorf("waited %v, want %v to %v", got, test.min, most)
				}
			})
		}
	}
}

func TestBackoffGrowsWithJitter(t *testing.T) {
	b := Backoff{Min: 100 * time.Millisecond, Max: 3 * time.Second}
	for rounds, full := range map[int]time.Duration{
		1: 100 * time.Millisecond, 2: 200 * time.Millisecond, 5: 1600 * time.Millisecond, 6: 3 * time.Second, 500: 3 * time.Second,
	} {
		different := map[time.Duration]bool{}
		for range 100 {
			d := b.after(rounds)
			different[d] = true
			if d < full/2 || d > full {
				t.Errorf("after %d rounds: %v, want %v to %v", rounds, d, full/2, full)
			}
		}
		if len(different) < 50 {
			t.Errorf("after %d rounds: %d different waits in 100", rounds, len(different))
		}
	}
}

func TestStall(t *testing.T) {
	p := content(2000)
	part := []string{"Content-Range", "bytes 0-1999/2000", "Content-Length", "2000"}

	t.Run("before the answer", func(t *testing.T) {
		b, h, clock := newBlob(t, p, Options{})
		h.fail(func(w http.ResponseWriter, r *http.Request) {
			clock.fire()
			stall(200, nil)(w, r)
		})
		mustRead(t, b, p, 0, 2000)
		if n := len(h.seen()); n != 2 {
			t.Errorf("%d requests", n)
		}
	})
	t.Run("in the body", func(t *testing.T) {
		b, h, clock := newBlob(t, p, Options{}, stall(206, p[:1200], part...))
		r, err := b.ReadRange(t.Context(), 0, 2000)
		if err != nil {
			t.Fatal(err)
		}
		defer r.Close()
		got := make([]byte, 2000)
		if _, err := io.ReadFull(r, got[:1200]); err != nil {
			t.Fatal(err)
		}
		clock.expire()
		if _, err := io.ReadFull(r, got[1200:]); err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(got, p) {
			t.Error("wrong bytes")
		}
		if seen := h.seen(); len(seen) != 2 || seen[1].Header.Get("Range") != "bytes=1200-1999" {
			t.Errorf("%d requests", len(seen))
		}
	})
	t.Run("to the end", func(t *testing.T) {
		b, _, clock := newBlob(t, p, Options{MaxAttempts: 1}, stall(206, p[:10], part...))
		r, err := b.ReadRange(t.Context(), 0, 2000)
		if err != nil {
			t.Fatal(err)
		}
		defer r.Close()
		if _, err := io.ReadFull(r, make([]byte, 10)); err != nil {
			t.Fatal(err)
		}
		clock.expire()
		_, err = r.Read(make([]byte, 10))
		if !errors.Is(err, errStalled) || !temporary(err) || errors.Is(err, context.Canceled) {
			t.Errorf("got %v", err)
		}
	})
	t.Run("by the wall clock", func(t *testing.T) {
		b, _, _ := newBlob(t, p, Options{StallTimeout: 100 * time.Millisecond}, stall(200, nil), stall(206, p[:1200], part...))
		b.repo.registry.clock = wallClock()
		mustRead(t, b, p, 0, 2000)
	})
}

func TestCancel(t *testing.T) {
	p := content(1000)
	cause := errors.New("the reader has died")
	check := func(t *testing.T, err error) {
		t.Helper()
		if !errors.Is(err, cause) || !errors.Is(err, context.Canceled) || temporary(err) || asError(t, err).Op != "read" {
			t.Errorf("got %v", err)
		}
	}
	t.Run("before", func(t *testing.T) {
		b, h, _ := newBlob(t, p, Options{})
		ctx, cancel := context.WithCancelCause(t.Context())
		cancel(cause)
		_, err := b.ReadRange(ctx, 0, 10)
		check(t, err)
		if len(h.seen()) != 0 {
			t.Error("asked the host all the same")
		}
	})
	t.Run("waiting for the answer", func(t *testing.T) {
		ctx, cancel := context.WithCancelCause(t.Context())
		b, _, _ := newBlob(t, p, Options{}, func(_ http.ResponseWriter, r *http.Request) {
			cancel(cause)
			<-r.Context().Done()
		})
		_, err := b.ReadRange(ctx, 0, 10)
		check(t, err)
	})
	t.Run("in the body", func(t *testing.T) {
		ctx, cancel := context.WithCancelCause(t.Context())
		b, h, _ := newBlob(t, p, Options{}, stall(206, p[:10], "Content-Range", "bytes 0-999/1000"))
		r, err := b.ReadRange(ctx, 0, 1000)
		if err != nil {
			t.Fatal(err)
		}
		defer r.Close()
		if _, err := io.ReadFull(r, make([]byte, 10)); err != nil {
			t.Fatal(err)
		}
		go cancel(cause)
		_, err = r.Read(make([]byte, 10))
		check(t, err)
		if _, again := r.Read(make([]byte, 10)); !errors.Is(again, cause) {
			t.Errorf("then %v", again)
		}
		if len(h.seen()) != 1 {
			t.Error("resumed for nobody")
		}
	})
	t.Run("between attempts", func(t *testing.T) {
		ctx, cancel := context.WithCancelCause(t.Context())
		b, _, clock := newBlob(t, p, Options{}, status(503))
		clock.onSleep = func(context.Context, time.Duration) { cancel(cause) }
		_, err := b.ReadRange(ctx, 0, 10)
		check(t, err)
	})
	t.Run("asleep by the wall clock", func(t *testing.T) {
		ctx, cancel := context.WithCancelCause(t.Context())
		go cancel(cause)
		if err := sleep(ctx, time.Hour); !errors.Is(err, cause) {
			t.Errorf("got %v", err)
		}
	})
	t.Run("deadline", func(t *testing.T) {
		b, _, _ := newBlob(t, p, Options{}, stall(200, nil))
		ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
		defer cancel()
		_, err := b.ReadRange(ctx, 0, 10)
		if !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("got %v", err)
		}
	})
}

// A reader that is closed early lets go of its connection: the host, which would send for ever, notices.
func TestCloseEarly(t *testing.T) {
	p := content(1000)
	gone := make(chan struct{})
	b, _, _ := newBlob(t, p, Options{}, func(w http.ResponseWriter, r *http.Request) {
		stall(206, p[:100], "Content-Range", "bytes 0-999/1000")(w, r)
		close(gone)
	})
	r, err := b.ReadRange(t.Context(), 0, 1000)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := io.ReadFull(r, make([]byte, 10)); err != nil {
		t.Fatal(err)
	}
	if err := r.Close(); err != nil {
		t.Error(err)
	}
	<-gone
	if _, err := r.Read(make([]byte, 1)); !errors.Is(err, fs.ErrClosed) {
		t.Errorf("a read after Close: %v", err)
	}
	if err := r.Close(); err != nil {
		t.Errorf("a second Close: %v", err)
	}
}

func TestReaderObeysItsInterface(t *testing.T) {
	p := content(4 << 10)
	b, _, _ := newBlob(t, p, Options{}, reset(206, p[:1500], "Content-Range", "bytes 0-4095/4096"))
	r, err := b.ReadRange(t.Context(), 0, int64(len(p)))
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	if err := iotest.TestReader(r, p); err != nil {
		t.Error(err)
	}
}

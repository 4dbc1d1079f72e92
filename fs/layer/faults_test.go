package layer

import (
	"bytes"
	"compress/gzip"
	"context"
	"errors"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/containerd/stargz-snapshotter/estargz"
	"golang.org/x/sys/unix"

	"github.com/sluice-snapshotter/sluice/cache"
)

func byteReader(p []byte) io.Reader { return bytes.NewReader(p) }

var errReset = errors.New("connection reset")

// broken gives what it has and then an error.
func broken(p []byte, err error) io.Reader {
	return io.MultiReader(byteReader(p), errorReader{err})
}

type errorReader struct{ err error }

func (e errorReader) Read([]byte) (int, error) { return 0, e.err }

// faulty answers most requests right, and each of the others wrong in another way.
func (b *fake) faulty(n int, q request) (io.ReadCloser, error) {
	good := b.data[q.off:q.end()]
	switch n % 10 {
	case 0:
		return nil, errReset
	case 2:
		return b.body(broken(good[:len(good)/2], errReset)), nil
	case 4: // truncated
		return b.body(byteReader(good[:len(good)/3])), nil
	case 6: // corrupted
		wrong := slices.Clone(good)
		wrong[len(wrong)/2] ^= 0x40
		return b.body(byteReader(wrong)), nil
	case 8: // another range, and more than asked for
		return b.body(byteReader(b.data)), nil
	default:
		return b.body(byteReader(good)), nil
	}
}

// corrupt flips a bit in the middle of the stream of chunk c wherever that is part of a range.
func (b *fake) corrupt(c cache.Chunk) func(context.Context, int, request) (io.ReadCloser, error) {
	at := c.BlobOffset + c.BlobSize/2
	return func(_ context.Context, _ int, q request) (io.ReadCloser, error) {
		body := slices.Clone(b.data[q.off:q.end()])
		if at >= q.off && at < q.end() {
			body[at-q.off] ^= 1
		}
		return b.body(byteReader(body)), nil
	}
}

// A chunk that comes wrong once is fetched again, alone.
func TestCorruptThenHealed(t *testing.T) {
	for name, fix := range formats {
		t.Run(name, func(t *testing.T) {
			failures := 0
			h := open(t, fix(), func(o *Options) {
				o.Observer.VerifyFailure = func(host string) {
					if host != "registry.test" {
						t.Errorf("host is %q", host)
					}
					failures++
				}
			})
			off, chunk := h.place(bigFile)
			c := h.Store().Chunk(chunk + 1)
			corrupt := h.blob.corrupt(c)
			h.blob.answer(func(ctx context.Context, n int, q request) (io.ReadCloser, error) {
				if n == 0 {
					return corrupt(ctx, n, q)
				}
				if q.off != c.BlobOffset || q.size != c.BlobSize {
					t.Errorf("request %d is %+v, want %d+%d only", n, q, c.BlobOffset, c.BlobSize)
				}
				return h.blob.plain(q), nil
			})
			h.mustCheck(off, 3*testChunk)
			h.blob.mu.Lock()
			defer h.blob.mu.Unlock()
			if failures == 0 || len(h.blob.distrusted) != failures {
				t.Errorf("%d failures observed, and the blob was told of %d", failures, len(h.blob.distrusted))
			}
		})
	}
}

// A chunk that stays wrong is an error that says what and where, for its readers only, until the host heals.
func TestCorruptForGood(t *testing.T) {
	h := open(t, storedLayer(), nil)
	off, chunk := h.place(bigFile)
	c := h.Store().Chunk(chunk + 2)
	h.blob.answer(h.blob.corrupt(c))
	h.mustCheck(off, 2*testChunk)
	h.mustCheck(off+3*testChunk, testChunk)
	for range 2 {
		h.flights.Wait() // the read-ahead
		h.blob.answer(h.blob.corrupt(c))
		err := h.check(t.Context(), off, 5*testChunk)
		var wrong *cache.DigestError
		if !errors.As(err, &wrong) || wrong.Chunk != chunk+2 {
			t.Fatalf("got %v, want a digest error of chunk %d", err, chunk+2)
		}
		for _, part := range []string{"registry.test/app:1", h.fix.digest.String(), bigFile, `from "registry.test"`} {
			if !strings.Contains(err.Error(), part) {
				t.Errorf("error %q does not name %q", err, part)
			}
		}
		if n := len(h.blob.seen()); n != 1+refetches {
			t.Errorf("%d requests, want %d", n, 1+refetches)
		}
	}
	if h.Store().Has(chunk + 2) {
		t.Error("the wrong chunk is in the store")
	}
	h.flights.Wait()
	if s := h.Status(); s.Err == nil {
		t.Error("the status shows no error")
	}
	h.blob.answer(nil)
	h.mustCheck(off, 5*testChunk)
	h.flights.Wait()
	if s := h.Status(); s.Err != nil {
		t.Errorf("the status still shows %v", s.Err)
	}
}

// A blob of nothing but wrong bytes must not make each chunk of a range three requests.
func TestAllCorrupt(t *testing.T) {
	h := open(t, testLayer(), nil)
	h.blob.answer(func(_ context.Context, _ int, q request) (io.ReadCloser, error) {
		return h.blob.body(byteReader(make([]byte, q.size))), nil
	})
	off, _ := h.place("etc/small050")
	if err := h.check(t.Context(), off, 1); err == nil {
		t.Error("read wrong bytes without an error")
	}
	if n := len(h.blob.seen()); n > 1+refetches {
		t.Errorf("%d requests for one chunk", n)
	}
}

func TestTransportFaults(t *testing.T) {
	for _, tt := range []struct {
		name  string
		want  error
		serve func(*fake, request) (io.ReadCloser, error)
	}{
		{"refused", errReset, func(*fake, request) (io.ReadCloser, error) { return nil, errReset }},
		{"no byte", io.ErrUnexpectedEOF, func(b *fake, q request) (io.ReadCloser, error) {
			return b.body(byteReader(nil)), nil
		}},
		{"truncated", io.ErrUnexpectedEOF, func(b *fake, q request) (io.ReadCloser, error) {
			return b.body(byteReader(b.data[q.off : q.off+100])), nil
		}},
		{"reset on the way", errReset, func(b *fake, q request) (io.ReadCloser, error) {
			return b.body(broken(b.data[q.off:q.off+100], errReset)), nil
		}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			h := open(t, testLayer(), nil)
			off, _ := h.place(bigFile)
			h.blob.answer(func(_ context.Context, _ int, q request) (io.ReadCloser, error) { return tt.serve(h.blob, q) })
			err := h.check(t.Context(), off, 10)
			if !errors.Is(err, tt.want) || !strings.Contains(err.Error(), bigFile) {
				t.Errorf("got %v, want %v about %s", err, tt.want, bigFile)
			}
			if n := len(h.blob.seen()); n != 1 {
				t.Errorf("%d requests: retrying is the blob's business", n)
			}
			h.blob.answer(nil)
			h.mustCheck(off, 10)
		})
	}
}

// Bytes before the fault count: what was decoded is not fetched again.
func TestResetKeepsWhatCame(t *testing.T) {
	h := open(t, testLayer(), nil)
	off, chunk := h.place(bigFile)
	third := h.Store().Chunk(chunk + 2)
	h.blob.answer(func(_ context.Context, _ int, q request) (io.ReadCloser, error) {
		return h.blob.body(broken(h.blob.data[q.off:third.BlobOffset+10], errReset)), nil
	})
	if err := h.check(t.Context(), off, 4*testChunk); !errors.Is(err, errReset) {
		t.Errorf("got %v", err)
	}
	h.blob.answer(nil)
	h.mustCheck(off, 4*testChunk)
	if q := h.blob.seen(); len(q) != 1 || q[0].off != third.BlobOffset {
		t.Errorf("requests %+v, want one from %d on", q, third.BlobOffset)
	}
}

// A stream that decompresses to far more than the chunk costs no more memory than the chunk, and is an error.
func TestBomb(t *testing.T) {
	var bomb bytes.Buffer
	zw := gzip.NewWriter(&bomb)
	must(zw.Write(make([]byte, 32<<20)))
	must(0, zw.Close())
	h := open(t, build(map[string][]byte{"f": must(io.ReadAll(io.LimitReader(rngReader(), testChunk)))}, estargz.WithCompressionLevel(gzip.NoCompression)), nil)
	if int64(bomb.Len()) > h.Store().Chunk(0).BlobSize {
		t.Fatalf("bomb of %d bytes does not fit", bomb.Len())
	}
	h.blob.answer(func(_ context.Context, _ int, q request) (io.ReadCloser, error) {
		return h.blob.body(byteReader(append(bomb.Bytes(), make([]byte, int(q.size)-bomb.Len())...))), nil
	})
	var wrong *cache.DigestError
	if err := h.check(t.Context(), 0, 1); !errors.As(err, &wrong) {
		t.Errorf("got %v, want a digest error", err)
	}
	if n := len(h.blob.seen()); n != 1+refetches {
		t.Errorf("%d requests", n)
	}
}

// While the disk takes no writes, readers are served from memory; afterwards it is as if nothing had been.
func TestUnwritableStore(t *testing.T) {
	h := open(t, testLayer(), nil)
	name := filepath.Join(filepath.Dir(h.Store().MetadataPath()), "data")
	writable := must(unix.FcntlInt(h.Store().File().Fd(), unix.F_DUPFD_CLOEXEC, 0))
	defer unix.Close(writable)
	readOnly := must(os.Open(name))
	defer readOnly.Close()
	swap := func(fd int) { must(0, unix.Dup3(fd, int(h.Store().File().Fd()), unix.O_CLOEXEC)) }

	swap(int(readOnly.Fd()))
	off, _ := h.place(bigFile)
	h.mustCheck(off+100, 3*testChunk)
	h.mustCheck(0, len(h.want))
	h.flights.Wait()
	if n, _ := h.Store().Present(); n != 0 {
		t.Errorf("%d chunks are stored", n)
	}
	if s := h.Status(); !errors.Is(s.Err, unix.EBADF) {
		t.Errorf("the status shows %v", s.Err)
	}
	if err := h.Prefetch(t.Context(), 0, nil); !errors.Is(err, unix.EBADF) {
		t.Errorf("prefetch: %v", err)
	}
	swap(writable)
	h.flights.Wait()
	h.mustCheck(0, len(h.want))
	if !h.Store().Complete() {
		t.Error("storing did not resume")
	}
}

package layer

import (
	"bytes"
	"context"
	"errors"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"
	"golang.org/x/sys/unix"

	"github.com/sluice-snapshotter/sluice/cache"
	"github.com/sluice-snapshotter/sluice/fs/toc"
)

func rngReader() io.Reader { return rand.NewChaCha8([32]byte{2}) }

// After a restart, what is in the store is read without the network, and needs no TOC digest.
func TestRestart(t *testing.T) {
	f := testLayer()
	root := t.TempDir()
	first := must(cache.Open(root))
	l, err := Open(t.Context(), f.options(t, first))
	if err != nil {
		t.Fatal(err)
	}
	if err := l.Fill(t.Context()); err != nil {
		t.Fatal(err)
	}
	want := f.space(t, l)
	must(0, l.Close())
	must(0, first.Close())

	second := must(cache.Open(root))
	defer second.Close()
	for _, known := range []digest.Digest{f.toc, ""} {
		o := f.options(t, second)
		o.TOCDigest, o.BlobSize = known, 0
		o.Blob.(*fake).answer(refuse)
		l, err := Open(t.Context(), o)
		if err != nil {
			t.Fatal(err)
		}
		h := &harness{Layer: l, t: t, blob: o.Blob.(*fake), want: want, fix: f}
		h.mustCheck(0, len(want))
		if err := errors.Join(h.Prefetch(t.Context(), 0, nil), h.Fill(t.Context())); err != nil {
			t.Error(err)
		}
		if n := len(h.blob.seen()); n != 0 {
			t.Errorf("%d requests", n)
		}
		h.close()
	}
}

func TestOpenErrors(t *testing.T) {
	other := digest.FromString("another TOC")
	f := testLayer()
	stored := newStore(t)
	l, err := Open(t.Context(), f.options(t, stored))
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	for _, tt := range []struct {
		name   string
		change func(*Options)
		check  func(error) bool
	}{
		{"TOC not known", func(o *Options) { o.TOCDigest = "" }, func(err error) bool { return errors.Is(err, ErrNoTOC) }},
		{"another TOC in the blob", func(o *Options) { o.TOCDigest = other }, func(err error) bool {
			var wrong *toc.DigestError
			return errors.As(err, &wrong)
		}},
		{"another TOC in the store", func(o *Options) { o.Store, o.TOCDigest = stored, other }, func(err error) bool {
			return strings.Contains(err.Error(), other.String()) && strings.Contains(err.Error(), f.toc.String())
		}},
		{"no lazy layer", func(o *Options) { o.Blob.(*fake).data = make([]byte, len(f.blob)) }, func(err error) bool {
			return errors.Is(err, toc.ErrFormat)
		}},
		{"registry refuses", func(o *Options) {
			o.Blob.(*fake).serve = func(context.Context, int, request) (io.ReadCloser, error) { return nil, errReset }
		}, func(err error) bool { return errors.Is(err, errReset) }},
		{"truncated tail", func(o *Options) {
			b := o.Blob.(*fake)
			b.serve = func(_ context.Context, _ int, q request) (io.ReadCloser, error) {
				return b.body(byteReader(b.data[q.off : q.end()-1])), nil
			}
		}, func(err error) bool { return errors.Is(err, io.ErrUnexpectedEOF) }},
	} {
		t.Run(tt.name, func(t *testing.T) {
			o := f.options(t, newStore(t))
			tt.change(&o)
			l, err := Open(t.Context(), o)
			if err == nil {
				_ = l.Close()
				t.Fatal("no error")
			}
			if !tt.check(err) || !strings.Contains(err.Error(), o.Ref) || !strings.Contains(err.Error(), f.digest.String()) {
				t.Errorf("got %v", err)
			}
		})
	}
}

// TestTOCDamagedOnce gets other bytes at first: the layer opens nevertheless, and the host is asked last from then on.
func TestTOCDamagedOnce(t *testing.T) {
	f := testLayer()
	o := f.options(t, newStore(t))
	b := o.Blob.(*fake)
	b.serve = func(_ context.Context, n int, q request) (io.ReadCloser, error) {
		if n == 0 {
			return b.body(bytes.NewReader(make([]byte, q.size))), nil
		}
		return b.plain(q), nil
	}
	l, err := Open(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	if err := l.Close(); err != nil {
		t.Error(err)
	}
	if len(b.seen()) != 2 || len(b.distrusted) != 1 {
		t.Errorf("%d requests, distrusted %q", len(b.seen()), b.distrusted)
	}
}

func TestObserver(t *testing.T) {
	results := map[Result]int{}
	waits := 0
	h := open(t, testLayer(), func(o *Options) {
		o.Observer.Read = func(r Result) { results[r]++ }
		o.Observer.ReadWait = func(time.Duration) { waits++ }
	})
	off, _ := h.place(bigFile)
	h.blob.answer(refuse)
	if err := h.check(t.Context(), off, 10); err == nil {
		t.Error("no error")
	}
	h.blob.answer(nil)
	h.mustCheck(off, 10)
	h.mustCheck(off, 10)
	if results[Hit] != 1 || results[Miss] != 1 || results[Failed] != 1 || waits != 2 {
		t.Errorf("results %v, %d waits", results, waits)
	}
}

// A layer's files can be written once more, as on a full disk after room was made, also after they were written in part.
func TestWriteAgain(t *testing.T) {
	c, err := layOut(t.Context(), testLayer().options(t, newStore(t)), nil)
	if err != nil {
		t.Fatal(err)
	}
	defer c.end()
	write := func(limit int) (image []byte, chunks []cache.Chunk, tail []int) {
		t.Helper()
		meta, err := os.Create(filepath.Join(t.TempDir(), "meta"))
		if err != nil {
			t.Fatal(err)
		}
		defer meta.Close()
		err = c.write(meta, func(chunk cache.Chunk) error {
			if len(chunks) == limit {
				return unix.ENOSPC
			}
			chunks = append(chunks, chunk)
			return nil
		})
		if full := limit >= 0; errors.Is(err, unix.ENOSPC) != full || err != nil && !full {
			t.Fatal(err)
		}
		return must(os.ReadFile(meta.Name())), chunks, slices.Clone(c.tail.chunks)
	}
	image, chunks, tail := write(-1)
	write(2)
	again, chunksAgain, tailAgain := write(-1)
	if len(chunks) == 0 || len(tail) == 0 || !slices.Equal(chunks, chunksAgain) || !slices.Equal(tail, tailAgain) {
		t.Errorf("%d chunks, %d in the tail; again %d, %d", len(chunks), len(tail), len(chunksAgain), len(tailAgain))
	}
	if !bytes.Equal(image, again) {
		t.Errorf("images of %d and %d bytes", len(image), len(again))
	}
}

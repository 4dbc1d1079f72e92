package pack

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"hash"
	"io"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"

	"github.com/containerd/stargz-snapshotter/estargz"
	"github.com/opencontainers/go-digest"
)

// hooked is a compressor whose members are told of before they begin, are written and end, and so is the TOC.
type hooked struct {
	estargz.Compressor
	hook func(what string) error
}

func (c *hooked) Writer(w io.Writer) (estargz.WriteFlushCloser, error) {
	if err := c.hook("begin"); err != nil {
		return nil, err
	}
	m, err := c.Compressor.Writer(w)
	return &hookedMember{m, c.hook}, err
}

func (c *hooked) WriteTOCAndFooter(w io.Writer, off int64, toc *estargz.JTOC, h hash.Hash) (digest.Digest, error) {
	if err := c.hook("toc"); err != nil {
		return "", err
	}
	return c.Compressor.WriteTOCAndFooter(w, off, toc, h)
}

type hookedMember struct {
	estargz.WriteFlushCloser
	hook func(what string) error
}

func (m *hookedMember) Write(p []byte) (int, error) {
	if err := m.hook("write"); err != nil {
		return 0, err
	}
	return m.WriteFlushCloser.Write(p)
}

func (m *hookedMember) Flush() error {
	return errors.Join(m.hook("flush"), m.WriteFlushCloser.Flush())
}

func (m *hookedMember) Close() error {
	return errors.Join(m.WriteFlushCloser.Close(), m.hook("end"))
}

// short is a tar whose end is missing, or cannot be read.
type short struct {
	io.ReaderAt
	n     int64
	error error
}

func (s short) ReadAt(p []byte, off int64) (int, error) {
	if off+int64(len(p)) > s.n {
		return 0, s.error
	}
	return s.ReaderAt.ReadAt(p, off)
}

// full is a disk that has so many bytes left.
type full struct{ left int }

var errFull = errors.New("full")

func (f *full) Write(p []byte) (int, error) {
	if f.left -= len(p); f.left < 0 {
		return 0, errFull
	}
	return len(p), nil
}

// someFiles is a layer of many batches.
func someFiles() (headers []*tar.Header) {
	for i := range 64 {
		headers = append(headers, file(fmt.Sprintf("file-%d", i), 100000))
	}
	return headers
}

// pack packs some files with a Memory that must be free afterwards, in a bubble of which no goroutine may be left.
func pack(t *testing.T, ctx context.Context, at io.ReaderAt, tr *Tar, w io.Writer, o Options) error {
	t.Helper()
	o.Memory = NewMemory()
	_, err := tr.Pack(ctx, at, w, o)
	if !o.Memory.free.TryAcquire(budget) {
		t.Error("memory is not given back")
	}
	return err
}

func TestFails(t *testing.T) {
	raw := tarOf(t, someFiles()...)
	failed := errors.New("failed")
	const all, almost = 1 << 30, -1 // of what it takes: one byte less
	for name, tt := range map[string]struct {
		what  string
		which int32 // of those fails
		tar   int64 // bytes that can be read
		error error
		disk  int
		want  error
		says  string
	}{
		"nothing":            {tar: all, disk: all},
		"first member":       {"begin", 1, all, nil, all, failed, `compress tar entry "`},
		"later member":       {"begin", 50, all, nil, all, failed, `compress tar entry "file-`},
		"write":              {"write", 50, all, nil, all, failed, `compress tar entry "file-`},
		"end of member":      {"end", 50, all, nil, all, failed, `compress tar entry "file-`},
		"TOC":                {"toc", 1, all, nil, all, failed, "write TOC"},
		"disk full":          {"", 0, all, nil, 3 << 20, errFull, "write blob"},
		"disk full at once":  {"", 0, all, nil, 0, errFull, "write blob"},
		"disk full, TOC":     {"", 0, all, nil, almost, errFull, "write TOC"},
		"short tar":          {"", 0, 3 << 20, io.EOF, all, io.ErrUnexpectedEOF, `read tar entry "file-31"`},
		"unreadable tar":     {"", 0, 3 << 20, failed, all, failed, `read tar entry "file-31"`},
		"unreadable, at all": {"", 0, 0, failed, all, failed, "read tar entry"},
	} {
		for _, least := range []int64{0, 70000} {
			t.Run(fmt.Sprint(name, least), func(t *testing.T) {
				tr, content := normalised(t, raw)
				var count atomic.Int32
				hook := func(now string) error {
					if now == tt.what && count.Add(1) == tt.which {
						return failed
					}
					return nil
				}
				o := Options{Compressor: &hooked{newGzip(gzip.NoCompression), hook}, ChunkSize: 50000, MinChunkSize: least}
				disk := tt.disk
				if disk == almost {
					_, blob := mustPack(t, raw, o)
					disk = len(blob) - 1
				}
				synctest.Test(t, func(t *testing.T) {
					err := pack(t, t.Context(), short{content, tt.tar, tt.error}, tr, &full{disk}, o)
					if !errors.Is(err, tt.want) || err != nil && !strings.Contains(err.Error(), tt.says) {
						t.Errorf("%v, want %v that says %q", err, tt.want, tt.says)
					}
				})
			})
		}
	}
}

// TestCancelled: whatever is under way, it ends, and with the context's cause. The bubble sees to it that nobody is left.
func TestCancelled(t *testing.T) {
	raw := tarOf(t, someFiles()...)
	cause := errors.New("enough")
	for _, what := range []string{"begin", "write", "end", "flush", "toc", "before"} {
		for _, least := range []int64{0, 70000} {
			if what == "flush" && least == 0 {
				continue
			}
			t.Run(fmt.Sprint(what, least), func(t *testing.T) {
				tr, content := normalised(t, raw)
				synctest.Test(t, func(t *testing.T) {
					ctx, cancel := context.WithCancelCause(t.Context())
					var after, open atomic.Int32
					hook := func(now string) error {
						if ctx.Err() != nil {
							after.Add(1)
						}
						switch now {
						case "begin":
							open.Add(1)
						case "end":
							open.Add(-1)
						}
						if now == what {
							cancel(cause)
						}
						return nil
					}
					if what == "before" {
						cancel(cause)
					}
					var blob bytes.Buffer
					err := pack(t, ctx, content, tr, &blob, Options{
						Compressor: &hooked{newGzip(gzip.NoCompression), hook}, ChunkSize: 50000, MinChunkSize: least,
					})
					if !errors.Is(err, cause) {
						t.Errorf("%v, want the cause", err)
					}
					if n := after.Load(); n > 30 {
						t.Errorf("%d steps after it was cancelled", n)
					}
					if n := open.Load(); n != 0 {
						t.Errorf("%d members are not closed: their encoders may have goroutines", n)
					}
				})
			})
		}
	}
}

// zeros is a tar's content that nobody made, and that counts what is read.
type zeros struct{ read atomic.Int64 }

func (z *zeros) ReadAt(p []byte, _ int64) (int, error) {
	z.read.Add(int64(len(p)))
	return len(p), nil
}

// TestMemory: while nothing is compressed, no more is read than there is room for.
func TestMemory(t *testing.T) {
	const files, size = 2, 40 << 20
	for name, tt := range map[string]struct {
		chunk, want int64
		packs       int
	}{
		"small chunks":             {256 << 10, budget / 2, 1},
		"large chunks":             {6 << 20, budget / 2, 1},
		"chunks beyond the budget": {size, size, 1},
		"several layers":           {4 << 20, budget / 2, 3},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				release := make(chan struct{})
				block := func(what string) error {
					if what == "write" {
						<-release
					}
					return nil
				}
				o := Options{
					ChunkSize: tt.chunk, Memory: NewMemory(),
					Compressor: &hooked{newGzip(gzip.NoCompression), block},
				}
				var content zeros
				done := make(chan error)
				for range tt.packs {
					tr := &Tar{named: map[string]*entry{}}
					for i := range files {
						h := file(fmt.Sprint(i), size)
						e, err := tr.add(h)
						if err != nil {
							t.Fatal(err)
						}
						e.begin, e.payload, e.end = int64(i)*(size+512), int64(i)*(size+512)+512, int64(i+1)*(size+512)
					}
					go func() {
						_, err := tr.Pack(t.Context(), &content, io.Discard, o)
						done <- err
					}()
				}
				synctest.Wait()
				if n := content.read.Load(); n > tt.want+1024*int64(tt.packs) || n == 0 {
					t.Errorf("%d bytes are read, want at most %d", n, tt.want)
				}
				close(release)
				for range tt.packs {
					if err := <-done; err != nil {
						t.Error(err)
					}
				}
				if n := content.read.Load(); n < int64(tt.packs)*files*size {
					t.Errorf("%d bytes are read in all", n)
				}
			})
		})
	}
}

package plain

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/containerd/containerd/v2/core/images"
	"github.com/klauspost/compress/zstd"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/sluice-snapshotter/sluice/fs/layer"
	"github.com/sluice-snapshotter/sluice/fs/toc"
)

// some is small and large files, in more than one piece and more than one chunk.
func some() map[string][]byte {
	files := map[string][]byte{"empty": nil, "large": noise(1, 9<<20), "text": []byte(strings.Repeat("the same line\n", 100_000))}
	for i := range 200 {
		files[fmt.Sprint("small", i)] = noise(uint64(i), 37*i)
	}
	return files
}

func TestTake(t *testing.T) {
	files := some()
	content := tarOf(t, files)
	behind := append(bytes.Clone(content), noise(9, 300_000)...) // counts for the diffID
	half := len(content) / 2
	members := append(gzipped(t, content[:half]), gzipped(t, content[half:])...)
	frames := append(zstandard(t, content[:half]), zstandard(t, content[half:])...)
	skippable := append([]byte{0x5a, 0x2a, 0x4d, 0x18, 3, 0, 0, 0, 1, 2, 3}, frames...)
	tests := map[string]struct {
		mediaType, format string
		blob, content     []byte
	}{
		"gzip":             {ocispec.MediaTypeImageLayerGzip, Gzip, gzipped(t, content), content},
		"gzip members":     {images.MediaTypeDockerSchema2LayerGzip, Gzip, members, content},
		"zstd":             {ocispec.MediaTypeImageLayerZstd, Zstd, zstandard(t, content), content},
		"zstd frames":      {images.MediaTypeDockerSchema2LayerZstd, Zstd, frames, content},
		"skippable frame":  {ocispec.MediaTypeImageLayerZstd, Zstd, skippable, content},
		"tar":              {ocispec.MediaTypeImageLayer, Tar, content, content},
		"docker's tar":     {images.MediaTypeDockerSchema2Layer, Tar, content, content},
		"tar, named gzip":  {ocispec.MediaTypeImageLayerGzip, Tar, content, content},
		"gzip, named zstd": {ocispec.MediaTypeImageLayerZstd, Gzip, gzipped(t, content), content},
		"bytes behind":     {ocispec.MediaTypeImageLayerGzip, Gzip, gzipped(t, behind), behind},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			blob := &fakeBlob{bytes: test.blob}
			r := newRig(t, blob, test.mediaType)
			if err := Take(t.Context(), r.Options); err != nil {
				t.Fatal(err)
			}
			r.check(t, test.format, test.content, files)
			if want := (r.Size + pieceSize - 1) / pieceSize; blob.ranges.Load() != want {
				t.Errorf("%d requests, want %d", blob.ranges.Load(), want)
			}
		})
	}
}

// TestTakeEmptyTar takes a tar of nothing, and what has not even the blocks that end one.
func TestTakeEmptyTar(t *testing.T) {
	for _, content := range [][]byte{make([]byte, 1024), make([]byte, 10)} {
		r := newRig(t, &fakeBlob{bytes: gzipped(t, content)}, ocispec.MediaTypeImageLayerGzip)
		if err := Take(t.Context(), r.Options); err != nil && len(content) == 1024 {
			t.Fatal(err)
		}
	}
}

func TestTakeDamaged(t *testing.T) {
	content := tarOf(t, some())
	blob := gzipped(t, content)
	flip := func(at int) []byte {
		p := bytes.Clone(blob)
		p[at] ^= 0xff
		return p
	}
	other := tarOf(t, map[string][]byte{"other": noise(3, len(content))})
	damages := map[string][]byte{
		"first byte": flip(0), "in the middle": flip(len(blob) / 2), "last byte": flip(len(blob) - 1), "another layer": gzipped(t, other)[:len(blob)],
	}
	for name, damaged := range damages {
		t.Run(name, func(t *testing.T) {
			b := &fakeBlob{bytes: blob, damaged: damaged}
			r := newRig(t, b, ocispec.MediaTypeImageLayerGzip)
			blamed := ""
			r.Observer.VerifyFailure = func(host string) { blamed += host }
			if err := Take(t.Context(), r.Options); err != nil {
				t.Fatal(err)
			}
			r.check(t, Gzip, content, nil)
			if blamed != "liar" || len(b.distrusted) != 1 {
				t.Errorf("blamed %q, distrusted %q", blamed, b.distrusted)
			}
		})
	}
	t.Run("everywhere", func(t *testing.T) {
		r := newRig(t, &fakeBlob{bytes: blob}, ocispec.MediaTypeImageLayerGzip)
		r.Digest = digest.FromString("another blob")
		var wrong *DigestError
		if err := Take(t.Context(), r.Options); !errors.As(err, &wrong) || wrong.Host != "honest" || !strings.Contains(err.Error(), r.Ref) {
			t.Errorf("got %v", err)
		}
		if got, want := r.Blob.(*fakeBlob).ranges.Load(), 2*((r.Size+pieceSize-1)/pieceSize); got != want {
			t.Errorf("%d requests, want %d", got, want)
		}
		r.nothing(t)
	})
}

// TestTakeRefused has the right bytes of what is no layer, or none that can be shown: there is no sense in fetching it again.
func TestTakeRefused(t *testing.T) {
	content := tarOf(t, map[string][]byte{"f": noise(1, 6<<20)})
	bad := tarOf(t, map[string][]byte{"../f": []byte("x")})
	whole := gzipped(t, content)
	tests := map[string]struct {
		blob []byte
		is   error
		want string
	}{
		"cut off":       {whole[:len(whole)-9], nil, "unexpected EOF"},
		"garbage after": {append(bytes.Clone(whole), "garbage"...), nil, "decompress"},
		"half a tar":    {gzipped(t, content[:len(content)/2]), toc.ErrTar, ""},
		"no tar":        {noise(4, 100_000), toc.ErrTar, ""},
		"a bad name":    {gzipped(t, append(bad, noise(5, 9<<20)...)), nil, `".."`},
		"huge window":   {[]byte{0x28, 0xb5, 0x2f, 0xfd, 0x00, 0xa0, 1, 0, 0}, nil, "window"},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			b := &fakeBlob{bytes: test.blob}
			r := newRig(t, b, ocispec.MediaTypeImageLayerGzip)
			err := Take(t.Context(), r.Options)
			if err == nil || !strings.Contains(err.Error(), test.want) || test.is != nil && !errors.Is(err, test.is) {
				t.Errorf("got %v", err)
			}
			if _, ok := errors.AsType[*RefusedError](err); !ok {
				t.Errorf("%v is worth another try", err)
			}
			if len(b.distrusted) > 0 || b.ranges.Load() != (r.Size+pieceSize-1)/pieceSize {
				t.Errorf("%d requests, distrusted %q", b.ranges.Load(), b.distrusted)
			}
			r.nothing(t)
		})
	}
}

func TestTakeFails(t *testing.T) {
	cause := errors.New("connection reset")
	content := gzipped(t, tarOf(t, some()))
	t.Run("request", func(t *testing.T) {
		r := newRig(t, &fakeBlob{bytes: content, err: cause}, ocispec.MediaTypeImageLayerGzip)
		if err := Take(t.Context(), r.Options); !errors.Is(err, cause) {
			t.Errorf("got %v", err)
		}
		r.nothing(t)
	})
	t.Run("short body", func(t *testing.T) {
		r := newRig(t, &fakeBlob{bytes: content, short: true}, ocispec.MediaTypeImageLayerGzip)
		if err := Take(t.Context(), r.Options); !errors.Is(err, io.ErrUnexpectedEOF) {
			t.Errorf("got %v", err)
		}
		r.nothing(t)
	})
	t.Run("cancelled", func(t *testing.T) {
		b := &fakeBlob{bytes: content, stall: make(chan struct{})}
		r := newRig(t, b, ocispec.MediaTypeImageLayerGzip)
		ctx, cancel := context.WithCancelCause(t.Context())
		stop := errors.New("stop")
		time.AfterFunc(20*time.Millisecond, func() { cancel(stop) })
		if err := Take(ctx, r.Options); !errors.Is(err, stop) {
			t.Errorf("got %v", err)
		}
		r.nothing(t)
	})
}

// TestTakeCancelledInHole ends while a sparse file of 512 GiB is read, all of which is there from the beginning.
func TestTakeCancelledInHole(t *testing.T) {
	var content bytes.Buffer
	records := "22 GNU.sparse.major=1\n22 GNU.sparse.minor=0\n21 GNU.sparse.name=f\n36 GNU.sparse.realsize=549755813888\n"
	w := tar.NewWriter(&content)
	for _, m := range []struct{ name, body string }{{"pax", records}, {"f", "1\n0\n1\n" + strings.Repeat("\x00", 506) + "x"}} {
		h := &tar.Header{Typeflag: tar.TypeReg, Name: m.name, Mode: 0o644, Size: int64(len(m.body)), Format: tar.FormatUSTAR}
		if err := w.WriteHeader(h); err != nil {
			t.Fatal(err)
		}
		if _, err := io.WriteString(w, m.body); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	p := content.Bytes()
	p[156] = tar.TypeXHeader // package tar does not write sparse files
	copy(p[148:], "        ")
	sum := 0
	for _, c := range p[:512] {
		sum += int(c)
	}
	copy(p[148:], fmt.Sprintf("%06o\x00 ", sum))
	r := newRig(t, &fakeBlob{bytes: p}, ocispec.MediaTypeImageLayer)
	ctx, cancel := context.WithCancel(t.Context())
	r.Observer.Fetched = func(layer.Range) { cancel() }
	began := time.Now()
	if err := Take(ctx, r.Options); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
	if took := time.Since(began); took > 20*time.Second {
		t.Errorf("it took %s", took)
	}
	r.nothing(t)
}

// TestTakeMany takes many layers with hardly any memory to do it with.
func TestTakeMany(t *testing.T) {
	files := some()
	content := tarOf(t, files)
	b := &fakeBlob{bytes: gzipped(t, content)}
	r := newRig(t, b, ocispec.MediaTypeImageLayerGzip)
	for _, o := range []layer.SchedulerOptions{{MemoryLimit: 1}, {Concurrency: 1}, {MemoryLimit: 16 << 20}} {
		r.Scheduler = layer.NewScheduler(o)
		var wg sync.WaitGroup
		for range 4 {
			wg.Go(func() {
				if err := Take(t.Context(), r.Options); err != nil {
					t.Error(err)
				}
			})
		}
		wg.Wait()
		r.check(t, Gzip, content, files)
		if err := r.store.Remove(r.Digest); err != nil {
			t.Fatal(err)
		}
	}
	if most := b.most.Load(); most > 4*pieces {
		t.Errorf("%d requests at once", most)
	}
}

// TestTakeReserves takes layers that need more memory once their decoder is known, all at once: they do not wait for each other for ever,
// and what they hold is accounted for.
func TestTakeReserves(t *testing.T) {
	const window = 8 << 20
	files := map[string][]byte{"f": noise(1, 6*pieceSize)}
	content := tarOf(t, files)
	var blob bytes.Buffer
	w, err := zstd.NewWriter(&blob, zstd.WithWindowSize(window))
	if err == nil {
		_, err = w.Write(content)
	}
	if err = errors.Join(err, w.Close()); err != nil {
		t.Fatal(err)
	}
	r := newRig(t, &fakeBlob{bytes: blob.Bytes()}, ocispec.MediaTypeImageLayerZstd)
	least := r.memory() + window // from the fifth piece on: then the first was used
	for _, limit := range []int64{1, 72 << 20, 1 << 30} {
		t.Run(fmt.Sprint(limit), func(t *testing.T) {
			r.Scheduler = layer.NewScheduler(layer.SchedulerOptions{MemoryLimit: limit})
			var most atomic.Int64
			r.Observer.Fetched = func(layer.Range) {
				held := r.Scheduler.Inflight()
				for seen := most.Load(); held > seen && !most.CompareAndSwap(seen, held); seen = most.Load() {
				}
			}
			var wg sync.WaitGroup
			for range 5 {
				wg.Go(func() {
					if err := Take(t.Context(), r.Options); err != nil {
						t.Error(err)
					}
				})
			}
			wg.Wait()
			if got := most.Load(); got < least || got > max(limit, least) {
				t.Errorf("%d MiB were held at most, want %d to %d", got>>20, least>>20, max(limit, least)>>20)
			}
			r.check(t, Zstd, content, files)
			if err := r.store.Remove(r.Digest); err != nil {
				t.Fatal(err)
			}
		})
	}
}

func TestWindow(t *testing.T) {
	for name, test := range map[string]struct {
		head string
		want int64
	}{
		"window":         {"\x28\xb5\x2f\xfd\x00\x68", 8 << 20},
		"single segment": {"\x28\xb5\x2f\xfd\x60\x00\x01", 512},
		"too large":      {"\x28\xb5\x2f\xfd\x00\xf8", maxWindow},
		"skippable":      {"\x50\x2a\x4d\x18\x04\x00\x00\x00", maxWindow},
		"cut off":        {"\x28\xb5\x2f\xfd", maxWindow},
	} {
		t.Run(name, func(t *testing.T) {
			if got := window([]byte(test.head)); got != test.want {
				t.Errorf("%d bytes, want %d", got, test.want)
			}
		})
	}
}

// TestTakeMemory takes a layer that is far larger than what it may take of memory.
func TestTakeMemory(t *testing.T) {
	content := tarOf(t, map[string][]byte{"f": noise(1, 40<<20), "g": make([]byte, 40<<20)})
	r := newRig(t, &fakeBlob{bytes: gzipped(t, content)}, ocispec.MediaTypeImageLayerGzip)
	runtime.GC()
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	if err := Take(t.Context(), r.Options); err != nil {
		t.Fatal(err)
	}
	runtime.ReadMemStats(&after)
	if got := after.TotalAlloc - before.TotalAlloc; got > 36<<20 {
		t.Errorf("%d MiB allocated in all", got>>20)
	}
}

func TestTakes(t *testing.T) {
	for mediaType, want := range map[string]bool{
		ocispec.MediaTypeImageLayer: true, ocispec.MediaTypeImageLayerGzip: true, ocispec.MediaTypeImageLayerZstd: true,
		images.MediaTypeDockerSchema2Layer: true, images.MediaTypeDockerSchema2LayerGzip: true, images.MediaTypeDockerSchema2LayerZstd: true,
		images.MediaTypeDockerSchema2LayerForeign: false, images.MediaTypeDockerSchema2LayerForeignGzip: false,
		"application/vnd.oci.image.layer.nondistributable.v1.tar+gzip": false, ocispec.MediaTypeImageLayerGzip + "+encrypted": false,
		"application/vnd.in-toto+json": false, "": false,
	} {
		if got := Takes(ocispec.Descriptor{MediaType: mediaType, Size: 1}); got != want {
			t.Errorf("%q: %v", mediaType, got)
		}
	}
	if Takes(ocispec.Descriptor{MediaType: ocispec.MediaTypeImageLayer, Size: 1, URLs: []string{"https://example.com"}}) {
		t.Error("a layer with places of its own")
	}
}

// silent is a blob that somebody waits for, in vain.
type silent struct{ fakeBlob }

func (*silent) ReadRange(ctx context.Context, _, _ int64) (io.ReadCloser, error) {
	<-ctx.Done()
	return nil, context.Cause(ctx)
}

// slow is one that comes byte by byte.
type slow struct{ fakeBlob }

func (*slow) ReadRange(ctx context.Context, _, _ int64) (io.ReadCloser, error) {
	return io.NopCloser(drip{ctx}), nil
}

type drip struct{ context.Context }

func (d drip) Read(p []byte) (int, error) {
	select {
	case <-time.After(100 * time.Millisecond):
		p[0] = 0
		return 1, nil
	case <-d.Done():
		return 0, context.Cause(d)
	}
}

// TestTakeYields: a layer that nobody waits for gives way to whoever gets another, for a second a piece, and for half of one to who waits
// for a registry that hangs.
func TestTakeYields(t *testing.T) {
	content := tarOf(t, map[string][]byte{"f": noise(1, 100_000)})
	for name, test := range map[string]struct {
		other   layer.Blob
		awaited bool
		want    time.Duration
	}{
		"ahead":           {new(slow), false, time.Second},
		"ahead, silent":   {new(silent), false, time.Second / 2},
		"awaited":         {new(slow), true, 0},
		"awaited, silent": {new(silent), true, 0},
	} {
		t.Run(name, func(t *testing.T) {
			r := newRig(t, &fakeBlob{bytes: content}, ocispec.MediaTypeImageLayer)
			synctest.Test(t, func(t *testing.T) {
				awaited := make(chan struct{})
				if test.awaited {
					close(awaited)
				}
				r.Scheduler, r.Awaited = layer.NewScheduler(layer.SchedulerOptions{}), awaited
				var waited time.Duration
				r.Observer.Fetched = func(got layer.Range) { waited = got.Wait }
				ctx, leave := context.WithCancel(t.Context())
				left := make(chan error)
				go func() {
					_, err := layer.Open(ctx, layer.Options{
						Ref: "example.com/b:c", Digest: digest.FromString("b"), Store: r.store, Scheduler: r.Scheduler,
						Blob: test.other, BlobSize: 1 << 20, TOCDigest: digest.FromString("t"),
					})
					left <- err
				}()
				synctest.Wait()
				began := time.Now()
				if err := Take(t.Context(), r.Options); err != nil {
					t.Error(err)
				}
				if took := time.Since(began); took != test.want || waited != test.want {
					t.Errorf("it took %s, and waited %s, want %s", took, waited, test.want)
				}
				leave()
				if err := <-left; !errors.Is(err, context.Canceled) {
					t.Error(err)
				}
			})
		})
	}
}

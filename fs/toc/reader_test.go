package toc

import (
	"bytes"
	"compress/gzip"
	"errors"
	"io"
	"io/fs"
	"strings"
	"sync"
	"testing"
	"testing/iotest"

	"github.com/klauspost/compress/zstd"
)

// compress makes one stream of p.
func compress(t testing.TB, f Format, p []byte) []byte {
	t.Helper()
	var buf bytes.Buffer
	var w io.WriteCloser = gzip.NewWriter(&buf)
	if f == ZstdChunked {
		z, err := zstd.NewWriter(&buf)
		if err != nil {
			t.Fatal(err)
		}
		w = z
	}
	mustWrite(t, w, p)
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return buf.Bytes()
}

func decompress(f Format, r io.Reader) ([]byte, error) {
	zr, err := f.NewReader(r)
	if err != nil {
		return nil, err
	}
	p, err := io.ReadAll(zr)
	return p, errors.Join(err, zr.Close())
}

var bodies = map[string]string{
	"nothing": "", "a byte": "x", "text": strings.Repeat("all work and no play ", 999), "noise": noise(3, 300000),
	"zeros": strings.Repeat("\x00", 3<<20), "a block": noise(4, 128<<10),
}

func TestReaderEndsWithItsStream(t *testing.T) {
	bothFormats(t, func(t *testing.T, f Format) {
		for name, body := range bodies {
			stream := compress(t, f, []byte(body))
			for behind, rest := range map[string][]byte{
				"nothing": nil, "a stream": compress(t, f, []byte("another")), "garbage": []byte("garbage"), "zeros": make([]byte, 100000),
			} {
				p, err := decompress(f, bytes.NewReader(append(bytes.Clone(stream), rest...)))
				if err != nil || string(p) != body {
					t.Errorf("%s before %s: %d bytes, %v", name, behind, len(p), err)
				}
			}
			p, err := decompress(f, iotest.OneByteReader(bytes.NewReader(stream)))
			if err != nil || string(p) != body {
				t.Errorf("%s by the byte: %d bytes, %v", name, len(p), err)
			}
		}
	})
}

func TestReaderStaysAtItsEnd(t *testing.T) {
	bothFormats(t, func(t *testing.T, f Format) {
		zr, err := f.NewReader(bytes.NewReader(compress(t, f, []byte("data"))))
		if err != nil {
			t.Fatal(err)
		}
		defer zr.Close()
		p := make([]byte, 8)
		if n, err := io.ReadFull(zr, p); n != 4 || !errors.Is(err, io.ErrUnexpectedEOF) {
			t.Errorf("%d bytes, %v", n, err)
		}
		for range 3 {
			if n, err := zr.Read(p); n != 0 || err != io.EOF {
				t.Errorf("%d bytes, %v", n, err)
			}
		}
	})
}

func TestReaderOfTruncatedStream(t *testing.T) {
	bothFormats(t, func(t *testing.T, f Format) {
		stream := compress(t, f, []byte(noise(5, 1000)))
		for n := range stream {
			if _, err := decompress(f, bytes.NewReader(stream[:n])); !errors.Is(err, io.ErrUnexpectedEOF) {
				t.Errorf("first %d bytes of %d: %v", n, len(stream), err)
			}
		}
	})
}

func TestReaderOfGarbage(t *testing.T) {
	bothFormats(t, func(t *testing.T, f Format) {
		other := EStargz
		if f == EStargz {
			other = ZstdChunked
		}
		for name, p := range map[string][]byte{
			"zeros": make([]byte, 100), "noise": []byte(noise(6, 100)), "the other format": compress(t, other, []byte("x")),
			"skippable frame": append(skippable([]byte("x")), compress(t, f, []byte("x"))...),
		} {
			if name == "skippable frame" && f == EStargz {
				continue
			}
			if _, err := decompress(f, bytes.NewReader(p)); err == nil {
				t.Errorf("%s: no error", name)
			}
		}
	})
	if _, err := Format("lz4").NewReader(nil); err == nil || !strings.Contains(err.Error(), `"lz4"`) {
		t.Errorf("unknown format: %v", err)
	}
}

func TestReaderPassesErrorsOn(t *testing.T) {
	broken := errors.New("connection reset")
	bothFormats(t, func(t *testing.T, f Format) {
		stream := compress(t, f, []byte(noise(7, 200000)))
		for _, n := range []int{0, 5, 100, 100000} {
			r := io.MultiReader(bytes.NewReader(stream[:n]), iotest.ErrReader(broken))
			if _, err := decompress(f, r); !errors.Is(err, broken) {
				t.Errorf("after %d bytes: %v", n, err)
			}
		}
	})
}

// TestZstdWindowIsBounded has a frame that asks for 128 MiB in its first six bytes.
func TestZstdWindowIsBounded(t *testing.T) {
	frame := []byte{0x28, 0xb5, 0x2f, 0xfd, 0x00, (27 - 10) << 3, 0x01, 0, 0}
	if _, err := decompress(ZstdChunked, bytes.NewReader(frame)); !errors.Is(err, zstd.ErrWindowSizeExceeded) {
		t.Error(err)
	}
	single := []byte{0x28, 0xb5, 0x2f, 0xfd, 0xa0, 0, 0, 0, 8, 0x01, 0, 0}
	if _, err := decompress(ZstdChunked, bytes.NewReader(single)); !errors.Is(err, zstd.ErrDecoderSizeExceeded) {
		t.Error(err)
	}
}

func TestZstdHeaders(t *testing.T) {
	body := []byte(noise(8, 70000))
	for name, options := range map[string][]zstd.EOption{
		"plain":       nil,
		"no checksum": {zstd.WithEncoderCRC(false)},
		"single":      {zstd.WithSingleSegment(true)},
		"best":        {zstd.WithEncoderLevel(zstd.SpeedBestCompression)},
		"large":       {zstd.WithWindowSize(maxWindow)},
		"small":       {zstd.WithWindowSize(1 << 10)},
	} {
		for _, n := range []int{0, 1, 255, 256, 65535, 65536, 70000} {
			z, err := zstd.NewWriter(nil, options...)
			if err != nil {
				t.Fatal(err)
			}
			stream := append(z.EncodeAll(body[:n], nil), "behind"...)
			if n == 0 && len(stream) == len("behind") {
				continue // the encoder makes no frame of nothing
			}
			p, err := decompress(ZstdChunked, bytes.NewReader(stream))
			if err != nil || !bytes.Equal(p, body[:n]) {
				t.Errorf("%s, %d bytes: got %d, %v", name, n, len(p), err)
			}
		}
	}
}

func TestReaderAfterClose(t *testing.T) {
	bothFormats(t, func(t *testing.T, f Format) {
		stream := compress(t, f, []byte("data"))
		a, err := f.NewReader(bytes.NewReader(stream))
		if err != nil {
			t.Fatal(err)
		}
		for range 2 {
			if err := a.Close(); err != nil {
				t.Error(err)
			}
		}
		b, err := f.NewReader(bytes.NewReader(stream)) // likely on a's decoder
		if err != nil {
			t.Fatal(err)
		}
		defer b.Close()
		if n, err := a.Read(make([]byte, 4)); n != 0 || !errors.Is(err, fs.ErrClosed) {
			t.Errorf("closed reader gave %d bytes, %v", n, err)
		}
		if err := a.Close(); err != nil {
			t.Error(err)
		}
		if p, err := io.ReadAll(b); err != nil || string(p) != "data" {
			t.Errorf("%q, %v", p, err)
		}
	})
}

// TestReadersAreReused goes on with decoders that were left in the middle, or failed.
func TestReadersAreReused(t *testing.T) {
	bothFormats(t, func(t *testing.T, f Format) {
		body := noise(9, 500000)
		stream := compress(t, f, []byte(body))
		var wg sync.WaitGroup
		for i := range 8 {
			wg.Go(func() {
				for j := range 20 {
					switch (i + j) % 4 {
					case 0: // left in the middle
						if err := extract(f, bytes.NewReader(stream), int64(j*1000), make([]byte, 100)); err != nil {
							t.Error(err)
						}
					case 1:
						if _, err := decompress(f, bytes.NewReader(stream[:len(stream)/2])); err == nil {
							t.Error("half a stream: no error")
						}
					default:
						if p, err := decompress(f, bytes.NewReader(stream)); err != nil || string(p) != body {
							t.Errorf("%d bytes, %v", len(p), err)
						}
					}
				}
			})
		}
		wg.Wait()
	})
}

package toc

import (
	"bytes"
	"compress/gzip"
	"errors"
	"io"
	"testing"

	"github.com/klauspost/compress/zstd"
)

func gzipMember(t *testing.T, p []byte) []byte {
	t.Helper()
	var buf bytes.Buffer
	z := gzip.NewWriter(&buf)
	if _, err := z.Write(p); err != nil {
		t.Fatal(err)
	}
	if err := z.Close(); err != nil {
		t.Fatal(err)
	}
	return buf.Bytes()
}

func zstdFrame(t *testing.T, p []byte) []byte {
	t.Helper()
	w, err := zstd.NewWriter(nil)
	if err != nil {
		t.Fatal(err)
	}
	return w.EncodeAll(p, nil)
}

func TestDecodeAll(t *testing.T) {
	first, second := bytes.Repeat([]byte("first "), 2000), bytes.Repeat([]byte("2"), 700)
	all := append(bytes.Clone(first), second...)
	for f, stream := range map[Format]func(*testing.T, []byte) []byte{EStargz: gzipMember, ZstdChunked: zstdFrame} {
		one, two := stream(t, first), stream(t, second)
		src := append(bytes.Clone(one), two...)
		if f == ZstdChunked {
			src = append(append(bytes.Clone(one), skippable([]byte("not of the tar"))...), two...)
		}
		damaged := bytes.Clone(src)
		damaged[len(src)-len(two)/2]++
		for name, tt := range map[string]struct {
			src   []byte
			room  int
			least int
			want  []byte
			whole bool
		}{
			"one stream":                {one, len(first) + 10, 100, first, true},
			"one that fits exactly":     {one, len(first), len(first), first, true},
			"two":                       {src, len(all) + 5, 100, all, true},
			"two that fit exactly":      {src, len(all), len(first), all, true},
			"no room for the second":    {src, len(all) - 1, len(first), first, false},
			"no room for the first":     {src, len(first) - 1, 100, first[:100], false},
			"the second is damaged":     {damaged, len(all), 100, first, false},
			"the second is cut off":     {src[:len(src)-5], len(all), 100, first, false},
			"something else at its end": {append(bytes.Clone(src), 'x'), len(all) + 5, 100, all, false},
		} {
			t.Run(string(f)+"/"+name, func(t *testing.T) {
				dst := make([]byte, tt.room)
				n, whole, err := f.DecodeAll(dst, tt.src, tt.least)
				if err != nil || whole != tt.whole || n < len(tt.want) && !whole && n < tt.least || !bytes.HasPrefix(tt.want, dst[:min(n, len(tt.want))]) {
					t.Fatalf("%d bytes, whole %t, error %v", n, whole, err)
				}
				if whole && !bytes.Equal(dst[:n], tt.want) {
					t.Error("wrong bytes")
				}
			})
		}
		t.Run(string(f)+"/ends too soon", func(t *testing.T) {
			dst := make([]byte, len(all))
			if n, whole, err := f.DecodeAll(dst, src, len(first)+1); !errors.Is(err, io.EOF) && !errors.Is(err, io.ErrUnexpectedEOF) || whole {
				t.Errorf("%d bytes, whole %t, error %v", n, whole, err)
			}
		})
		t.Run(string(f)+"/as a reader", func(t *testing.T) {
			r, err := f.NewReaderAll(bytes.NewReader(src))
			if err != nil {
				t.Fatal(err)
			}
			defer r.Close()
			if got, err := io.ReadAll(r); err != nil || !bytes.Equal(got, all) {
				t.Errorf("%d bytes, error %v", len(got), err)
			}
		})
	}
}

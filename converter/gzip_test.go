package converter

import (
	"bytes"
	"compress/gzip"
	"io"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"github.com/containerd/stargz-snapshotter/estargz"
)

// values is n random bytes out of so many values, which no encoder saves more of than 1 - log2(values)/8.
func values(n, values int) []byte {
	rng := rand.New(rand.NewPCG(1, uint64(values)))
	p := make([]byte, n)
	for i := range p {
		p[i] = byte(rng.IntN(values))
	}
	return p
}

// member is what c makes of p, written and flushed in pieces as estargz does.
func member(t *testing.T, c estargz.Compressor, pieces ...[]byte) []byte {
	t.Helper()
	var out bytes.Buffer
	w, err := c.Writer(&out)
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range pieces {
		if n, err := w.Write(p); n != len(p) || err != nil {
			t.Fatalf("%d bytes of %d are written, error %v", n, len(p), err)
		}
		before := out.Len()
		if err := w.Flush(); err != nil {
			t.Fatal(err)
		}
		if len(p)%segment != 0 && out.Len() == before {
			t.Error("Flush leaves bytes behind, and estargz goes by how many there are")
		}
	}
	for range 2 {
		if err := w.Close(); err != nil {
			t.Fatal(err)
		}
	}
	zr, err := gzip.NewReader(bytes.NewReader(out.Bytes()))
	if err != nil {
		t.Fatal(err)
	}
	if got, err := io.ReadAll(zr); err != nil || !bytes.Equal(got, slices.Concat(pieces...)) {
		t.Fatalf("%d bytes come back, error %v", len(got), err)
	}
	return out.Bytes()
}

// What compression would save less than a 32nd of stands in the blob as it is, and all else is as small as before.
func TestStored(t *testing.T) {
	text := []byte(strings.Repeat("all work and no play ", 50000))
	header := make([]byte, 512)
	for name, tt := range map[string]struct {
		pieces [][]byte
		stored []byte // "" if nothing is
	}{
		"nothing":             {nil, nil},
		"one byte":            {[][]byte{{1}}, nil},
		"text":                {[][]byte{text}, nil},
		"random":              {[][]byte{values(1<<20, 256)}, values(1<<20, 256)},
		"1 % to save":         {[][]byte{values(1<<20, 240)}, values(1<<20, 240)},
		"4 % to save":         {[][]byte{values(1<<20, 200)}, nil},
		"not whole segments":  {[][]byte{values(segment+7777, 240)}, values(segment+7777, 240)},
		"behind a header":     {[][]byte{header, values(1<<20, 240)}, values(1<<20, 240)},
		"before a header":     {[][]byte{values(1<<20, 240), header, nil}, values(1<<20, 240)},
		"between text":        {[][]byte{text, values(1<<20, 240), text}, values(1<<20, 240)},
		"stored and repeated": {[][]byte{values(20000, 256), values(20000, 256)}, values(20000, 256)},
	} {
		t.Run(name, func(t *testing.T) {
			got := member(t, newGzipCompressor(9), tt.pieces...)
			standard := member(t, estargz.NewGzipCompressorWithLevel(9), tt.pieces...)
			block := tt.stored[:min(len(tt.stored), storedMax)]
			if !bytes.Contains(got, block) {
				t.Error("not stored")
			}
			if limit := len(standard) + len(standard)/100 + len(tt.stored)/leastGain + 64; len(got) > limit {
				t.Errorf("%d bytes, want at most %d", len(got), limit)
			}
			if tt.stored == nil && len(got) > len(slices.Concat(tt.pieces...))*98/100+32 {
				t.Errorf("%d bytes: not compressed", len(got))
			}
		})
	}
}

// One member's encoder is the next one's, and nothing of the first is in the second.
func TestGzipWriterAgain(t *testing.T) {
	for _, level := range []int{1, 6, 9} {
		c := newGzipCompressor(level)
		text := []byte(strings.Repeat("all work and no play ", 500))
		want := member(t, c, text)
		for range 3 {
			member(t, c, values(300000, 240))
			if got := member(t, c, text); !bytes.Equal(got, want) {
				t.Fatalf("level %d: other bytes than the first time", level)
			}
		}
	}
}

type broken struct{ left int }

func (b *broken) Write(p []byte) (int, error) {
	if b.left -= len(p); b.left < 0 {
		return 0, io.ErrClosedPipe
	}
	return len(p), nil
}

func TestGzipWriterFails(t *testing.T) {
	for _, left := range []int{0, 10, 15, 20, 100000, segment + 30} {
		w, err := newGzipCompressor(9).Writer(&broken{left})
		if err == nil {
			_, err = w.Write(values(segment+5, 256))
		}
		if err == nil {
			err = w.Close()
		}
		if err == nil {
			t.Errorf("no error with room for %d bytes", left)
		}
	}
	w, err := newGzipCompressor(9).Writer(&broken{segment + 35 + 10 + 5 + 5 + 5 + 8})
	if err == nil {
		_, err = w.Write(values(segment+5, 256))
	}
	if err == nil {
		err = w.Close()
	}
	if err != nil {
		t.Errorf("with room for all: %v", err)
	}
}

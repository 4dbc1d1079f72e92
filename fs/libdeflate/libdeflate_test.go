package libdeflate

import (
	"bytes"
	"compress/gzip"
	"runtime"
	"testing"
)

const body = "all work and no play "

func member(t testing.TB) []byte {
	t.Helper()
	var buf bytes.Buffer
	z := gzip.NewWriter(&buf)
	if _, err := z.Write([]byte(body)); err != nil {
		t.Fatal(err)
	}
	if err := z.Close(); err != nil {
		t.Fatal(err)
	}
	return buf.Bytes()
}

func TestGunzip(t *testing.T) {
	src := member(t)
	damaged := bytes.Clone(src)
	damaged[len(src)-8]++ // the checksum
	for _, tt := range []struct {
		name string
		dst  int
		src  []byte
		ok   bool
	}{
		{"exactly", len(body), src, true},
		{"more room", 100, src, true},
		{"more behind", len(body), append(bytes.Clone(src), src...), true},
		{"too little room", len(body) - 1, src, false},
		{"no room", 0, src, false},
		{"nothing", 100, nil, false},
		{"truncated", 100, src[:len(src)-1], false},
		{"damaged", 100, damaged, false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			dst := make([]byte, tt.dst)
			switch n, used, ok := Gunzip(dst, tt.src); {
			case ok && used != len(src):
				t.Errorf("%d bytes of src, want %d", used, len(src))
			case ok != (tt.ok && Version != ""):
				t.Errorf("%d, %t", n, ok)
			case ok && string(dst[:n]) != body:
				t.Errorf("%q", dst[:n])
			}
		})
	}
}

// TestGunzipBetweenCollections loses decompressors to the collector and makes new ones.
func TestGunzipBetweenCollections(t *testing.T) {
	if Version == "" {
		t.Skip("built without libdeflate")
	}
	src, dst := member(t), make([]byte, len(body))
	for range 20 {
		runtime.GC()
		if n, _, ok := Gunzip(dst, src); !ok || string(dst[:n]) != body {
			t.Fatal("after a collection")
		}
	}
}

func BenchmarkGunzip(b *testing.B) {
	src, dst := member(b), make([]byte, len(body))
	b.ReportAllocs()
	for b.Loop() {
		Gunzip(dst, src)
	}
}

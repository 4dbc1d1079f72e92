//go:build libdeflate && cgo

package libdeflate

import "testing"

// Nothing of a call goes to Go's heap. The pool is left out: with the race detector it loses what it likes.
func TestGunzipAllocates(t *testing.T) {
	d := decompressors.New().(*decompressor)
	src, dst := member(t), make([]byte, len(body))
	if n := testing.AllocsPerRun(100, func() { d.gunzip(dst, src) }); n > 0 {
		t.Errorf("%v allocations", n)
	}
}

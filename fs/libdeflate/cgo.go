//go:build libdeflate && cgo

package libdeflate

/*
#cgo LDFLAGS: -l:libdeflate.a
#cgo noescape sluice_gunzip
#cgo nocallback sluice_gunzip
#include <stddef.h>
#include <libdeflate.h>

// Lengths by value: a pointer to them would have to be to C's memory, or to Go's heap.
struct sluice_lengths { ptrdiff_t out; size_t in; };

static struct sluice_lengths sluice_gunzip(struct libdeflate_decompressor *d, void *dst, size_t room, const void *src, size_t size) {
	struct sluice_lengths l;
	size_t n;
	l.out = libdeflate_gzip_decompress_ex(d, src, size, dst, room, &l.in, &n) == LIBDEFLATE_SUCCESS ? (ptrdiff_t)n : -1;
	return l;
}
*/
import "C"

import (
	"runtime"
	"sync"
	"unsafe"
)

// Version is the library's, empty without it.
const Version string = C.LIBDEFLATE_VERSION_STRING

// decompressor is some 10 KiB of C's memory, which go when the collector takes it from the pool.
type decompressor struct {
	c *C.struct_libdeflate_decompressor
}

var decompressors = sync.Pool{New: func() any {
	d := &decompressor{C.libdeflate_alloc_decompressor()}
	runtime.AddCleanup(d, func(c *C.struct_libdeflate_decompressor) { C.libdeflate_free_decompressor(c) }, d.c)
	return d
}}

// Gunzip decompresses the gzip member that src begins with, whatever follows it, into dst and returns its length, and how many bytes
// of src it takes, if all of it is sound, its checksum included, and fits. Otherwise ok is false, and dst has anything in it.
//
// It blocks for as long as that takes, some 2 ms a MiB, in a system call's place: other goroutines go on meanwhile, so more than
// GOMAXPROCS threads may be busy. Nothing of dst and src is kept.
func Gunzip(dst, src []byte) (n, used int, ok bool) {
	d := decompressors.Get().(*decompressor)
	if d.c == nil {
		return 0, 0, false // no memory
	}
	defer decompressors.Put(d)
	return d.gunzip(dst, src)
}

func (d *decompressor) gunzip(dst, src []byte) (n, used int, ok bool) {
	l := C.sluice_gunzip(d.c, unsafe.Pointer(unsafe.SliceData(dst)), C.size_t(len(dst)),
		unsafe.Pointer(unsafe.SliceData(src)), C.size_t(len(src)))
	if l.out < 0 {
		return 0, 0, false
	}
	return int(l.out), int(l.in), true
}

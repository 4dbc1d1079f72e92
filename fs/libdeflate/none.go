//go:build !libdeflate || !cgo

package libdeflate

// Version is the library's, empty without it.
const Version = ""

// Gunzip decompresses the gzip member that src begins with, if there is a library to do it. There is none.
func Gunzip(_, _ []byte) (n, used int, ok bool) { return 0, 0, false }

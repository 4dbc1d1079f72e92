// Package libdeflate decompresses gzip members that are in memory as a whole by libdeflate, a C library that is about
// three times as fast at it as what there is in Go. It is there if the program was built with the tag libdeflate, which
// needs cgo, the library's header and its static form (Debian: libdeflate-dev); without, Gunzip decompresses nothing.
//
// It is a package of its own because it is the only one with C in it: fs/toc, which decides what to do with a member
// that comes to nothing here, is the same Go in both builds, and both are tested by the same tests.
//
// All functions may be called concurrently.
package libdeflate

package toc

import (
	"archive/tar"
	"bytes"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"unicode/utf8"

	"github.com/containerd/stargz-snapshotter/estargz"
)

// follower goes through a tar once, beside what is shown.
type follower struct {
	Shown
	from   *origins
	in     *tar.Reader
	buf    []byte // of the tar
	shown  []byte // of Data
	counts int    // entries
}

func newFollower(s Shown, t Tar) *follower {
	from := &origins{tar: t}
	return &follower{Shown: s, from: from, in: tar.NewReader(from), buf: make([]byte, indexBuffer)}
}

// follow calls add with each entry of the tar, as its TOC has it.
func (f *follower) follow(add func(*estargz.TOCEntry) error) error {
	for {
		h, err := f.in.Next()
		switch {
		case f.from.err != nil:
			return f.from.err
		case errors.Is(err, io.EOF):
			return nil
		case err != nil:
			return differ("", "%v: %v", ErrTar, err)
		case h.Typeflag == tar.TypeXGlobalHeader:
			continue
		}
		if f.counts++; f.counts > MaxEntries {
			return differ(h.Name, "the tar has more than %d entries", MaxEntries)
		}
		e, err := entryOf(h)
		if err != nil {
			return differ(h.Name, "%v", err)
		}
		readAgain(e)
		if err := add(e); err != nil {
			return err
		}
	}
}

// readAgain makes of an entry what reading it from a TOC makes of it.
func readAgain(e *estargz.TOCEntry) {
	e.Name, e.LinkName = jsonString(e.Name), jsonString(e.LinkName)
	for _, name := range slices.Sorted(maps.Keys(e.Xattrs)) {
		if told := jsonString(name); told != name {
			e.Xattrs[told] = e.Xattrs[name]
			delete(e.Xattrs, name)
		}
	}
}

// jsonString is what JSON has of a string: for each byte that is not of UTF-8 U+FFFD.
func jsonString(s string) string {
	if utf8.ValidString(s) {
		return s
	}
	return string([]rune(s))
}

// origins reads a tar, and knows where the bytes of the last reads come from.
type origins struct {
	tar   Tar
	reads int   // since it was set to 0
	n     int   // bytes of the last one
	err   error // that is not of the tar, but of reading it
}

func (o *origins) Read(p []byte) (int, error) {
	n, err := o.tar.Read(p)
	o.reads++
	o.n = n
	if err != nil && !errors.Is(err, io.EOF) {
		o.err = err
	}
	return n, err
}

// contents compares a file of the tar, which in stands at, with size bytes of the address space from off on; off is -1 where they cannot be
// the same anyway. origin is where all of the file lies there by itself, -1 if it does not lie there in a row.
func (f *follower) contents(size, off int64) (same bool, origin int64, err error) {
	same, origin = off >= 0, -1
	for done := int64(0); done < size; {
		f.from.reads = 0
		n, err := f.in.Read(f.buf[:min(int64(len(f.buf)), size-done)])
		if f.from.err != nil {
			return false, 0, f.from.err
		}
		if n == 0 && err != nil {
			return false, 0, differ("", "%v: %v", ErrTar, err)
		}
		at := int64(-1)
		if f.from.reads == 1 && f.from.n == n {
			at = f.from.tar.Origin()
		}
		switch {
		case done == 0:
			origin = at
		case at < 0 || at != origin+done:
			origin = -1
		}
		if same && at != off+done {
			if same, err = f.reads(f.buf[:n], off+done); err != nil {
				return false, 0, err
			}
		}
		done += int64(n)
	}
	return same, origin, nil
}

// reads says whether the address space has p at off.
func (f *follower) reads(p []byte, off int64) (bool, error) {
	if f.shown == nil {
		f.shown = make([]byte, len(f.buf))
	}
	got := f.shown[:len(p)]
	if n, err := f.Data.ReadAt(got, off); n < len(got) {
		return false, fmt.Errorf("read data file at %d: %w", off, err)
	}
	return bytes.Equal(got, p), nil
}

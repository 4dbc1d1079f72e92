package main

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime/debug"
	"slices"

	"golang.org/x/sys/unix"
)

// mapping maps a file before anything has read it, shared and read-only, and private and writable, with a page more than it has.
func mapping(dir string) (_ string, err error) {
	f, err := os.Open(filepath.Join(dir, "map"))
	if err != nil {
		return "", err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return "", err
	}
	size, page := int(info.Size()), os.Getpagesize()
	whole := (size + page - 1) / page * page
	shared, err := mapped(f, whole+page, unix.PROT_READ, unix.MAP_SHARED)
	if err != nil {
		return "", err
	}
	defer func() { err = errors.Join(err, unix.Munmap(shared)) }()
	private, err := mapped(f, whole, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE)
	if err != nil {
		return "", err
	}
	defer func() { err = errors.Join(err, unix.Munmap(private)) }()
	content := slices.Clone(shared[:size])
	return fmt.Sprintf("%d bytes, %x", size, sha256.Sum256(content)), errors.Join(
		same(f, content), pageAtEnd(shared[size:whole], page), writable(private[:size], content), same(f, content),
		beyond(shared, whole), equal("the shared mapping", shared[:size], content))
}

func mapped(f *os.File, n, access, kind int) ([]byte, error) {
	p, err := unix.Mmap(int(f.Fd()), 0, n, access, kind)
	if err != nil {
		return nil, fmt.Errorf("mmap %s: %w", f.Name(), err)
	}
	return p, nil
}

// pageAtEnd checks what a mapping shows between the end of the file and that of its last page.
func pageAtEnd(rest []byte, page int) error {
	if len(rest) == 0 || len(rest) >= page {
		return fmt.Errorf("%d bytes between the end of the file and that of its page prove nothing", len(rest))
	}
	return equal("after the end of the file", rest, make([]byte, len(rest)))
}

// writable writes to a private mapping, which only that is to notice.
func writable(private, content []byte) error {
	if err := equal("the private mapping", private, content); err != nil {
		return err
	}
	want := slices.Clone(content)
	for i := 0; i < len(want); i += 100_000 {
		want[i]++
		private[i]++
	}
	return equal("the private mapping, written to", private, want)
}

// beyond checks that the page behind a file's last one raises SIGBUS. It is mapped, so that SIGSEGV cannot be what there is.
func beyond(shared []byte, at int) error {
	if b, fault := byteAt(shared, at); fault == nil {
		return fmt.Errorf("the page after the last one can be read: %#x", b)
	}
	if _, fault := byteAt(shared, at-1); fault != nil {
		return fmt.Errorf("the last page: %w", fault)
	}
	return nil
}

// byteAt reads one byte of a mapping; the error says that the kernel has none.
func byteAt(p []byte, at int) (b byte, err error) {
	defer debug.SetPanicOnFault(debug.SetPanicOnFault(true))
	defer func() {
		if v := recover(); v != nil {
			err = fmt.Errorf("fault: %v", v)
		}
	}()
	return p[at], nil
}

// same checks what read gives.
func same(f *os.File, content []byte) error {
	p := make([]byte, len(content))
	if _, err := f.ReadAt(p, 0); err != nil {
		return err
	}
	return equal("the file", p, content)
}

func equal(what string, got, want []byte) error {
	if bytes.Equal(got, want) {
		return nil
	}
	for i := range want {
		if got[i] != want[i] {
			return fmt.Errorf("%s: byte %d is %#x, want %#x", what, i, got[i], want[i])
		}
	}
	return fmt.Errorf("%s: %d bytes, want %d", what, len(got), len(want))
}

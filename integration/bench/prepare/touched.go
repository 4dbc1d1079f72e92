package prepare

import (
	"compress/gzip"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"unsafe"

	"github.com/opencontainers/go-digest"
	"golang.org/x/sys/unix"
)

// gzipLevel is that of ordinary layers.
const gzipLevel = 6

// touched finds out which pages of the file at path are in the page cache, how many bytes they compress to, and their digest.
func (f *File) touched(path string) (err error) {
	defer func() {
		if err != nil {
			err = fmt.Errorf("pages of %s: %w", path, err)
		}
	}()
	file, err := os.Open(path)
	if err != nil {
		return err
	}
	defer file.Close()
	info, err := file.Stat()
	if err != nil || info.Size() == 0 {
		return err
	}
	data, err := unix.Mmap(int(file.Fd()), 0, int(info.Size()), unix.PROT_READ, unix.MAP_SHARED)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, unix.Munmap(data)) }()
	page := os.Getpagesize()
	resident := make([]byte, (len(data)+page-1)/page)
	if err := mincore(data, resident); err != nil {
		return err
	}
	return f.measure(data, resident)
}

// measure takes the pages of data that are resident.
func (f *File) measure(data, resident []byte) error {
	if !slices.ContainsFunc(resident, func(page byte) bool { return page&1 == 1 }) {
		return nil // somebody has emptied the page cache meanwhile; the list has all of the file
	}
	n, sum := &counter{}, digest.Canonical.Digester()
	w, err := gzip.NewWriterLevel(io.MultiWriter(n, sum.Hash()), gzipLevel)
	if err != nil {
		return err
	}
	var ranges []string
	page := os.Getpagesize()
	for first, end := 0, 0; first < len(resident); first = end {
		for end = first; end < len(resident) && resident[end]&1 == resident[first]&1; {
			end++
		}
		if resident[first]&1 == 0 {
			continue
		}
		run := data[first*page : min(end*page, len(data))]
		if _, err := w.Write(run); err != nil {
			return err
		}
		if len(run) < len(data) {
			ranges = append(ranges, fmt.Sprintf("%d-%d", first*page, first*page+len(run)-1))
		}
	}
	err = w.Close()
	f.Bytes, f.Digest, f.Ranges = n.n, sum.Digest(), strings.Join(ranges, ",")
	return err
}

// mincore is mincore(2): a byte for each page, whose lowest bit says that it is in memory.
func mincore(data, pages []byte) error {
	_, _, errno := unix.Syscall(unix.SYS_MINCORE, uintptr(unsafe.Pointer(unsafe.SliceData(data))), uintptr(len(data)),
		uintptr(unsafe.Pointer(unsafe.SliceData(pages))))
	if errno != 0 {
		return fmt.Errorf("mincore: %w", errno)
	}
	return nil
}

type counter struct{ n int64 }

func (c *counter) Write(p []byte) (int, error) {
	c.n += int64(len(p))
	return len(p), nil
}

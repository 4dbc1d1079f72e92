package prepare

import (
	"compress/gzip"
	"errors"
	"fmt"
	"io"
	"os"
	"unsafe"

	"github.com/opencontainers/go-digest"
	"golang.org/x/sys/unix"
)

// gzipLevel is that of ordinary layers.
const gzipLevel = 6

// touched is how many bytes the pages of a file that are in the page cache compress to, and their digest.
func touched(path string) (_ int64, _ digest.Digest, err error) {
	defer func() {
		if err != nil {
			err = fmt.Errorf("pages of %s: %w", path, err)
		}
	}()
	f, err := os.Open(path)
	if err != nil {
		return 0, "", err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil || info.Size() == 0 {
		return 0, "", err
	}
	data, err := unix.Mmap(int(f.Fd()), 0, int(info.Size()), unix.PROT_READ, unix.MAP_SHARED)
	if err != nil {
		return 0, "", err
	}
	defer func() { err = errors.Join(err, unix.Munmap(data)) }()
	page := os.Getpagesize()
	resident := make([]byte, (len(data)+page-1)/page)
	if err := mincore(data, resident); err != nil {
		return 0, "", err
	}
	n, sum := &counter{}, digest.Canonical.Digester()
	w, err := gzip.NewWriterLevel(io.MultiWriter(n, sum.Hash()), gzipLevel)
	if err != nil {
		return 0, "", err
	}
	for i, r := range resident {
		if r&1 == 0 {
			continue
		}
		if _, err := w.Write(data[i*page : min((i+1)*page, len(data))]); err != nil {
			return 0, "", err
		}
	}
	err = w.Close()
	return n.n, sum.Digest(), err
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

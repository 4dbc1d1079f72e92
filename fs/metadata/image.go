package metadata

import (
	"errors"
	"fmt"
	"math"
	"os"
	"sync/atomic"

	"golang.org/x/sys/unix"
)

var (
	// ErrCorrupt is in every error about bytes that Write has not written.
	ErrCorrupt = errors.New("damaged metadata image")
	// ErrNoXattr says that an inode has no xattr of that name.
	ErrNoXattr = errors.New("no such xattr")
)

// Image is a metadata image, mapped into memory. No method blocks on anything but the pages of the file.
//
// Every number in the image is checked before it is used: a damaged image gives errors with ErrCorrupt in them, or
// wrong answers where the damage makes sense, but no panic and no endless loop. The exception is a file that is made
// shorter while it is mapped, which kills the process; so images are written under another name and renamed.
type Image struct {
	data     []byte // read only
	mapped   bool   // data is a file's
	inodes   uint64
	dataSize int64         // bytes of the address space
	looks    atomic.Uint32 // at inodes
}

// trimAfter is after how many looks at inodes the image is taken out of this process's memory. It stays in the page cache, so that the
// next looks cost some page faults: nothing beside so many requests of the kernel, and a walk over everything does not leave 20 MB
// resident for each layer. (Since Linux 6.18 a fault maps the whole folio, often 2 MiB.)
const trimAfter = 4096

// Open maps the image at path. The file may be removed or renamed afterwards. ErrCorrupt is in the error if it is
// not an image that Write has written.
func Open(path string) (*Image, error) {
	im, err := openImage(path)
	if err != nil {
		return nil, fmt.Errorf("open metadata image %s: %w", path, err)
	}
	return im, nil
}

func openImage(path string) (*Image, error) {
	data, err := mapFile(path)
	if err != nil {
		return nil, err
	}
	im, err := newImage(data)
	if err != nil {
		return nil, errors.Join(err, unix.Munmap(data))
	}
	im.mapped = true
	im.trim() // the superblock
	return im, nil
}

func mapFile(path string) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return nil, err
	}
	if info.Size() < blockSize || info.Size() > maxImage {
		return nil, corrupt("%d bytes are no image", info.Size())
	}
	return unix.Mmap(int(f.Fd()), 0, int(info.Size()), unix.PROT_READ, unix.MAP_SHARED)
}

// Close takes the mapping away. Nothing that the methods have returned lies in it.
func (im *Image) Close() error {
	data := im.data
	im.data = nil
	if data == nil {
		return nil
	}
	return unix.Munmap(data)
}

// newImage checks the superblock in data.
func newImage(data []byte) (*Image, error) {
	if len(data) < blockSize || len(data)%blockSize != 0 || int64(len(data)) > maxImage {
		return nil, corrupt("%d bytes are no image", len(data))
	}
	super, err := decodeSuper(data[:blockSize], uint32(len(data)/blockSize))
	if err != nil {
		return nil, err
	}
	return &Image{data: data, inodes: super.inodes, dataSize: super.dataSize}, nil
}

// Root is the nid of the root directory.
func (im *Image) Root() uint64 { return rootNID }

// NumInodes is how many inodes the image has.
func (im *Image) NumInodes() uint64 { return im.inodes }

// corrupt makes an error with ErrCorrupt in it.
func corrupt(format string, args ...any) error {
	return fmt.Errorf("%w: %s", ErrCorrupt, fmt.Sprintf(format, args...))
}

// look counts a look at an inode.
func (im *Image) look() {
	if im.looks.Add(1)%trimAfter == 0 {
		im.trim()
	}
}

func (im *Image) trim() {
	if im.mapped {
		_ = unix.Madvise(im.data, unix.MADV_DONTNEED) // a mapping has no reason to refuse, and nothing is lost if it does
	}
}

// slice is data[off:off+n] if all of it is there.
func (im *Image) slice(off, n int64) ([]byte, bool) {
	if off < 0 || n < 0 || off > math.MaxInt64-n || off+n > int64(len(im.data)) {
		return nil, false
	}
	return im.data[off : off+n : off+n], true
}

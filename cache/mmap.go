package cache

import (
	"os"
	"unsafe"

	"golang.org/x/sys/unix"
)

// mapping is a whole file mapped into memory; an empty file is an empty mapping.
type mapping []byte

func mapFile(name string, write bool) (mapping, error) {
	flag, prot := os.O_RDONLY, unix.PROT_READ
	if write {
		flag, prot = os.O_RDWR, unix.PROT_READ|unix.PROT_WRITE
	}
	f, err := openFile(name, flag)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	st, err := f.Stat()
	if err != nil || st.Size() == 0 {
		return nil, err
	}
	b, err := unix.Mmap(int(f.Fd()), 0, int(st.Size()), prot, unix.MAP_SHARED)
	if err != nil {
		return nil, &os.PathError{Op: "mmap", Path: name, Err: err}
	}
	return b, nil
}

// trim takes the pages of a file that is not written to out of this process's memory. They stay in the page cache, so that using
// them again costs a page fault and no more. (Since Linux 6.18 a fault maps the whole folio, often 2 MiB: what was looked at once
// counts for much.)
func (m mapping) trim() {
	if m != nil {
		_ = unix.Madvise(m, unix.MADV_DONTNEED) // a mapping has no reason to refuse, and nothing is lost if it does
	}
}

// replace has m be a mapping of another file of the same length and contents. To who reads m meanwhile nothing changes.
func (m mapping) replace(name string, prot int) error {
	f, err := os.OpenFile(name, os.O_RDWR, 0)
	if err != nil {
		return err
	}
	defer f.Close()
	at := unsafe.Pointer(unsafe.SliceData(m))
	if _, err := unix.MmapPtr(int(f.Fd()), 0, at, uintptr(len(m)), prot, unix.MAP_SHARED|unix.MAP_FIXED); err != nil {
		return &os.PathError{Op: "mmap", Path: name, Err: err}
	}
	return nil
}

func (m mapping) unmap() error {
	if m == nil {
		return nil
	}
	return unix.Munmap(m)
}

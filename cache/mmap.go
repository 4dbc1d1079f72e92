package cache

import (
	"os"

	"golang.org/x/sys/unix"
)

// mapping is a whole file mapped into memory; an empty file is an empty mapping.
type mapping []byte

func mapFile(name string, write bool) (mapping, error) {
	flag, prot := os.O_RDONLY, unix.PROT_READ
	if write {
		flag, prot = os.O_RDWR, unix.PROT_READ|unix.PROT_WRITE
	}
	f, err := os.OpenFile(name, flag, 0)
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

func (m mapping) unmap() error {
	if m == nil {
		return nil
	}
	return unix.Munmap(m)
}

package metadata

import (
	"bytes"
	"errors"
	"io/fs"

	"golang.org/x/sys/unix"
)

// Dirent is one entry of a directory.
type Dirent struct {
	Name string
	NID  uint64
	Type uint32 // S_IFMT type of the inode
	Next uint64 // the cursor of what follows; never 0
}

var errNotDir = errors.New("not a directory")

// Lookup returns the nid that directory dir has under name; fs.ErrNotExist is in the error if there is none.
func (im *Image) Lookup(dir uint64, name string) (uint64, error) {
	in, err := im.directory(dir)
	if err != nil {
		return 0, err
	}
	// The last block whose first name is not behind name is the only one that can have it.
	first, end := int64(0), in.numBlocks()
	for first < end {
		mid := first + (end-first)/2
		b, n := im.entries(in, mid)
		got, ok := b.name(0, n)
		switch {
		case !ok:
			return 0, corrupt("directory %d: block %d", dir, mid)
		case name < string(got):
			end = mid
		default:
			first = mid + 1
		}
	}
	if first == 0 {
		return 0, fs.ErrNotExist
	}
	return im.find(in, first-1, name)
}

// find looks for name in one block of directory in.
func (im *Image) find(in located, block int64, name string) (uint64, error) {
	b, n := im.entries(in, block)
	for first, end := 0, n; first < end; {
		mid := first + (end-first)/2
		got, ok := b.name(mid, n)
		switch {
		case !ok:
			return 0, corrupt("directory %d: block %d", in.pos/nidUnit, block)
		case name == string(got):
			return b.nid(mid), nil
		case name < string(got):
			end = mid
		default:
			first = mid + 1
		}
	}
	return 0, fs.ErrNotExist
}

// ReadDir calls emit with the entries of directory dir, "." and ".." among them, in the order of their bytes, until
// emit returns false. It begins with the first entry if from is 0, else behind the one whose Next it is. A cursor
// stays good for as long as the file is the same, in other processes too; one that no entry has given is rounded up.
func (im *Image) ReadDir(dir uint64, from uint64, emit func(Dirent) bool) error {
	in, err := im.directory(dir)
	if err != nil {
		return err
	}
	if from >= uint64(in.Size) {
		return nil
	}
	i := (int(from%blockSize) + direntLen - 1) / direntLen
	for block := int64(from / blockSize); block < in.numBlocks(); block++ {
		b, n := im.entries(in, block)
		if n == 0 {
			return corrupt("directory %d: block %d", dir, block)
		}
		more, ok := b.emit(i, n, uint64(block), emit)
		if !ok {
			return corrupt("directory %d: block %d", dir, block)
		}
		if !more {
			return nil
		}
		i = 0
	}
	return nil
}

func (im *Image) directory(nid uint64) (located, error) {
	in, err := im.inode(nid)
	if err == nil && in.Mode&unix.S_IFMT != unix.S_IFDIR {
		err = errNotDir
	}
	return in, err
}

// entries is block i of a directory and how many entries it has, 0 if it is damaged.
func (im *Image) entries(in located, i int64) (dirBlock, int) {
	b := dirBlock(im.block(in, i))
	if len(b) < direntLen {
		return b, 0
	}
	n := b.nameOff(0) / direntLen
	if n*direntLen != b.nameOff(0) || n*direntLen > len(b) {
		return b, 0
	}
	return b, n
}

// dirBlock is a block of entries: n records of direntLen bytes in the order of their names, then the names, end to
// end. The last name ends with the block, or with a NUL if it does not fill it.
type dirBlock []byte

func (b dirBlock) nid(i int) uint64  { return le.Uint64(b[i*direntLen:]) }
func (b dirBlock) nameOff(i int) int { return int(le.Uint16(b[i*direntLen+8:])) }
func (b dirBlock) kind(i int) uint8  { return b[i*direntLen+10] }

// name is the name of entry i of n; false if i is none, or its name none.
func (b dirBlock) name(i, n int) ([]byte, bool) {
	start, end, ok := b.span(i, n)
	return b[start:end], ok
}

func (b dirBlock) span(i, n int) (start, end int, ok bool) {
	if i >= n {
		return 0, 0, false
	}
	start, end = b.nameOff(i), len(b)
	if start < n*direntLen || start >= end {
		return 0, 0, false
	}
	if i+1 < n {
		end = b.nameOff(i + 1)
	} else if nul := bytes.IndexByte(b[start:], 0); nul >= 0 {
		end = start + nul
	}
	if end > len(b) || end <= start || end-start > maxName {
		return 0, 0, false
	}
	return start, end, true
}

// emit passes on entries [i, n) of block number block. more is whether emit has returned true for all of them.
func (b dirBlock) emit(i, n int, block uint64, emit func(Dirent) bool) (more, ok bool) {
	names := string(b[n*direntLen:]) // one allocation for all the names of a block
	for ; i < n; i++ {
		start, end, ok := b.span(i, n)
		kind := int(b.kind(i))
		if !ok || kind >= len(fileTypes) {
			return false, false
		}
		next := block*blockSize + uint64(i+1)*direntLen
		if i+1 == n {
			next = (block + 1) * blockSize
		}
		d := Dirent{Name: names[start-n*direntLen : end-n*direntLen], NID: b.nid(i), Type: fileTypes[kind], Next: next}
		if !emit(d) {
			return false, true
		}
	}
	return true, true
}

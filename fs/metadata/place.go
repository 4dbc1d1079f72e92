package metadata

import (
	"errors"

	"golang.org/x/sys/unix"
)

// maxImage is the bytes that a nid of 32 bits can reach.
const maxImage = nidUnit << 32

// place gives every inode its nid, in order, and every whole block its number.
func (p *plan) place() error {
	off := int64(inodesStart)
	for i := range p.inodes {
		n := p.measure(&p.inodes[i])
		off = roundUp(off, nidUnit)
		// Nothing that fits in one block lies in two: the format asks that of inline data and the kernel reads
		// the rest with one page less.
		if off%blockSize+min(n, blockSize) > blockSize {
			off = roundUp(off, blockSize)
		}
		p.inodes[i].nid = uint32(off / nidUnit)
		if off += n; off > maxImage {
			return errors.New("tree is too large for one image")
		}
	}
	p.metaEnd = roundUp(off, blockSize)
	return p.placeBlocks()
}

// measure chooses the layout of an inode and returns the bytes that it takes, with all that follows it.
func (p *plan) measure(in *planned) int64 {
	head := inodeLen + int64(in.xattrLen)
	switch in.node.Mode & unix.S_IFMT {
	case unix.S_IFREG:
		in.size = in.node.Size
		if in.size == 0 {
			return head
		}
		in.layout = layoutChunked
		return roundUp(head, chunkIndexLen) + numChunks(in.size)*chunkIndexLen
	case unix.S_IFDIR:
		in.size = p.dirSize(in)
	case unix.S_IFLNK:
		in.size = int64(len(in.node.Target))
	}
	if tail := in.size % blockSize; tail > 0 && head+tail <= blockSize {
		in.layout = layoutInline
		return head + tail
	}
	return head
}

// placeBlocks lays the whole blocks of directories and of long symlink targets behind the inodes.
func (p *plan) placeBlocks() error {
	next := p.metaEnd / blockSize
	for i := range p.inodes {
		if n := p.inodes[i].wholeBlocks(); n > 0 {
			p.inodes[i].block = uint32(next)
			next += n
		}
	}
	if next > maxImage/blockSize {
		return errors.New("tree is too large for one image")
	}
	p.blocks = uint32(next)
	return nil
}

// wholeBlocks is how many blocks of in's contents do not follow it.
func (in *planned) wholeBlocks() int64 {
	switch in.layout {
	case layoutChunked:
		return 0
	case layoutInline:
		return in.size / blockSize
	}
	return roundUp(in.size, blockSize) / blockSize
}

// dirSize is the bytes of a directory: full blocks, and what the last one holds.
func (p *plan) dirSize(in *planned) int64 {
	size := int64(0)
	for first := in.first; first < in.last; {
		next, used := p.fitBlock(first, in.last)
		if next == in.last {
			return size + int64(used)
		}
		size += blockSize
		first = next
	}
	return size
}

// fitBlock returns the entry after those of [first, last) that fit in one block, and the bytes that they take.
func (p *plan) fitBlock(first, last uint32) (next uint32, used int) {
	for next = first; next < last; next++ {
		n := direntLen + len(p.entries[next].name)
		if used+n > blockSize {
			break
		}
		used += n
	}
	return next, used
}

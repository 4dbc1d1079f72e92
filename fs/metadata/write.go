package metadata

import (
	"bufio"
	"crypto/sha256"
	"fmt"
	"io"

	"golang.org/x/sys/unix"
)

// writeBuffer is bytes collected before each call of the Writer. The page cache keeps them in folios as large as that, which are
// mapped whole by a look at one inode: 64 KiB is what older kernels map around a fault.
const writeBuffer = 64 << 10

// Write writes the metadata image of the tree under root. It looks at the whole tree before it writes anything, and
// an error about the tree names the path. It needs some 100 bytes of memory per node on top of the tree, which must not
// change meanwhile, and numbers the nodes: no other Write may look at them.
func Write(w io.Writer, root *Node, o Options) error {
	p, err := newPlan(root, o)
	if err != nil {
		return fmt.Errorf("write metadata image: %w", err)
	}
	// The UUID stands in the first block and is made of all the others, so they are made twice: that costs less
	// than keeping them. Overlayfs tells lower file systems apart by it.
	hash := sha256.New()
	err = p.encode(hash, nil)
	if err == nil {
		super := superblock{inodes: uint64(len(p.inodes)), blocks: p.blocks, dataSize: p.dataSize}
		copy(super.uuid[:], hash.Sum(nil))
		err = p.encode(w, super.encode())
	}
	if err != nil {
		return fmt.Errorf("write metadata image: %w", err)
	}
	return nil
}

// encode writes super and everything after it.
func (p *plan) encode(w io.Writer, super []byte) error {
	e := &encoder{plan: p, w: bufio.NewWriterSize(w, writeBuffer), off: inodesStart}
	_, _ = e.w.Write(super) // a bufio.Writer keeps its first error for Flush
	for i := range p.inodes {
		e.inode(uint32(i))
	}
	e.pad(p.metaEnd)
	for i := range p.inodes {
		e.wholeBlocks(&p.inodes[i])
	}
	return e.w.Flush()
}

// encoder is the second pass: it writes a plan from front to back.
type encoder struct {
	*plan
	w     *bufio.Writer
	off   int64 // bytes into the image
	buf   []byte
	block [blockSize]byte
}

// write leaves errors to Flush.
func (e *encoder) write(b []byte) {
	_, _ = e.w.Write(b)
	e.off += int64(len(b))
}

// zeros is what pads: no gap is as long as two blocks.
var zeros [2 * blockSize]byte

// pad writes zeros up to image offset to.
func (e *encoder) pad(to int64) { e.write(zeros[:to-e.off]) }

func (e *encoder) inode(i uint32) {
	in := &e.inodes[i]
	n := in.node
	e.pad(int64(in.nid) * nidUnit)

	b := append(e.buf[:0], zeros[:inodeLen]...)
	le.PutUint16(b[0:], formatExtended|uint16(in.layout)<<1)
	le.PutUint16(b[4:], uint16(n.Mode))
	le.PutUint64(b[8:], uint64(in.size))
	le.PutUint32(b[16:], in.union())
	le.PutUint32(b[20:], i+1)
	le.PutUint32(b[24:], n.UID)
	le.PutUint32(b[28:], n.GID)
	le.PutUint64(b[32:], uint64(n.Mtime.Unix()))
	le.PutUint32(b[40:], uint32(n.Mtime.Nanosecond()))
	le.PutUint32(b[44:], in.links)
	if in.xattrLen > 0 {
		le.PutUint16(b[2:], uint16((in.xattrLen-xattrHeaderLen)/4+1))
		b = appendXattrs(b, n.Xattrs)
	}
	switch in.layout {
	case layoutChunked:
		b = appendChunks(b, n)
	case layoutInline:
		b = append(b, e.tail(in)...)
	}
	e.write(b)
	e.buf = b
}

// union is the field whose meaning depends on the type of inode.
func (in *planned) union() uint32 {
	switch {
	case in.layout == layoutChunked:
		return chunkIndexes | uint32(chunkBits(in.size))
	case isDevice(in.node.Mode):
		return uint32(in.node.Rdev)
	}
	return in.block
}

func appendChunks(b []byte, n *Node) []byte {
	b = append(b, zeros[:roundUp(len(b), chunkIndexLen)-len(b)]...)
	for i := range numChunks(n.Size) {
		block := n.Offset/blockSize + i<<chunkBits(n.Size)
		b = le.AppendUint16(b, 0)
		b = le.AppendUint16(b, dataDevice)
		b = le.AppendUint32(b, uint32(block))
	}
	return b
}

// tail is the last, partial block of a directory or the target of a symlink, until the next call.
func (e *encoder) tail(in *planned) []byte {
	if in.node.Mode&unix.S_IFMT == unix.S_IFLNK {
		return e.block[:copy(e.block[:], in.node.Target)]
	}
	first := in.first
	for {
		next, used := e.fitBlock(first, in.last)
		if next == in.last {
			e.fillBlock(first, next)
			return e.block[:used]
		}
		first = next
	}
}

// wholeBlocks writes the blocks of in that placeBlocks has placed.
func (e *encoder) wholeBlocks(in *planned) {
	n := in.wholeBlocks()
	if n > 0 && in.node.Mode&unix.S_IFMT == unix.S_IFLNK {
		e.write([]byte(in.node.Target))
		e.pad(roundUp(e.off, blockSize))
		return
	}
	for first := in.first; n > 0; n-- {
		next, used := e.fitBlock(first, in.last)
		e.fillBlock(first, next)
		clear(e.block[used:])
		e.write(e.block[:])
		first = next
	}
}

// fillBlock puts entries [first, last) into e.block: fixed-size records first, then the names.
func (e *encoder) fillBlock(first, last uint32) {
	b := e.block[:]
	nameOff := int(last-first) * direntLen
	for _, d := range e.entries[first:last] {
		child := &e.inodes[d.inode]
		le.PutUint64(b[0:], uint64(child.nid))
		le.PutUint16(b[8:], uint16(nameOff))
		b[10], b[11] = fileType(child.node.Mode), 0
		b = b[direntLen:]
		nameOff += copy(e.block[nameOff:], d.name)
	}
}

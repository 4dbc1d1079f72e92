package metadata

import (
	"errors"
	"time"

	"golang.org/x/sys/unix"
)

// Inode is what stat(2) reports of an inode, and where the bytes of a regular file lie.
type Inode struct {
	Mode     uint32 // type and permission, as Node.Mode
	UID, GID uint32
	Nlink    uint32
	Mtime    time.Time // UTC
	Rdev     uint64    // character and block devices
	Size     int64     // bytes: of a file, a symlink's target, a directory's entries
	Offset   int64     // regular files that are not empty: bytes into the address space
}

// Inode reads the inode nid.
func (im *Image) Inode(nid uint64) (Inode, error) {
	in, err := im.inode(nid)
	return in.Inode, err
}

// Readlink returns the target of the symlink nid.
func (im *Image) Readlink(nid uint64) (string, error) {
	in, err := im.inode(nid)
	if err != nil {
		return "", err
	}
	if in.Mode&unix.S_IFMT != unix.S_IFLNK {
		return "", errors.New("not a symlink")
	}
	return string(im.block(in, 0)), nil
}

// located is a checked inode: what its fields say is within the image, and Size fits what there is.
type located struct {
	Inode
	pos      int64  // bytes into the image
	layout   uint16 // layoutPlain, layoutInline or layoutChunked
	union    uint32 // the block address, chunk format or device
	xattrLen int64  // bytes of the xattr area behind the inode
}

func (im *Image) inode(nid uint64) (located, error) {
	if nid < rootNID || nid >= uint64(len(im.data)/nidUnit) {
		return located{}, corrupt("inode %d: out of range", nid)
	}
	im.look()
	pos := int64(nid) * nidUnit
	b, ok := im.slice(pos, inodeLen)
	if !ok {
		return located{}, corrupt("inode %d: out of range", nid)
	}
	in := located{
		Inode: Inode{
			Mode:  uint32(le.Uint16(b[4:])),
			Size:  int64(le.Uint64(b[8:])),
			UID:   le.Uint32(b[24:]),
			GID:   le.Uint32(b[28:]),
			Nlink: le.Uint32(b[44:]),
			Mtime: time.Unix(int64(le.Uint64(b[32:])), int64(le.Uint32(b[40:]))).UTC(),
		},
		pos:    pos,
		layout: le.Uint16(b) >> 1,
		union:  le.Uint32(b[16:]),
	}
	if n := int64(le.Uint16(b[2:])); n > 0 {
		in.xattrLen = xattrHeaderLen + 4*(n-1)
	}
	if _, ok := im.slice(pos, inodeLen+in.xattrLen); !ok || le.Uint16(b)&formatExtended == 0 {
		return located{}, corrupt("inode %d: no inode as sluice writes it", nid)
	}
	if !im.locate(&in) {
		return located{}, corrupt("inode %d: contents are not where they can be", nid)
	}
	return in, nil
}

// locate checks what depends on the type of inode, and fills in what comes from it.
func (im *Image) locate(in *located) bool {
	switch in.Mode & unix.S_IFMT {
	case unix.S_IFREG:
		if in.Size == 0 {
			return in.layout == layoutPlain
		}
		return in.layout == layoutChunked && im.locateData(in)
	case unix.S_IFDIR:
		return in.Size > 0 && im.locateBlocks(in)
	case unix.S_IFLNK:
		return in.Size > 0 && in.Size <= maxTarget && im.locateBlocks(in)
	case unix.S_IFCHR, unix.S_IFBLK:
		in.Rdev = uint64(in.union)
	case unix.S_IFIFO, unix.S_IFSOCK:
	default:
		return false
	}
	return in.layout == layoutPlain && in.Size == 0
}

// locateData checks that the chunks of a file are one run within the address space.
func (im *Image) locateData(in *located) bool {
	if in.Size < 0 || in.Size > im.dataSize || in.union != chunkIndexes|uint32(chunkBits(in.Size)) {
		return false
	}
	n := numChunks(in.Size)
	indexes, ok := im.slice(in.pos+roundUp(inodeLen+in.xattrLen, chunkIndexLen), n*chunkIndexLen)
	if !ok {
		return false
	}
	first := le.Uint32(indexes[4:])
	for i := range n {
		index := indexes[i*chunkIndexLen:]
		at := int64(first) + i<<chunkBits(in.Size)
		if le.Uint32(index) != dataDevice<<16 || int64(le.Uint32(index[4:])) != at {
			return false
		}
	}
	in.Offset = int64(first) * blockSize
	return in.Offset <= im.dataSize-in.Size
}

// locateBlocks checks that whole blocks are within the image, and that inline data is within one block.
func (im *Image) locateBlocks(in *located) bool {
	whole := roundUp(min(in.Size, maxImage), blockSize)
	switch in.layout {
	case layoutPlain:
	case layoutInline:
		tail := in.Size % blockSize
		start := in.pos + inodeLen + in.xattrLen
		if tail == 0 || start%blockSize+tail > blockSize || start+tail > int64(len(im.data)) {
			return false
		}
		whole -= blockSize
	default:
		return false
	}
	_, ok := im.slice(int64(in.union)*blockSize, whole)
	return ok && in.Size <= int64(len(im.data))
}

// numBlocks is how many blocks the contents of a directory or symlink have, the last one often partial.
func (in *located) numBlocks() int64 { return roundUp(in.Size, blockSize) / blockSize }

// block is block i of the contents of a directory or symlink, which must be less than numBlocks. It lies in the
// mapping.
func (im *Image) block(in located, i int64) []byte {
	n := min(blockSize, in.Size-i*blockSize)
	if in.layout == layoutInline && i == in.numBlocks()-1 {
		return im.data[in.pos+inodeLen+in.xattrLen:][:n]
	}
	return im.data[(int64(in.union)+i)*blockSize:][:n]
}

package metadata

import (
	"encoding/binary"
	"hash/crc32"

	"golang.org/x/sys/unix"
)

// The on-disk format, from Linux fs/erofs/erofs_fs.h (the parts that Write uses). All numbers are little endian.
const (
	blockBits = 12
	blockSize = 1 << blockBits

	superOffset = 1024 // of the superblock in block 0
	superMagic  = 0xe0f5e1e2
	superLen    = 128
	slotLen     = 128 // of a device slot
	slotIndex   = (superOffset + superLen) / slotLen

	compatChecksum  = 0x1
	compatMtime     = 0x2 // the time in an inode is mtime, not ctime
	incompatChunked = 0x4 // chunk-based inodes
	incompatDevices = 0x8 // a device table
	ourCompat       = compatChecksum | compatMtime
	ourIncompat     = incompatChunked | incompatDevices

	inodesStart = blockSize // block 0 holds nothing but superblock and device slot
	rootNID     = inodesStart / nidUnit
	nidUnit     = 32

	inodeLen       = 64 // extended inodes, the ones with a time
	formatExtended = 1  // bit 0 of an inode's format; the data layout follows in bits 1 to 3
	layoutPlain    = 0  // whole blocks from the inode's block address on
	layoutInline   = 2  // the same, but the last, partial block follows the inode
	layoutChunked  = 4  // chunk indexes follow the inode

	chunkIndexes  = 0x20
	maxChunkBits  = 18 // blocks per chunk, as a power of two: 1 GiB
	chunkIndexLen = 8
	dataDevice    = 1

	direntLen = 12
	maxName   = 255
	maxTarget = 4095      // PATH_MAX less the NUL
	maxBlocks = 1<<32 - 1 // a block address of all ones means a hole

	xattrHeaderLen = 12        // before an inode's xattrs
	xattrEntryLen  = 4         // before a name and its value
	maxXattrValue  = 1<<16 - 1 // a 16-bit length, one less than Linux's XATTR_SIZE_MAX
	maxXattrArea   = xattrHeaderLen + 4*(1<<16-2)

	maxRdev  = 1<<32 - 1 // 12 bits major, 20 minor
	modeBits = 0o7777
)

var le = binary.LittleEndian

// fileTypes are the types of directory entries: their on-disk numbers are the indexes.
var fileTypes = [...]uint32{0, unix.S_IFREG, unix.S_IFDIR, unix.S_IFCHR, unix.S_IFBLK, unix.S_IFIFO, unix.S_IFSOCK, unix.S_IFLNK}

// fileType is the on-disk number of the type in mode, 0 if there is no such type.
func fileType(mode uint32) uint8 {
	for i, t := range fileTypes {
		if mode&unix.S_IFMT == t {
			return uint8(i)
		}
	}
	return 0
}

// isDevice reports whether mode is a device's, the only inodes that have an Rdev.
func isDevice(mode uint32) bool {
	return mode&unix.S_IFMT == unix.S_IFCHR || mode&unix.S_IFMT == unix.S_IFBLK
}

func roundUp[T int | int64 | uint32](n, unit T) T { return (n + unit - 1) / unit * unit }

// chunkBits is the smallest power of two of blocks that covers size bytes, so that most files are one chunk, but at most
// 1 GiB. The format has chunks of up to 8 TiB, and the kernel reads them, but fsck.erofs 1.5 has room for 32 bits.
func chunkBits(size int64) uint {
	bits := uint(0)
	for bits < maxChunkBits && int64(blockSize)<<bits < size {
		bits++
	}
	return bits
}

// numChunks is how many chunks of chunkBits(size) cover size bytes.
func numChunks(size int64) int64 {
	shift := blockBits + chunkBits(size)
	return (size-1)>>shift + 1
}

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// superChecksum is the checksum of block 0 from the superblock on. Its own field must be zero in b. EROFS leaves
// out the final inversion of CRC-32C.
func superChecksum(b []byte) uint32 { return ^crc32.Checksum(b, castagnoli) }

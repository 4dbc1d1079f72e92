package metadata

// superblock is what may differ between the first blocks of two images.
type superblock struct {
	inodes   uint64
	blocks   uint32 // of the image
	uuid     [16]byte
	dataSize int64 // bytes of the data device, a multiple of blockSize
}

// encode makes block 0: the superblock, and the slot of the data device in the device table.
func (s superblock) encode() []byte {
	block := make([]byte, blockSize)
	sb := block[superOffset:]
	le.PutUint32(sb[0:], superMagic)
	le.PutUint32(sb[8:], ourCompat)
	sb[12] = blockBits
	le.PutUint16(sb[14:], rootNID)
	le.PutUint64(sb[16:], s.inodes)
	le.PutUint32(sb[36:], s.blocks)
	copy(sb[48:64], s.uuid[:])
	le.PutUint32(sb[80:], ourIncompat)
	le.PutUint16(sb[86:], dataDevice) // how many devices there are
	le.PutUint16(sb[88:], slotIndex)
	slot := block[slotIndex*slotLen:]
	le.PutUint32(slot[64:], uint32(s.dataSize/blockSize))
	le.PutUint32(sb[4:], superChecksum(sb))
	return block
}

// decodeSuper reads the first block of an image of blocks blocks. Other EROFS images than those of Write are sound,
// but not for this reader: so whatever encode would not have made is refused.
func decodeSuper(block []byte, blocks uint32) (superblock, error) {
	sb := block[superOffset:]
	if magic := le.Uint32(sb); magic != superMagic {
		return superblock{}, corrupt("magic number %#x is not that of EROFS", magic)
	}
	s := superblock{
		inodes:   le.Uint64(sb[16:]),
		blocks:   blocks,
		uuid:     [16]byte(sb[48:64]),
		dataSize: int64(le.Uint32(block[slotIndex*slotLen+64:])) * blockSize,
	}
	if got := le.Uint32(sb[36:]); got != blocks {
		return superblock{}, corrupt("superblock tells of %d blocks, file has %d", got, blocks)
	}
	if string(s.encode()) != string(block) {
		return superblock{}, corrupt("superblock is not as sluice writes it")
	}
	return s, nil
}

package layer

import (
	"errors"
	"os"
)

// A few bytes of zstd decompress to any number of zeros, so what a tar may have besides its chunks has a limit. It is made of what a layer really
// has of which there can be much, each with room to spare:
//
//   - headers, with their padding, PAX records and long names: 512 bytes to some KiB for each name. A name takes at least 13 bytes of the
//     metadata image, and an inode 32 more; long names, and xattrs, stand in it too;
//   - the TOC of eStargz, a file of the tar: some 400 bytes for each of those, or for a chunk;
//   - holes, and files that a later entry replaces: as much as all files together;
//   - records that are in no TOC, which archive/tar allows a MiB of in each header: they are compressed as other text is;
//   - whatever it may be, in a layer of any size.
const (
	looseBytes   = 64 << 20
	loosePerMeta = 256 // bytes for a byte of the metadata image
	loosePerBlob = 16  // and for one of the blob
)

var errLoose = errors.New("it decompresses to more bytes that are in no file than any tar has")

// mostLoose is how many bytes the layer's tar may have that are in no chunk.
func (l *Layer) mostLoose() (int64, error) {
	st, err := os.Stat(l.store.MetadataPath())
	if err != nil {
		return 0, err
	}
	info := l.store.Info()
	return looseBytes + loosePerMeta*st.Size() + loosePerBlob*info.BlobSize + info.DataSize, nil
}

package plain

import (
	"bytes"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// The formats of plain layers, as status names them.
const (
	Gzip = "gzip"
	Zstd = "zstd"
	Tar  = "tar"
)

// compression tells the format from the first bytes of a blob, as containerd does (pkg/archive/compression): the media type is only
// believed when it says that there is none.
func compression(mediaType string, head []byte) string {
	switch {
	case mediaType == ocispec.MediaTypeImageLayer:
		return Tar
	case bytes.HasPrefix(head, []byte{0x1f, 0x8b, 0x08}):
		return Gzip
	case bytes.HasPrefix(head, []byte{0x28, 0xb5, 0x2f, 0xfd}),
		len(head) >= 4 && head[0]&0xf0 == 0x50 && bytes.Equal(head[1:4], []byte{0x2a, 0x4d, 0x18}): // a skippable frame
		return Zstd
	}
	return Tar
}

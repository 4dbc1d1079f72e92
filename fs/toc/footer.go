package toc

import (
	"encoding/binary"
	"fmt"

	"github.com/containerd/stargz-snapshotter/estargz"
	"github.com/containerd/stargz-snapshotter/estargz/zstdchunked"
)

// footer is where a blob's TOC lies, checked to be inside the blob.
type footer struct {
	format      Format
	payloadSize int64
	tocOffset   int64 // bytes into the blob
	tocSize     int64 // compressed
}

// footerKind is one of the footers that a blob may end in.
type footerKind struct {
	format  Format
	decoder estargz.Decompressor
	safe    func(p []byte) bool // whether the decoder can be given these bytes
}

// footerKinds are told apart by their magic, so their order does not matter.
func footerKinds() []footerKind {
	return []footerKind{
		{EStargz, new(estargz.GzipDecompressor), hasWholeExtra},
		{EStargz, new(estargz.LegacyGzipDecompressor), func([]byte) bool { return true }},
		{ZstdChunked, new(zstdchunked.Decompressor), func([]byte) bool { return true }},
		{ZstdChunked, new(podmanDecompressor), func([]byte) bool { return true }},
	}
}

// podmanDecompressor knows podman's zstd:chunked, which has seven numbers in its footer instead of four, the first ones
// the same, and spells its magic in another way. Between TOC and footer is a frame with what it takes to make the tar.
type podmanDecompressor struct{ zstdchunked.Decompressor }

const podmanMagic = "GNUlInUx"

// FooterSize is with the header of the skippable frame, which tells these footers from others.
func (*podmanDecompressor) FooterSize() int64 { return skippableHeader + 8*8 }

func (*podmanDecompressor) ParseFooter(p []byte) (payloadSize, tocOffset, tocSize int64, err error) {
	if string(p[:skippableHeader]) != "\x50\x2a\x4d\x18\x40\x00\x00\x00" || string(p[len(p)-len(podmanMagic):]) != podmanMagic {
		return 0, 0, 0, ErrFormat
	}
	offset := int64(binary.LittleEndian.Uint64(p[skippableHeader:]))
	return offset - skippableHeader, offset, int64(binary.LittleEndian.Uint64(p[skippableHeader+8:])), nil
}

// hasWholeExtra reports whether the gzip header's extra field has the 26 bytes of an eStargz footer. GzipDecompressor
// (estargz 0.19.1) believes the length that stands inside the field and slices out of range if the field is shorter.
func hasWholeExtra(p []byte) bool {
	const lengthAt, want = 10, 4 + 16 + len("STARGZ")
	return binary.LittleEndian.Uint16(p[lengthAt:]) == uint16(want)
}

// findFooter parses the footer at the end of tail, which is the end of a blob of size bytes. It gives ErrFormat if
// there is none.
func findFooter(tail []byte, size int64) (footer, error) {
	for _, k := range footerKinds() {
		n := k.decoder.FooterSize()
		if int64(len(tail)) < n {
			continue
		}
		p := tail[int64(len(tail))-n:]
		if !k.safe(p) {
			continue
		}
		payload, offset, tocSize, err := k.decoder.ParseFooter(p)
		if err != nil {
			continue // another kind's, or none
		}
		if k.format == EStargz {
			tocSize = size - n - offset // up to the footer
		}
		f := footer{k.format, payload, offset, tocSize}
		return f, f.check(size - n)
	}
	return footer{}, ErrFormat
}

// check refuses a TOC that does not lie between the payload and the footer, which begins at end.
func (f footer) check(end int64) error {
	switch {
	case f.payloadSize < 0 || f.tocOffset < f.payloadSize || f.tocSize <= 0 || f.tocOffset > end || f.tocSize > end-f.tocOffset:
		return fmt.Errorf("%s footer: TOC of %d bytes at %d is not inside the %d bytes before the footer",
			f.format, f.tocSize, f.tocOffset, end)
	case f.tocSize > MaxCompressedTOCSize:
		return fmt.Errorf("%s footer: TOC of %d bytes, at most %d are read", f.format, f.tocSize, MaxCompressedTOCSize)
	}
	return nil
}

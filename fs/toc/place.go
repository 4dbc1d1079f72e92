package toc

import (
	"cmp"
	"strconv"
	"strings"

	"github.com/opencontainers/go-digest"
)

// Place is where a TOC lies in its blob. The zero value is none that is known.
type Place struct {
	Offset int64 // bytes into the blob
	Size   int64 // bytes, as compressed
}

// skippableHeader is the bytes of a zstd frame before what it has decoders skip: magic and size (RFC 8878, 3.1.2).
const skippableHeader = 8

// Annotated returns what a layer's annotations say of its TOC: its digest, "" if the layer is not lazy, and its place,
// which only those of zstd:chunked name. A place that cannot be read is none: the blob's footer has it too.
func Annotated(annotations map[string]string) (digest.Digest, Place) {
	d := cmp.Or(annotations[TOCDigestAnnotation], annotations[ZstdChecksumAnnotation], annotations[PodmanChecksumAnnotation])
	return digest.Digest(d), parsePlace(cmp.Or(annotations[ZstdPositionAnnotation], annotations[PodmanPositionAnnotation]))
}

// parsePlace reads offset:compressed size:size:type.
func parsePlace(s string) Place {
	fields := strings.Split(s, ":")
	if len(fields) != 4 || fields[3] != "1" { // the one type that there is: CRFS
		return Place{}
	}
	offset, err := strconv.ParseInt(fields[0], 10, 64)
	if err != nil {
		return Place{}
	}
	size, err := strconv.ParseInt(fields[1], 10, 64)
	if err != nil {
		return Place{}
	}
	return Place{offset, size}
}

// footer is what the footer of a blob of size bytes would say; false if the TOC cannot lie there.
func (p Place) footer(size int64) (footer, bool) {
	f := footer{ZstdChunked, p.Offset - skippableHeader, p.Offset, p.Size}
	if p == (Place{}) || f.check(size) != nil {
		return footer{}, false
	}
	return f, true
}

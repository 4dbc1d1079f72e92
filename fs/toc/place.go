package toc

import (
	"cmp"
	"fmt"
	"strconv"
	"strings"

	"github.com/opencontainers/go-digest"
)

// Place is where a TOC lies in its blob. The zero value is none that is known.
type Place struct {
	Format Format
	Offset int64 // bytes into the blob
	Size   int64 // bytes, as compressed
}

// EStargzPositionAnnotation is Sluice's own: where the TOC of an eStargz layer lies, as offset:compressed size. Without it a megabyte of the
// blob's end has to be read for it, and sometimes twice, where a few hundred KiB are all that is needed.
const EStargzPositionAnnotation = "io.github.sluice-snapshotter.estargz.toc-position"

// skippableHeader is the bytes of a zstd frame before what it has decoders skip: magic and size (RFC 8878, 3.1.2).
const skippableHeader = 8

// Annotated returns what a layer's annotations say of its TOC: its digest, "" if the layer is not lazy, and its place,
// which those of zstd:chunked name, and those of eStargz that Sluice has converted. A place that cannot be read is none: the blob's footer has
// it too.
func Annotated(annotations map[string]string) (digest.Digest, Place) {
	d := cmp.Or(annotations[TOCDigestAnnotation], annotations[ZstdChecksumAnnotation], annotations[PodmanChecksumAnnotation])
	return digest.Digest(d), cmp.Or(
		// offset:compressed size:size:type, which is 1 for the one that there is, CRFS
		parsePlace(ZstdChunked, cmp.Or(annotations[ZstdPositionAnnotation], annotations[PodmanPositionAnnotation]), 4),
		parsePlace(EStargz, annotations[EStargzPositionAnnotation], 2),
	)
}

// parsePlace reads numbers with colons in between, of which the first two are the place, and a fourth is 1.
func parsePlace(f Format, s string, numbers int) Place {
	fields := strings.Split(s, ":")
	if len(fields) != numbers || numbers == 4 && fields[3] != "1" {
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
	return Place{f, offset, size}
}

// String is the place as EStargzPositionAnnotation has it.
func (p Place) String() string { return fmt.Sprintf("%d:%d", p.Offset, p.Size) }

// footer is what the footer of a blob of size bytes would say; false if the TOC cannot lie there.
func (p Place) footer(size int64) (footer, bool) {
	f := footer{p.Format, p.Offset, p.Offset, p.Size}
	if p.Format == ZstdChunked {
		f.payloadSize -= skippableHeader
	}
	if p == (Place{}) || f.check(size) != nil {
		return footer{}, false
	}
	return f, true
}

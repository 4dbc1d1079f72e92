package toc

import (
	"errors"
	"fmt"
)

// LayerAnnotation stands at the layers of an image of external TOCs, each of which is the TOC of the layer that it names. The image has
// the name of the one that it is for, and a tag that ends in ExternalSuffix (stargz-snapshotter, nativeconverter/estargz/externaltoc).
const (
	LayerAnnotation = "containerd.io/snapshot/stargz/layer.digest"
	ExternalSuffix  = "-esgztoc"
)

// ErrExternal is the cause when the TOC of a blob lies elsewhere, and nobody has said how to get it.
var ErrExternal = errors.New("the TOC is outside of the blob")

// externalFooter is the beginning of the footer of eStargz without a TOC: a gzip header with an extra field of 21 bytes.
const (
	externalFooter     = "\x1f\x8b\x08\x04"
	externalExtra      = "\x15\x00SG\x11\x00STARGZEXTERNALTOC"
	externalFooterSize = 46
)

// endsExternally reports whether tail is the end of a blob whose TOC is elsewhere.
func endsExternally(tail []byte) bool {
	const extraAt = 10
	if len(tail) < externalFooterSize {
		return false
	}
	p := tail[len(tail)-externalFooterSize:]
	return string(p[:len(externalFooter)]) == externalFooter && string(p[extraAt:][:len(externalExtra)]) == externalExtra
}

// fetchExternal gets a TOC that is not in the blob of which t is the end.
func (w Wanted) fetchExternal(t Tail) (*Raw, error) {
	if w.External == nil {
		return nil, ErrExternal
	}
	compressed, err := w.External()
	if err != nil {
		return nil, fmt.Errorf("read external TOC: %w", err)
	}
	f := footer{format: EStargz, payloadSize: w.BlobSize - externalFooterSize}
	return &Raw{Format: EStargz, BlobSize: w.BlobSize, PayloadSize: f.payloadSize, Tail: t.payload(f), want: w.Digest, compressed: compressed}, nil
}

package toc

import (
	"bytes"
	"encoding/binary"
	"errors"
	"io"
)

// DecodeAll is Decode for who also wants what follows: whole says that the n bytes are all that src decompresses to, its further streams
// included. It costs nothing but the decompression of what dst has room for besides least.
func (f Format) DecodeAll(dst, src []byte, least int) (n int, whole bool, err error) {
	if len(dst) < least {
		return 0, false, io.ErrShortBuffer
	}
	n, used, err := f.decodeOne(dst, src, least)
	if err != nil || used == 0 {
		return n, false, err
	}
	for src = src[used:]; len(src) > 0; src = src[used:] {
		if used = skippedSize(src); f == ZstdChunked && used > 0 {
			continue
		}
		var more int
		if more, used, err = f.decodeOne(dst[n:], src, 0); err != nil || used == 0 {
			return n, false, nil // what was asked for is here
		}
		n += more
	}
	return n, true, nil
}

// decodeOne is Decode that also says how many bytes of src the stream takes, 0 if it does not fit.
func (f Format) decodeOne(dst, src []byte, least int) (n, used int, err error) {
	if size, known := f.streamSize(src); !known || size <= len(dst) {
		if n, used, ok := f.decodeWhole(dst, src); ok {
			if n < least {
				return n, used, io.EOF
			}
			return n, used, nil
		}
	}
	in := bytes.NewReader(src)
	r, err := f.NewReader(in)
	if err != nil {
		return 0, 0, err
	}
	defer r.Close()
	n, err = io.ReadFull(r, dst)
	if n < least {
		return n, 0, err
	}
	if n == len(dst) {
		_, err = io.ReadFull(r, make([]byte, 1))
	}
	if n < len(dst) && errors.Is(err, io.ErrUnexpectedEOF) { // ReadFull's, or the stream's
		_, err = r.Read(make([]byte, 1))
	}
	if !errors.Is(err, io.EOF) {
		return n, 0, nil
	}
	if f == ZstdChunked {
		return n, frameSize(src), nil
	}
	return n, len(src) - in.Len() - r.(*streamReader).decoder.(*gzipDecoder).src.Buffered(), nil
}

// skippedSize is how many bytes the skippable frame at the beginning of p takes, 0 if there is none that is whole (RFC 8878, 3.1.2).
func skippedSize(p []byte) int {
	if len(p) < skippableHeader || p[0]&0xf0 != 0x50 || string(p[1:4]) != "\x2a\x4d\x18" {
		return 0
	}
	size := skippableHeader + int64(binary.LittleEndian.Uint32(p[4:]))
	if size > int64(len(p)) {
		return 0
	}
	return int(size)
}

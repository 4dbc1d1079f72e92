package toc

import (
	"bytes"
	"encoding/binary"
	"io"

	"github.com/klauspost/compress/zstd"

	"github.com/sluice-snapshotter/sluice/fs/libdeflate"
)

const (
	// padding is room for what follows the last chunk of most streams, without a word about it anywhere: the zeros
	// that fill up the tar's block, and the headers up to the next chunk, of directories and links too.
	padding = 4 << 10
	// detour is how much may be decompressed besides what is wanted, if that can then be done in one go.
	detour = 64 << 10
)

// Decode decompresses the stream that src begins with, a gzip member or a zstd frame, whatever follows it in src. It
// returns how many bytes at the beginning of dst are the stream's: at least the first least of the stream, which is
// all that was asked for, up to the whole stream if it fits. The rest of dst has anything in it.
//
// Several chunks of a stream are had at once with the end of the last one, InnerOffset+Size, as least. How long dst
// is beyond that decides how fast it goes: Room says what is best. Nothing grows, and nothing of dst and src is kept.
//
// The result is that of io.ReadAtLeast on NewReader(src), but for a stream that ends sooner: n of its bytes and
// io.EOF if it is whole, its checksum included, io.ErrUnexpectedEOF if src ends before it does. Damage behind least may
// go unnoticed, and where least is all of the stream, so may a wrong checksum: the digests of chunks say whether their
// bytes are right. Whether a stream that is forged, checksum and all, to break the rules of its format is refused,
// depends on libdeflate being there.
//
// It blocks for the decompression alone, up to 10 ms a MiB, and may be called concurrently.
func (f Format) Decode(dst, src []byte, least int) (n int, err error) {
	if len(dst) < least {
		return 0, io.ErrShortBuffer
	}
	if size, known := f.streamSize(src); !known || size <= len(dst) {
		if n, _, ok := f.decodeWhole(dst, src); ok {
			if n < least {
				return n, io.EOF
			}
			return n, nil
		}
	}
	return f.decodeStart(dst[:least], src)
}

// Room returns how long dst should best be to Decode the first least bytes of the stream that src begins with: enough
// for all of it, where that is not much more, and never less than least or more than least*2 + 64 KiB. It goes by what
// stands in the stream's header or at the end of src, which may be wrong: then Decode takes longer.
func (f Format) Room(src []byte, least int) int {
	size, known := f.streamSize(src)
	switch {
	case !known || size < least:
		return least + padding
	case size == least, size > 2*least+detour: // there the rest would cost more than it saves
		return least
	}
	return max(size, least+padding)
}

// GzipDecoder names what Decode has for gzip in this build: libdeflate and its version, or Go.
func GzipDecoder() string {
	if libdeflate.Version == "" {
		return "Go"
	}
	return "libdeflate " + libdeflate.Version
}

// streamSize is how long the decompressed stream says it is, if what it says can be true. A gzip member says so at its
// end, which is where src ends unless a member without chunks follows.
func (f Format) streamSize(src []byte) (size int, known bool) {
	var n uint64
	if f == ZstdChunked {
		var h zstd.Header
		if h.Decode(src) != nil || !h.HasFCS {
			return 0, false
		}
		n = h.FrameContentSize
	} else {
		if len(src) < gzipHeader+gzipTrailer {
			return 0, false
		}
		n = uint64(binary.LittleEndian.Uint32(src[len(src)-4:]))
	}
	return int(n), n <= uint64(int64(len(src))*f.maxRatio())
}

const (
	gzipHeader  = 10     // without the fields that its flags announce
	gzipTrailer = 4 + 4  // checksum, size
	gzipFlags   = 3      // where they are
	gzipExtra   = 1 << 2 // the flag of a field that is passed over
)

// decodeWhole decompresses a stream that is whole, sound and fits into dst, fast, and says how much of src it takes. What fails here is decodeStart's to
// decide, so that both builds do the same, with the same errors.
func (f Format) decodeWhole(dst, src []byte) (n, used int, ok bool) {
	switch {
	case f == ZstdChunked:
		return decodeFrame(dst, src)
	case f != EStargz || len(src) < gzipHeader:
		return 0, 0, false
	case src[gzipFlags]&^gzipExtra != 0:
		return 0, 0, false // libdeflate believes a header's checksum, and has names of any length; layers have neither
	}
	return libdeflate.Gunzip(dst, src)
}

// decodeFrame decompresses a zstd frame straight into dst: it needs no memory for a window, which may be 32 MiB, and no copy.
func decodeFrame(dst, src []byte) (n, used int, ok bool) {
	size := frameSize(src)
	if size == 0 || len(dst) == 0 {
		return 0, 0, false
	}
	d := zstdDecoders.Get().(*zstdDecoder)
	defer zstdDecoders.Put(d)
	out, err := d.DecodeAll(src[:size], dst[:0:len(dst)])
	// It has had to move if it is somewhere else, though what it holds fits.
	if err != nil || len(out) > len(dst) || len(out) > 0 && &out[0] != &dst[0] {
		return 0, 0, false
	}
	return len(out), size, true
}

// decodeStart decompresses the beginning of a stream, as much as dst holds.
func (f Format) decodeStart(dst, src []byte) (n int, err error) {
	r, err := f.NewReader(bytes.NewReader(src))
	if err != nil {
		return 0, err
	}
	defer r.Close()
	for n < len(dst) && err == nil {
		var more int
		more, err = r.Read(dst[n:])
		n += more
	}
	if n == len(dst) {
		err = nil // it may be of what follows
	}
	return n, err
}

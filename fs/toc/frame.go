package toc

import (
	"bufio"
	"encoding/binary"
	"errors"
	"io"
)

// frameReader passes on the bytes of one zstd frame and then ends. zstd.Decoder by itself goes on with the next frame,
// like gzip with Multistream(true), and has no option against it. The format is RFC 8878, sections 3.1.1.1 and
// 3.1.1.2; only as much of it is looked at as says where the frame ends.
type frameReader struct {
	src      *bufio.Reader
	buf      [maxFrameHeader]byte
	head     []byte // in buf: bytes of a header that are to be passed on before all else
	body     int    // bytes of src to be passed on after head
	checksum bool   // whether four bytes follow the last block
	last     bool   // whether head and body are the last of the frame
}

const (
	frameMagic     = 0xfd2fb528
	maxFrameHeader = 4 + 1 + 1 + 4 + 8 // magic, descriptor, window, dictionary id, content size
	blockHeader    = 3
	checksumSize   = 4
)

// open reads the frame's header.
func (f *frameReader) open(r io.Reader) error {
	f.src.Reset(r)
	f.body, f.last = 0, false
	p, err := f.src.Peek(5)
	if err != nil {
		return err
	}
	if binary.LittleEndian.Uint32(p) != frameMagic {
		return errors.New("not a zstd frame")
	}
	descriptor := p[4]
	f.checksum = hasChecksum(descriptor)
	return f.take(frameHeaderSize(descriptor))
}

func hasChecksum(descriptor byte) bool { return descriptor&(1<<2) != 0 }

func frameHeaderSize(descriptor byte) int {
	single := descriptor&(1<<5) != 0
	size := 5 + [...]int{0, 1, 2, 4}[descriptor&3] + [...]int{0, 2, 4, 8}[descriptor>>6]
	switch {
	case !single:
		size++ // the window
	case descriptor>>6 == 0:
		size++ // a content size of one byte
	}
	return size
}

// take reads n bytes of src to be passed on.
func (f *frameReader) take(n int) error {
	f.head = f.buf[:n]
	_, err := io.ReadFull(f.src, f.head)
	return err
}

func (f *frameReader) Read(p []byte) (int, error) {
	for len(f.head) == 0 && f.body == 0 {
		if f.last {
			return 0, io.EOF
		}
		if err := f.block(); err != nil {
			return 0, unexpected(err)
		}
	}
	if len(f.head) > 0 {
		n := copy(p, f.head)
		f.head = f.head[n:]
		return n, nil
	}
	n, err := f.src.Read(p[:min(len(p), f.body)])
	f.body -= n
	return n, unexpected(err)
}

// block reads the next block's header.
func (f *frameReader) block() error {
	if err := f.take(blockHeader); err != nil {
		return err
	}
	var err error
	if f.body, f.last, err = parseBlock(f.head); f.last && f.checksum {
		f.body += checksumSize
	}
	return err
}

// parseBlock reads a block's header: how many bytes follow it, and whether it is the frame's last.
func parseBlock(p []byte) (body int, last bool, err error) {
	h := int(p[0]) | int(p[1])<<8 | int(p[2])<<16
	last = h&1 != 0
	switch kind := h >> 1 & 3; kind {
	case 0, 2: // raw, compressed
		return h >> 3, last, nil
	case 1: // one byte, repeated
		return 1, last, nil
	}
	return 0, last, errors.New("reserved type of zstd block")
}

// frameSize is how many bytes the zstd frame at the beginning of p takes, 0 if there is none or its end is not in p.
func frameSize(p []byte) int {
	if len(p) < 5 || binary.LittleEndian.Uint32(p) != frameMagic {
		return 0
	}
	size, checksum := frameHeaderSize(p[4]), hasChecksum(p[4])
	for last := false; !last; {
		if len(p)-size < blockHeader {
			return 0
		}
		body, end, err := parseBlock(p[size:])
		if err != nil {
			return 0
		}
		size += blockHeader + body
		last = end
	}
	if checksum {
		size += checksumSize
	}
	if size > len(p) {
		return 0
	}
	return size
}

// unexpected is err for where a frame does not end.
func unexpected(err error) error {
	if errors.Is(err, io.EOF) {
		return io.ErrUnexpectedEOF
	}
	return err
}

package plain

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"sync/atomic"

	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"
)

const (
	blockSize = 256 << 10
	blocks    = 8 // of a layer

	readBuffer = 128 << 10 // before a decoder

	// maxWindow is the most memory that a zstd frame may ask for as its window: zstd --ultra -20 uses 32 MiB.
	maxWindow = 32 << 20

	// decoderMemory is what goes through a decoder at a time, and its tables: zstd's works on several blocks of 128 KiB at once.
	decoderMemory = 2 << 20
)

// block is a part of the tar. Two use it.
type block struct {
	buf   []byte // made when it is used first
	bytes []byte // of buf
	users atomic.Int32
	home  chan<- *block
}

func (b *block) done() {
	if b.users.Add(-1) == 0 {
		b.home <- b // never waits: it has room for all
	}
}

// decode decompresses the blob into blocks, to its end.
func (s *stream) decode(ctx context.Context) {
	r := &pieceReader{from: s.decoded}
	defer r.close() // last, so that those behind need not wait for what is only hashed
	defer close(s.summed)
	defer close(s.indexed)
	d, err := s.open(ctx, bufio.NewReaderSize(r, readBuffer))
	if err != nil {
		s.decodeErr = fmt.Errorf("decompress: %w", err)
		return
	}
	defer d.Close()
	for {
		var b *block
		select {
		case b = <-s.free:
		case <-s.stop:
			return
		}
		if b.buf == nil {
			b.buf = make([]byte, blockSize)
		}
		n, err := readFull(d, b.buf)
		b.bytes = b.buf[:n]
		b.users.Store(2)
		s.summed <- b
		s.indexed <- b
		if err == io.EOF { //nolint:errorlint // readFull's own, never wrapped
			return
		}
		if err != nil {
			s.decodeErr = fmt.Errorf("decompress: %w", err)
			return
		}
	}
}

// readFull is io.ReadFull, but an end is io.EOF wherever it comes: io.ErrUnexpectedEOF is what decoders say of a blob cut short.
func readFull(r io.Reader, p []byte) (n int, err error) {
	for n < len(p) && err == nil {
		var m int
		m, err = r.Read(p[n:])
		n += m
	}
	return n, err
}

// open finds out how the blob is compressed and returns its decoder.
func (s *stream) open(ctx context.Context, r *bufio.Reader) (io.ReadCloser, error) {
	head, err := r.Peek(zstd.HeaderMaxSize)
	if err != nil && err != io.EOF {
		return nil, err
	}
	s.format = compression(s.MediaType, head)
	switch s.format {
	case Gzip:
		return gzip.NewReader(r)
	case Zstd:
		if err := s.memory.Grow(ctx, window(head)); err != nil {
			return nil, err
		}
		d, err := zstd.NewReader(r, zstd.WithDecoderLowmem(true), zstd.WithDecoderMaxWindow(maxWindow))
		if err != nil {
			return nil, err
		}
		return d.IOReadCloser(), nil
	}
	return io.NopCloser(r), nil
}

// window is the memory that a zstd decoder takes for a blob that begins with head, besides decoderMemory. All frames of a blob are taken
// to be like the first; where that is none, or unclear, it is the most.
func window(head []byte) int64 {
	var h zstd.Header
	if err := h.Decode(head); err != nil || h.Skippable {
		return maxWindow
	}
	size := h.WindowSize
	if h.SingleSegment {
		size = h.FrameContentSize
	}
	return int64(min(size, maxWindow)) // more is refused
}

// blockReader reads the tar from its blocks.
type blockReader struct {
	from <-chan *block
	end  *error // why there are no more blocks, once from is closed; nil where the tar ends
	b    *block
	rest []byte // of b
}

func (r *blockReader) Read(p []byte) (int, error) {
	for len(r.rest) == 0 {
		r.release()
		b, ok := <-r.from
		if !ok {
			if *r.end != nil {
				return 0, *r.end
			}
			return 0, io.EOF
		}
		r.b, r.rest = b, b.bytes
	}
	n := copy(p, r.rest)
	r.rest = r.rest[n:]
	return n, nil
}

func (r *blockReader) release() {
	if r.b != nil {
		r.b.done()
		r.b, r.rest = nil, nil
	}
}

// close lets go of what was not read, and of what is still to come.
func (r *blockReader) close() {
	r.release()
	for b := range r.from {
		b.done()
	}
}

package toc

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"sync"

	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"
)

// maxWindow is the most memory that a zstd frame may ask for as its window. RFC 8878 recommends decoders to support
// 8 MiB at least, the writers of zstd:chunked use no more than that, and zstd --ultra -20 uses 32 MiB.
const maxWindow = 32 << 20

// readBuffer is how many bytes are read ahead of a decoder.
const readBuffer = 32 << 10

// Decoders that nothing uses at the moment, free for the collector to take: making one costs more than decompressing
// a small file. They carry no state from one stream to the next.
var (
	gzipDecoders = sync.Pool{New: func() any { return newGzipDecoder() }}
	zstdDecoders = sync.Pool{New: func() any { return newZstdDecoder() }}
)

// NewReader decompresses one stream of the format, a gzip member or a zstd frame, that begins at r's first byte. The
// reader ends with io.EOF where the stream ends, whatever follows in r, and with io.ErrUnexpectedEOF if r ends before.
// Bytes of r behind the stream may have been read. Close returns the decoder for reuse and does not close r; the
// reader must not be used concurrently.
func (f Format) NewReader(r io.Reader) (io.ReadCloser, error) { return f.newReader(r, false) }

// NewReaderAll is NewReader for all streams that follow each other up to r's end, as those who unpack a layer read its blob: its tar
// comes of that. Of zstd frames those that are to be skipped are.
func (f Format) NewReaderAll(r io.Reader) (io.ReadCloser, error) { return f.newReader(r, true) }

func (f Format) newReader(r io.Reader, all bool) (io.ReadCloser, error) {
	pool := &gzipDecoders
	switch f {
	case EStargz:
	case ZstdChunked:
		pool = &zstdDecoders
	default:
		return nil, fmt.Errorf("unknown layer format %q", string(f))
	}
	d := pool.Get().(streamDecoder)
	open := d.open
	if all {
		open = d.openAll
	}
	if err := open(r); err != nil {
		d.release()
		pool.Put(d)
		if errors.Is(err, io.EOF) {
			err = io.ErrUnexpectedEOF
		}
		return nil, fmt.Errorf("open %s stream: %w", f, err)
	}
	return &streamReader{d, pool}, nil
}

// streamDecoder decompresses one stream after another.
type streamDecoder interface {
	io.Reader
	open(r io.Reader) error
	openAll(r io.Reader) error // all streams that r has
	release()                  // forgets r
}

// streamReader lends a decoder from its pool.
type streamReader struct {
	decoder streamDecoder // nil once closed
	pool    *sync.Pool
}

func (s *streamReader) Read(p []byte) (int, error) {
	if s.decoder == nil {
		return 0, fs.ErrClosed
	}
	return s.decoder.Read(p)
}

func (s *streamReader) Close() error {
	if s.decoder != nil {
		s.decoder.release()
		s.pool.Put(s.decoder)
		s.decoder = nil
	}
	return nil
}

type gzipDecoder struct {
	gzip.Reader
	src *bufio.Reader
}

func newGzipDecoder() *gzipDecoder {
	return &gzipDecoder{src: bufio.NewReaderSize(nil, readBuffer)}
}

func (d *gzipDecoder) open(r io.Reader) error {
	if err := d.openAll(r); err != nil {
		return err
	}
	d.Multistream(false)
	return nil
}

func (d *gzipDecoder) openAll(r io.Reader) error {
	d.src.Reset(r)
	return d.Reset(d.src)
}

func (d *gzipDecoder) release() { d.src.Reset(nil) }

type zstdDecoder struct {
	*zstd.Decoder
	frame frameReader
}

func newZstdDecoder() *zstdDecoder {
	d, err := zstd.NewReader(nil, zstd.WithDecoderConcurrency(1), zstd.WithDecoderLowmem(true),
		zstd.WithDecoderMaxWindow(maxWindow), zstd.WithDecoderMaxMemory(maxWindow))
	if err != nil {
		panic(err) // only constants decide
	}
	return &zstdDecoder{d, frameReader{src: bufio.NewReaderSize(nil, readBuffer)}}
}

func (d *zstdDecoder) open(r io.Reader) error {
	if err := d.frame.open(r); err != nil {
		return err
	}
	return d.Reset(&d.frame)
}

func (d *zstdDecoder) openAll(r io.Reader) error {
	d.frame.src.Reset(r)
	return d.Reset(d.frame.src)
}

func (d *zstdDecoder) release() {
	_ = d.Reset(nil) // fails only on a closed decoder, which the pool never has
	d.frame.src.Reset(nil)
}

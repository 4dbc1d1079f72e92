package layer

import (
	"bufio"
	"math/bits"
	"sync"
)

const (
	readBuffer = 128 << 10 // compressed bytes between network and decoder

	// rangeOverhead is what a range that is decoded as it comes holds besides a chunk: read buffer and decoder.
	rangeOverhead = readBuffer + 128<<10

	minBufferBits = 16 // 64 KiB
	maxBufferBits = 23 // 8 MiB: larger chunks are rare, and keeping their memory would not pay

	// bufferSlack is what a buffer of a class has more than its power of two: chunks mostly are of such sizes, and decoding them takes a
	// little more than they are.
	bufferSlack = 2 * decodeRoom
)

// buffers lends memory for decoded chunks, by size class, and for reading. What is idle belongs to the garbage collector.
type buffers struct {
	classes [maxBufferBits - minBufferBits + 1]sync.Pool // of *[]byte
	readers sync.Pool                                    // of *bufio.Reader
}

func newBuffers() *buffers {
	return &buffers{readers: sync.Pool{New: func() any { return bufio.NewReaderSize(nil, readBuffer) }}}
}

// class returns the size class of a chunk of n bytes, -1 if it has none.
func class(n int64) int {
	n = max(n-bufferSlack, 1)
	if n > 1<<maxBufferBits {
		return -1
	}
	return max(bits.Len64(uint64(n-1))-minBufferBits, 0)
}

// bufferSize returns the bytes that a buffer for a chunk of n bytes takes.
func bufferSize(n int64) int64 {
	if c := class(n); c >= 0 {
		return 1<<(minBufferBits+c) + bufferSlack
	}
	return n
}

func (b *buffers) get(n int64) *[]byte {
	c := class(n)
	if c >= 0 {
		if p, ok := b.classes[c].Get().(*[]byte); ok {
			return p
		}
	}
	p := make([]byte, bufferSize(n))
	return &p
}

func (b *buffers) put(p *[]byte) {
	if c := class(int64(len(*p))); c >= 0 {
		b.classes[c].Put(p)
	}
}

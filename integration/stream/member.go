package stream

import (
	"bytes"
	"compress/gzip"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"hash"
	"io"
	"math/rand/v2"
	"sync"
)

// member is the form of a chunk's gzip member: all of them are the same but for the chunk's number and checksum.
type member struct {
	form   []byte
	number int // where the number is
	chunk  []byte
}

// chunk is what is special about one.
type chunk struct {
	number uint64
	sum    uint32
}

// trailer is what a gzip member ends with: CRC-32 and size, four bytes each (RFC 1952).
const trailer = 8

// newMember stores a chunk of pseudo-random bytes with the number 0.
func newMember() member {
	p := make([]byte, ChunkBytes)
	_, _ = rand.NewChaCha8([32]byte{}).Read(p) // it has no error
	clear(p[:NumberBytes])
	var z bytes.Buffer
	zw, _ := gzip.NewWriterLevel(&z, gzip.NoCompression) // a level that there is
	_, _ = zw.Write(p)                                   // to memory
	_ = zw.Close()
	// Stored blocks have the bytes as they are: the chunk's first ones that are not zeros are there once.
	return member{form: z.Bytes(), number: bytes.Index(z.Bytes(), p[NumberBytes:][:64]) - NumberBytes, chunk: p}
}

func (m member) size() int { return len(m.form) }

// content is a copy of the chunk.
func (m member) content() []byte { return bytes.Clone(m.chunk) }

// read copies a chunk's member from off on, and returns how much.
func (m member) read(p []byte, off int, c chunk) int {
	n := copy(p, m.form[off:])
	var number [NumberBytes]byte
	binary.BigEndian.PutUint64(number[:], c.number)
	patch(p[:n], number[:], m.number-off)
	var sum [4]byte
	binary.LittleEndian.PutUint32(sum[:], c.sum)
	patch(p[:n], sum[:], len(m.form)-trailer-off)
	return n
}

// patch puts what of q lies within p, when q begins at off, which may be before p.
func patch(p, q []byte, off int) {
	if off < len(p) && off+len(q) > 0 {
		copy(p[max(off, 0):], q[max(-off, 0):])
	}
}

func compress(w io.Writer, p []byte) error {
	zw := gzip.NewWriter(w)
	_, err := zw.Write(p)
	return errors.Join(err, zw.Close())
}

// hashes are computed at the same time.
type hashes struct{ blob, content hash.Hash }

// add adds a member and its chunk, and returns the chunk's own SHA-256.
func (h hashes) add(member, chunk []byte) []byte {
	var work sync.WaitGroup
	work.Go(func() { h.blob.Write(member) })
	work.Go(func() { h.content.Write(chunk) })
	sum := sha256.Sum256(chunk)
	work.Wait()
	return sum[:]
}

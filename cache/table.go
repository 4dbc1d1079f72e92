package cache

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"os"
	"sort"
	"sync/atomic"
)

// Chunk is one record of a chunk table. Offsets and sizes are in bytes.
type Chunk struct {
	DataOffset  int64    // where the chunk lies in the address space
	Size        int64    // uncompressed, at least 1
	BlobOffset  int64    // where the compressed stream (gzip member, zstd frame) that holds it begins in the blob
	BlobSize    int64    // how much of the blob that stream takes at most: up to the next stream
	InnerOffset int64    // where the chunk begins in the decompressed stream
	Digest      [32]byte // of the uncompressed bytes: SHA-256, but see Store.Fill
}

// tableRecords are those of a chunk table, in the order of DataOffset:
//
//	record  DataOffset, Size, BlobOffset, BlobSize, InnerOffset u64, Digest [32]byte
var tableRecords = records{magic: "SLUICECT", version: 1, size: 5*8 + 32}

func (c Chunk) append(b []byte) []byte {
	for _, v := range [...]int64{c.DataOffset, c.Size, c.BlobOffset, c.BlobSize, c.InnerOffset} {
		b = binary.LittleEndian.AppendUint64(b, uint64(v))
	}
	return append(b, c.Digest[:]...)
}

// writeBuffer is bytes of one write. The page cache keeps them in folios as large as that, which are mapped whole by a look at one
// record: 64 KiB is what older kernels map around a fault.
const writeBuffer = 64 << 10

// tableWriter writes a chunk table.
type tableWriter struct {
	f        *os.File
	w        *bufio.Writer
	dataSize int64
	end      int64 // of the last chunk in the address space
	size     int64 // of all chunks together
	count    int
	buf      []byte
}

func createTable(name string, dataSize int64) (*tableWriter, error) {
	f, err := os.OpenFile(name, os.O_RDWR|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return nil, err
	}
	t := &tableWriter{f: f, w: bufio.NewWriterSize(f, writeBuffer), dataSize: dataSize}
	_, err = t.w.Write(make([]byte, recordsHeader)) // known at the end
	return t, err
}

func (t *tableWriter) add(c Chunk) error {
	if c.DataOffset < t.end || c.Size <= 0 || c.DataOffset > math.MaxInt64-c.Size || c.DataOffset+c.Size > t.dataSize {
		return fmt.Errorf("chunk %d: bytes %d+%d are out of order or outside of the address space of %d bytes",
			t.count, c.DataOffset, c.Size, t.dataSize)
	}
	if c.BlobOffset < 0 || c.BlobSize <= 0 || c.InnerOffset < 0 {
		return fmt.Errorf("chunk %d: bytes %d+%d of the blob, %d inside, are no place", t.count, c.BlobOffset, c.BlobSize, c.InnerOffset)
	}
	t.end = c.DataOffset + c.Size
	t.size += c.Size
	t.count++
	t.buf = c.append(t.buf[:0])
	_, err := t.w.Write(t.buf)
	return err
}

func (t *tableWriter) finish() error {
	if err := t.w.Flush(); err != nil {
		return err
	}
	_, err := t.f.WriteAt(tableRecords.header(t.count), 0)
	return err
}

func (t *tableWriter) close() { t.f.Close() }

// table is a chunk table mapped into memory.
type table struct {
	mapping
	count int
	finds *atomic.Uint32
}

// trimAfter is after how many searches a table is taken out of memory: a search by bisection looks at pages all over it. It makes
// the ones that follow slower by some page faults, which is little beside the reads that they are for.
const trimAfter = 64

func openTable(name string) (table, error) {
	m, err := mapFile(name, false)
	if err != nil {
		return table{}, err
	}
	t := table{mapping: m, finds: new(atomic.Uint32)}
	if t.count, err = tableRecords.count(m); err != nil {
		return table{}, errors.Join(damaged("%s: %v", chunksName, err), m.unmap())
	}
	t.trim() // the header
	return t, nil
}

func (t *table) record(i int) []byte { return tableRecords.at(t.mapping, i) }

func (t *table) chunk(i int) Chunk {
	r := t.record(i)
	field := func(k int) int64 { return int64(binary.LittleEndian.Uint64(r[8*k:])) }
	return Chunk{
		DataOffset: field(0), Size: field(1), BlobOffset: field(2), BlobSize: field(3), InnerOffset: field(4),
		Digest: [32]byte(r[5*8:]),
	}
}

func (t *table) size(i int) int64 { return int64(binary.LittleEndian.Uint64(t.record(i)[8:])) }

// find returns the first chunk that ends after off, or count.
func (t *table) find(off int64) int {
	if t.finds.Add(1)%trimAfter == 0 {
		t.trim()
	}
	return sort.Search(t.count, func(i int) bool {
		r := t.record(i)
		return int64(binary.LittleEndian.Uint64(r)+binary.LittleEndian.Uint64(r[8:])) > off
	})
}

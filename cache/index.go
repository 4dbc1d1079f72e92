package cache

import (
	"bufio"
	"cmp"
	"encoding/binary"
	"errors"
	"math/bits"
	"os"
	"path/filepath"
	"slices"
	"sort"
	"sync"
)

// An index tells which chunks of a layer have a digest. indexRecords are in the order of Prefix:
//
//	record  Prefix u64 (the first eight bytes of the chunk's digest, as a big endian number), Chunk u32
//
// It is a hint: whoever finds a chunk by it compares the digest in the chunk table, and hashes the bytes. So it is neither synced nor has it a
// checksum, and a layer without one, or with one that is damaged, only has less of its chunks found. It goes by digests that guard against
// somebody: layers that Fill has made have none.
var indexRecords = records{magic: "SLUICEIX", version: 1, size: 8 + 4}

const (
	indexName = "index"

	// maxSame is how many chunks of one layer that begin with the same eight bytes of digest are looked at: those of some files are the
	// same a thousand times.
	maxSame = 8

	// gallop is by how many records a search goes on at first from where the digest should be. Those of 100,000 chunks are some 150 away
	// from there.
	gallop = 64
)

// index is one mapped into memory; the zero value has no records.
type index struct {
	mapping
	count int
}

// createIndex makes the index of the chunk table beside it. The memory for it is taken after that for the rest of the layer was given back,
// and is a quarter of that.
func createIndex(dir string) error {
	t, err := openTable(filepath.Join(dir, chunksName))
	if err != nil {
		return err
	}
	type entry struct {
		prefix uint64
		chunk  uint32
	}
	entries := make([]entry, t.count)
	for i := range entries {
		entries[i] = entry{prefixOf(t.record(i)[5*8:]), uint32(i)}
	}
	if err := t.unmap(); err != nil {
		return err
	}
	slices.SortFunc(entries, func(a, b entry) int { return cmp.Or(cmp.Compare(a.prefix, b.prefix), cmp.Compare(a.chunk, b.chunk)) })
	f, err := os.OpenFile(filepath.Join(dir, indexName), os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	w := bufio.NewWriterSize(f, writeBuffer)
	_, err = w.Write(indexRecords.header(len(entries)))
	var b []byte
	for _, r := range entries {
		if err != nil {
			break
		}
		b = binary.LittleEndian.AppendUint64(b[:0], r.prefix)
		_, err = w.Write(binary.LittleEndian.AppendUint32(b, r.chunk))
	}
	return errors.Join(err, w.Flush(), f.Close())
}

// openIndex maps the index in a layer's folder.
func openIndex(dir string) (index, error) {
	m, err := mapFile(filepath.Join(dir, indexName), false)
	if err != nil {
		return index{}, err
	}
	x := index{mapping: m}
	if x.count, err = indexRecords.count(m); err != nil {
		return index{}, errors.Join(damaged("%s: %v", indexName, err), m.unmap())
	}
	return x, nil
}

func prefixOf(digest []byte) uint64 { return binary.BigEndian.Uint64(digest) }

func (x *index) prefix(k int) uint64 {
	return binary.LittleEndian.Uint64(indexRecords.at(x.mapping, k))
}

func (x *index) chunk(k int) int {
	return int(binary.LittleEndian.Uint32(indexRecords.at(x.mapping, k)[8:]))
}

// find returns the first of records [from, count) whose prefix is p or more. Digests are spread evenly, so that is near where it should be,
// and a search looks at a page or two. It ends whatever the records are.
func (x *index) find(from int, p uint64) int {
	lo, hi := from, x.count // what is before lo is less than p, what is from hi on is not
	should, _ := bits.Mul64(p, uint64(x.count))
	guess := min(max(int(should), lo), hi-1)
	if guess < lo {
		return hi // there is none
	}
	if x.prefix(guess) < p {
		lo = guess + 1
		for step := gallop; lo+step < hi; step *= 2 {
			if x.prefix(lo+step) >= p {
				hi = lo + step
				break
			}
			lo += step + 1
		}
	} else {
		hi = guess
		for step := gallop; hi-step > lo; step *= 2 {
			if x.prefix(hi-step) < p {
				lo = hi - step + 1
				break
			}
			hi -= step
		}
	}
	return lo + sort.Search(hi-lo, func(i int) bool { return x.prefix(lo+i) >= p })
}

// same lists some of the chunks whose digests begin with p.
func (x *index) same(p uint64) (chunks []int) {
	for k := x.find(0, p); k < x.count && len(chunks) < maxSame && x.prefix(k) == p; k++ {
		chunks = append(chunks, x.chunk(k))
	}
	return chunks
}

// meet calls both for each record of the shorter of two indexes that has one with its prefix in the other, with the chunk of x.
func (x *index) meet(y *index, both func(chunk int)) {
	if x.count > y.count {
		at := 0
		for k := range y.count {
			p := y.prefix(k)
			if at = x.find(at, p); at < x.count && x.prefix(at) == p {
				both(x.chunk(at))
			}
		}
		return
	}
	at := 0
	for k := range x.count {
		p := x.prefix(k)
		if at = y.find(at, p); at < y.count && y.prefix(at) == p {
			both(x.chunk(k))
		}
	}
}

// lazyIndex is the index of an open layer, mapped when it is first needed.
type lazyIndex struct {
	once sync.Once
	index
}

func (x *lazyIndex) get(dir string) *index {
	x.once.Do(func() {
		if opened, err := openIndex(dir); err == nil {
			x.index = opened
		}
	})
	return &x.index
}

// withDigest lists chunks of the layer that have a digest, present or not: all of them if they are few.
func (l *Layer) withDigest(d [32]byte) (chunks []int) {
	if l.sums != sha256Sums {
		return nil
	}
	for _, j := range l.index.get(l.dir).same(prefixOf(d[:])) {
		if j < l.table.count && [32]byte(l.table.record(j)[5*8:]) == d {
			chunks = append(chunks, j)
		}
	}
	return chunks
}

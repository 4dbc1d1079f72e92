package cache

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"github.com/opencontainers/go-digest"
)

// FillMemory is how many bytes of memory Fill takes, besides what its caller does.
const FillMemory = fillChunk

const (
	fillChunk = 4 << 20 // address space in a chunk of a layer that Fill has made
	fillBlock = 4096
	// minHole is how many zeros in a row are left out of the data file. Shorter holes would cut it into too many pieces.
	minHole = 64 << 10
)

// Filling is a layer on its way into the store with all of its data. It belongs to one goroutine.
type Filling struct {
	Meta io.Writer // for the metadata image

	charge *charge
	data   *os.File
	start  int64  // of the chunk that is in buf, in the address space
	end    int64  // of what was written
	buf    []byte // of fillChunk bytes; what lies behind end is old
	chunks []Chunk
}

// Fill makes the layer with blob digest d from all of its contents at once: build writes them and the metadata image through
// the Filling, and returns what the layer is; Info.ID is chosen by the store. build answers for the contents: it fails if they are not
// those of the blob, and then nothing is left. The caller closes the layer.
//
// The chunks of such a layer are pieces of its address space, with checksums that only tell what a disk has lost; they cannot be
// fetched one by one. Where the store has the layer already, and lacks some of its chunks, they are taken from what build has made.
//
// What build writes is charged before it is written. Where it does not become a layer, the charge ends when the files are gone; what is
// taken from them, or not needed, goes piece by piece, so that there need not be room for both.
//
// On a full disk what is being written waits until room was made. Errors are those of Create.
func (s *Store) Fill(d digest.Digest, build func(*Filling) (Info, error)) (*Layer, error) {
	if err := d.Validate(); err != nil {
		return nil, fmt.Errorf("fill layer %q: %w", d, err)
	}
	l, err := s.fill(d, build)
	if err != nil {
		return nil, fmt.Errorf("fill layer %s: %w", d, err)
	}
	return l, nil
}

func (s *Store) fill(d digest.Digest, build func(*Filling) (Info, error)) (*Layer, error) {
	var tmp string
	err := s.budget.patiently(func() (_ int64, err error) {
		tmp, err = os.MkdirTemp(s.tempDir(), "layer-")
		return leastLayer, err
	})
	if err != nil {
		return nil, err
	}
	c, entered := &charge{budget: s.budget}, false
	defer func() {
		if !entered {
			c.clear(tmp)
		}
	}()
	if err := s.fillDir(tmp, c, build); err != nil {
		return nil, err
	}
	l, entered, err := s.enter(d, tmp, c)
	if err != nil || entered {
		return l, err
	}
	if err := l.mend(tmp, c); err != nil {
		return nil, errors.Join(err, l.Close())
	}
	return l, nil
}

func (s *Store) fillDir(dir string, c *charge, build func(*Filling) (Info, error)) (err error) {
	f := &Filling{charge: c, buf: make([]byte, fillChunk)}
	if f.data, err = os.OpenFile(filepath.Join(dir, dataName), os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o600); err != nil {
		return err
	}
	defer f.data.Close()
	meta, err := os.OpenFile(filepath.Join(dir, metaName), os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o644)
	if err != nil {
		return err
	}
	defer meta.Close()
	f.Meta = patientFile{meta, s.budget}
	rec := record{Version: formatVersion, Boot: s.boot, Sums: xxhashSums}
	if rec.Info, err = build(f); err != nil {
		return err
	}
	if err := f.flush(); err != nil {
		return err
	}
	err = s.budget.patiently(func() (int64, error) {
		if rec.ID, err = s.nextID(); err != nil {
			return leastLayer, err
		}
		return leastLayer, f.finish(dir, rec)
	})
	if err != nil {
		return err
	}
	return c.measure(dir)
}

// patientFile is a file for who can wait until room was made.
type patientFile struct {
	f      *os.File
	budget *budget
}

func (f patientFile) Write(p []byte) (n int, err error) {
	err = f.budget.patiently(func() (int64, error) {
		m, err := f.f.Write(p[n:])
		n += m
		return int64(len(p)), err
	})
	return n, err
}

// finish writes what build has left to it, behind the data. It may be called again after an error.
func (f *Filling) finish(dir string, rec record) error {
	if err := f.data.Truncate(rec.DataSize); err != nil {
		return err
	}
	table, err := createTable(filepath.Join(dir, chunksName), rec.DataSize)
	if err != nil {
		return err
	}
	defer table.close()
	for _, c := range f.chunks {
		c.BlobSize = max(rec.BlobSize, 1) // all of it, for any chunk
		if err := table.add(c); err != nil {
			return err
		}
	}
	return rec.finish(dir, table, true)
}

// WriteAt writes a piece of the address space, behind all that was written before. What is passed over is zeros. The error wraps
// ErrNotStored.
func (f *Filling) WriteAt(p []byte, off int64) (n int, err error) {
	if off < f.end {
		return 0, fmt.Errorf("%w: %d bytes at %d, before %d", ErrNotStored, len(p), off, f.end)
	}
	for n < len(p) {
		at := off + int64(n)
		if start := at - at%fillChunk; start != f.start {
			if err := f.flush(); err != nil {
				return n, err
			}
			f.start, f.end = start, start
		}
		clear(f.buf[f.end-f.start : at-f.start])
		k := copy(f.buf[at-f.start:], p[n:])
		n += k
		f.end = at + int64(k)
	}
	return n, nil
}

// flush writes the chunk that was collected. One of zeros is none. The disk is left to begin when it likes: told to begin at once
// (sync_file_range), it made Seal no shorter, and a fast stream a quarter slower.
func (f *Filling) flush() error {
	used := f.end - f.start
	size := (used + fillBlock - 1) / fillBlock * fillBlock
	clear(f.buf[used:size])
	c := Chunk{DataOffset: f.start, Size: size}
	written, err := f.writeRuns(f.buf[:size])
	if err != nil {
		return fmt.Errorf("%w: %w", ErrNotStored, err)
	}
	if !written {
		return nil
	}
	c.Digest = xxhashSums.of(f.buf[:size])
	f.chunks = append(f.chunks, c)
	return nil
}

var zeroBlock [fillBlock]byte

// writeRuns writes whole blocks at f.start, and leaves out long runs of zeros. It reports whether anything is left.
func (f *Filling) writeRuns(p []byte) (written bool, err error) {
	from, to := 0, 0 // of the run to be written
	for off := 0; off < len(p); off += fillBlock {
		if bytes.Equal(p[off:off+fillBlock], zeroBlock[:]) {
			continue
		}
		if off-to >= minHole || to == 0 && off > 0 {
			if err := f.writeRun(p, from, to); err != nil {
				return false, err
			}
			from = off
		}
		to = off + fillBlock
	}
	return to > 0, f.writeRun(p, from, to)
}

func (f *Filling) writeRun(p []byte, from, to int) error {
	if from >= to {
		return nil
	}
	if err := f.charge.addHard(int64(to - from)); err != nil {
		return err
	}
	err := f.charge.budget.patiently(func() (int64, error) {
		_, err := f.data.WriteAt(p[from:to], f.start+int64(from))
		return int64(to - from), err
	})
	if !IsOutOfSpace(err) {
		f.charge.budget.wrote(int64(to-from), err)
	}
	return err
}

// mend takes the chunks that l lacks from a folder that Fill has made for the same blob, and that c is what it takes.
func (l *Layer) mend(dir string, c *charge) (err error) {
	if l.sums != xxhashSums || l.Complete() {
		return nil
	}
	fresh, err := openLayer(dir, l.store.session)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, fresh.free()) }()
	if !bytes.Equal(l.table.mapping, fresh.table.mapping) {
		return errors.New("an earlier version of Sluice has laid it out in another way")
	}
	fresh.charge = c
	var lacks []int
	for i := range l.NumChunks() {
		if !l.Has(i) {
			lacks = append(lacks, i)
		} else {
			fresh.giveUp(i)
		}
	}
	fresh.recount()
	buf := make([]byte, fillChunk)
	for _, i := range lacks {
		p := buf[:l.table.size(i)]
		if _, err := fresh.data.ReadAt(p, l.Chunk(i).DataOffset); err != nil {
			return err
		}
		fresh.giveUp(i)
		fresh.recount()
		if err := l.putHard(i, p); err != nil {
			return err
		}
	}
	return nil
}

// giveUp gives back what a chunk takes of a layer that nobody has, where the file system can. The caller recounts.
func (l *Layer) giveUp(i int) { _ = l.punch(i, i) }

// putHard is Put for who can wait until room was made.
func (l *Layer) putHard(i int, p []byte) error {
	err := l.Put(i, p)
	if errors.Is(err, ErrFull) && l.store.budget.makeRoom() {
		err = l.Put(i, p)
	}
	return err
}

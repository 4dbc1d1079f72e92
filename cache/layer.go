package cache

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"

	"github.com/opencontainers/go-digest"
)

const (
	metaName    = "meta.erofs"
	chunksName  = "chunks"
	dataName    = "data"
	presentName = "present"
	recordName  = "layer.json"
)

// ErrNotStored is in the error of Put for bytes that are right and could not be written: the disk is full, or fails.
var ErrNotStored = errors.New("not stored")

// DigestError says that bytes are not those of the chunk they were given for.
type DigestError struct {
	Chunk     int
	Got, Want digest.Digest
}

func (e *DigestError) Error() string {
	return fmt.Sprintf("chunk %d: digest is %s, should be %s", e.Chunk, e.Got, e.Want)
}

// Layer is one layer of a Store.
type Layer struct {
	digest digest.Digest
	dir    string
	info   Info
	size   int64 // of all chunks together
	sums   sums  // of the chunks
	store  *Store
	refs   int // guarded by store.mu

	cleared bool // something that a crash had left was removed when it was opened

	table    table
	index    lazyIndex // see Sources
	origins  origins   // see Sources
	presence presence
	data     *os.File
	direct   *os.File // the same, for direct reads; nil where there are none

	presentChunks, presentBytes atomic.Int64

	// Whoever stores or reads chunks holds content for reading until that is done; whoever takes some away, for writing.
	content sync.RWMutex
	pins    atomic.Int32 // guarded by content for those who wait for it to be 0
	recent  []uint32     // chunks that were read since the hand of Shed's clock came by
	lost    []uint32     // claims that were found wrong: see lose
	hand    int          // guarded by sealing
	shed    atomic.Bool
	charge  *charge

	proven     atomic.Pointer[Info] // has DiffID and Padded; nil if they are not known
	skeletonMu sync.Mutex
	skeleton   *os.File // to append to; nil until there is a piece
	noSkeleton bool     // see GiveUpSkeleton

	wholeMu sync.Mutex
	whole   chan struct{} // see Whole

	boot      string // the kernel's boot ID
	sealing   sync.Mutex
	sealed    atomic.Bool // see Seal
	native    atomic.Bool // it was sealed in this boot: a native mount may have it, whatever becomes of the seal
	inherited bool        // some chunks were stored by an earlier process, and are not known to be on disk
	doubtful  bool        // layer.json says sealed, wrongly, and that could not be changed when it was opened
}

// openLayer opens what is in dir. The error wraps fs.ErrNotExist where a file is missing or damaged.
func openLayer(dir string, now session) (*Layer, error) {
	l, err := openFiles(dir, now)
	return l, misplaced(err)
}

func openFiles(dir string, now session) (_ *Layer, err error) {
	changed, err := readCtimes(dir)
	if err != nil {
		return nil, err
	}
	rec, err := readRecord(dir)
	if err != nil {
		return nil, err
	}
	if rec.Boot != now.boot || rec.Changed.Meta != changed.Meta || rec.Changed.Chunks != changed.Chunks {
		if err := rec.verify(dir); err != nil {
			return nil, err
		}
	}
	l := &Layer{dir: dir, info: rec.Info, size: rec.ChunkBytes, sums: rec.Sums, boot: now.boot, whole: make(chan struct{})}
	if rec.DiffID != "" {
		l.proven.Store(&rec.Info)
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, l.free())
		}
	}()
	if l.table, err = openTable(filepath.Join(dir, chunksName)); err != nil {
		return nil, err
	}
	if rec.PrefetchChunks > l.table.count || (rec.ChunkBytes == 0) != (l.table.count == 0) {
		return nil, damaged("%s: is not about this chunk table", recordName)
	}
	if l.data, err = openData(l.DataPath(), rec.DataSize); err != nil {
		return nil, err
	}
	l.direct = openDirect(l.DataPath())
	if l.presence, err = openPresence(filepath.Join(dir, presentName), l.table.count); err != nil {
		return nil, err
	}
	for _, name := range []string{indexName, skeletonName, tocName} {
		if err := clearWay(filepath.Join(dir, name)); err != nil {
			return nil, err
		}
	}
	l.cleared = clearLeft(dir, rec)
	if err := l.believe(rec, now, changed.Data); err != nil {
		return nil, err
	}
	l.recent, l.lost = make([]uint32, bitmapWords(l.table.count)), make([]uint32, bitmapWords(l.table.count))
	l.announce()
	return l, nil
}

func openData(name string, size int64) (*os.File, error) {
	f, err := os.OpenFile(name, os.O_RDWR, 0)
	if err != nil {
		return nil, err
	}
	if st, err := f.Stat(); err != nil || st.Size() != size {
		return nil, errors.Join(damaged("%s: not %d bytes", dataName, size), err, f.Close())
	}
	return f, nil
}

// Close gives the layer back. The last Close of a layer unmaps its files.
func (l *Layer) Close() error {
	last, removed := l.store.release(l)
	if !last {
		return nil
	}
	err := l.free()
	if removed {
		l.charge.set(0)
	}
	if err != nil {
		return fmt.Errorf("close layer %s: %w", l.digest, err)
	}
	return nil
}

func (l *Layer) free() error {
	errs := []error{l.table.unmap(), l.presence.unmap(), l.index.unmap()}
	for _, f := range []*os.File{l.data, l.direct, l.skeleton} {
		if f != nil {
			errs = append(errs, f.Close())
		}
	}
	return errors.Join(errs...)
}

// Digest returns that of the layer's blob.
func (l *Layer) Digest() digest.Digest { return l.digest }

// Info returns what the layer is.
func (l *Layer) Info() Info {
	info := l.info
	if p := l.proven.Load(); p != nil {
		info.DiffID, info.Padded = p.DiffID, p.Padded
	}
	return info
}

// MetadataPath returns the path of the metadata image, gone once the layer is removed.
func (l *Layer) MetadataPath() string { return filepath.Join(l.dir, metaName) }

// DataPath returns the path of the data file, gone once the layer is removed.
func (l *Layer) DataPath() string { return filepath.Join(l.dir, dataName) }

// File returns the data file, valid until Close. What it holds where Has does not say so is meaningless.
func (l *Layer) File() *os.File { return l.data }

// Size returns the uncompressed bytes of all chunks.
func (l *Layer) Size() int64 { return l.size }

// NumChunks returns how many chunks the layer has.
func (l *Layer) NumChunks() int { return l.table.count }

// Chunk returns chunk i of [0, NumChunks()).
func (l *Layer) Chunk(i int) Chunk { return l.table.chunk(i) }

// Trim takes the chunk table out of the process's memory, for whoever has looked at much of it: tables are long, and one whose
// pages are not used again soon is better left to the page cache, whence they come back as they are needed.
func (l *Layer) Trim() { l.table.trim() }

// Find returns the first chunk that ends after byte off of the address space, or NumChunks() if there is none.
func (l *Layer) Find(off int64) int { return l.table.find(off) }

// Put stores chunk i. Bytes whose digest is not the chunk's are not written, and the error is a *DigestError; else it wraps
// ErrNotStored. Storing a chunk again is harmless.
func (l *Layer) Put(i int, p []byte) error {
	c := l.table.chunk(i)
	if got := l.sums.of(p); got != c.Digest {
		return &DigestError{Chunk: i, Got: l.sums.digest(got), Want: l.sums.digest(c.Digest)}
	}
	return l.put(i, c, p)
}

func (l *Layer) put(i int, c Chunk, p []byte) error {
	defer l.storing(i)()
	if isSet(l.presence.present, i) {
		return nil
	}
	if err := l.charge.add(c.onDisk()); err != nil {
		return fmt.Errorf("chunk %d of layer %s: %w", i, l.digest, err)
	}
	_, err := l.data.WriteAt(p, c.DataOffset)
	if err != nil {
		l.charge.drop(c.onDisk())
		err = fmt.Errorf("chunk %d of layer %s: %w: %w", i, l.digest, ErrNotStored, err)
	}
	l.charge.budget.wrote(c.Size, err)
	if err != nil {
		return err
	}
	if !l.mark(i, c.Size) { // somebody else was faster
		l.charge.drop(c.onDisk())
	}
	return nil
}

// storing keeps Shed from taking chunks away, while chunk i is stored, until the function that it returns is called. How much of a claim is on
// the disk, and counted already, nobody knows: where one was settled the layer is counted anew.
func (l *Layer) storing(i int) (done func()) {
	l.content.RLock()
	claimed := isSet(l.presence.claimed, i)
	return func() {
		settled := claimed && !isSet(l.presence.claimed, i)
		l.content.RUnlock()
		if settled {
			l.recount()
		}
	}
}

// Usage returns the bytes that the layer's files occupy on disk; 0 when it was removed.
func (l *Layer) Usage() (int64, error) {
	n, err := dirUsage(l.dir)
	if errors.Is(err, fs.ErrNotExist) {
		return 0, nil
	}
	if err != nil {
		return 0, fmt.Errorf("usage of layer %s: %w", l.digest, err)
	}
	return n, nil
}

package cache

import (
	"bufio"
	"cmp"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"

	"github.com/opencontainers/go-digest"
)

// The skeleton of a layer is what its blob decompresses to besides chunks: headers of the tar, and what fills up its blocks. Together with
// the data file it makes the tar, whose digest is the layer's diffID. It comes in pieces, one for each stream of the blob, in whatever
// order streams are fetched, and lies in a file of records that is only appended to, all little endian:
//
//	record  BlobOffset u64, size u32, CRC-32C u32 of the twelve bytes before, CRC-32C u32 of the piece, the piece
//
// Nobody has to believe it: the diffID that comes of it is the proof. So it is never synced; what a crash has torn or lost of it, with
// all that follows in the file, is absent, and is fetched again by whoever needs it. It goes when the diffID is known.
//
// With it goes the layer's TOC, as compressed: streams whose chunks were copied from other layers have no piece, and most of what is in a
// header is in the TOC too.
const (
	tocName        = "toc"
	skeletonName   = "skeleton"
	skeletonHeader = 8 + 4 + 4 + 4

	// MaxPiece is the most bytes of a piece that is kept. Headers and padding between two files are a few KiB.
	MaxPiece = 1 << 20
)

// AppendPiece appends a record to records for KeepPieces: what the stream at offset stream of the blob has besides chunks.
func AppendPiece(records []byte, stream int64, piece []byte) []byte {
	at := len(records)
	records = binary.LittleEndian.AppendUint64(records, uint64(stream))
	records = binary.LittleEndian.AppendUint32(records, uint32(len(piece)))
	records = binary.LittleEndian.AppendUint32(records, crc32.Checksum(records[at:], castagnoli))
	records = binary.LittleEndian.AppendUint32(records, crc32.Checksum(piece, castagnoli))
	return append(records, piece...)
}

// KeepPieces adds records to the layer's skeleton. The error wraps ErrNotStored.
func (l *Layer) KeepPieces(records []byte) error {
	l.skeletonMu.Lock()
	defer l.skeletonMu.Unlock()
	if len(records) == 0 || l.proven.Load() != nil || l.noSkeleton { // nobody needs it any more
		return nil
	}
	if l.skeleton == nil {
		f, cut, err := appendSkeleton(filepath.Join(l.dir, skeletonName))
		l.charge.drop(cut)
		if err != nil {
			return fmt.Errorf("skeleton of layer %s: %w: %w", l.digest, ErrNotStored, err)
		}
		l.skeleton = f
	}
	if err := l.charge.add(int64(len(records))); err != nil {
		return fmt.Errorf("skeleton of layer %s: %w", l.digest, err) // what lacks is fetched for the proof
	}
	if n, err := l.skeleton.Write(records); err != nil {
		l.charge.drop(int64(len(records) - n)) // dropSkeleton does the rest
		// Half a record would hide all that comes after it.
		return errors.Join(fmt.Errorf("skeleton of layer %s: %w: %w", l.digest, ErrNotStored, err), l.dropSkeleton())
	}
	return nil
}

// appendSkeleton opens a skeleton, and cuts off the bytes that a crash has left behind its last whole record: they would hide all that comes.
func appendSkeleton(name string) (_ *os.File, cut int64, err error) {
	f, err := os.OpenFile(name, os.O_RDWR|os.O_CREATE|os.O_APPEND, 0o600)
	if err != nil {
		return nil, 0, err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, f.Close())
		}
	}()
	st, err := f.Stat()
	if err != nil {
		return nil, 0, err
	}
	old := Skeleton{file: f}
	end, err := old.index()
	if err != nil {
		return nil, 0, err
	}
	if err := f.Truncate(end); err != nil {
		return nil, 0, err
	}
	return f, st.Size() - end, nil
}

// GiveUpSkeleton removes the layer's skeleton, for as long as the layer is open: it would grow each time that something is fetched again.
func (l *Layer) GiveUpSkeleton() error {
	l.skeletonMu.Lock()
	defer l.skeletonMu.Unlock()
	l.noSkeleton = true
	return errors.Join(l.dropSkeleton(), l.drop(tocName))
}

// DropSkeleton has the layer's skeleton begin anew: it is not what it should be. The TOC stays, whose digest is known.
func (l *Layer) DropSkeleton() error {
	l.skeletonMu.Lock()
	defer l.skeletonMu.Unlock()
	return l.dropSkeleton()
}

func (l *Layer) dropSkeleton() (err error) {
	if l.skeleton != nil {
		err = l.skeleton.Close()
		l.skeleton = nil
	}
	return errors.Join(err, l.drop(skeletonName))
}

// drop removes a file that is charged with its size.
func (l *Layer) drop(name string) error {
	name = filepath.Join(l.dir, name)
	st, err := os.Stat(name)
	if err == nil {
		err = os.Remove(name)
	}
	switch {
	case err == nil:
		l.charge.drop(st.Size())
	case errors.Is(err, fs.ErrNotExist):
		return nil
	}
	return err
}

// KeepTOC keeps the layer's TOC, as compressed, for as long as its skeleton. The error wraps ErrNotStored.
func (l *Layer) KeepTOC(compressed []byte) error {
	l.skeletonMu.Lock()
	defer l.skeletonMu.Unlock()
	if l.proven.Load() != nil || l.noSkeleton {
		return nil
	}
	err := l.drop(tocName)
	if err == nil {
		err = l.charge.add(int64(len(compressed)))
	}
	if err != nil {
		return fmt.Errorf("TOC of layer %s: %w: %w", l.digest, ErrNotStored, err)
	}
	if err := writeFile(filepath.Join(l.dir, tocName), compressed); err != nil {
		l.charge.drop(int64(len(compressed)))
		return fmt.Errorf("TOC of layer %s: %w: %w", l.digest, ErrNotStored, err)
	}
	return nil
}

// TOC opens what KeepTOC has kept. The caller closes it, and compares it with the TOC's digest. The error wraps fs.ErrNotExist if there is none.
func (l *Layer) TOC() (*os.File, error) {
	f, err := os.Open(filepath.Join(l.dir, tocName))
	if err != nil {
		return nil, fmt.Errorf("TOC of layer %s: %w", l.digest, err)
	}
	return f, nil
}

// forgetTar removes what was kept for SetDiffID.
func (l *Layer) forgetTar() error {
	l.skeletonMu.Lock()
	defer l.skeletonMu.Unlock()
	return errors.Join(l.dropSkeleton(), l.drop(tocName))
}

// SetDiffID records, durably, what the digest of the layer's tar is, and those that go for it as well, as they were computed of all of its
// contents. Info has them from then on, and the skeleton goes, with the TOC.
func (l *Layer) SetDiffID(d digest.Digest, padded ...digest.Digest) error {
	l.sealing.Lock() // layer.json is read and written again
	defer l.sealing.Unlock()
	rec, err := readRecord(l.dir)
	if err == nil {
		rec.DiffID, rec.Padded = d, padded
		err = rec.writeSynced(l.dir)
	}
	if err == nil {
		l.proven.Store(&Info{DiffID: d, Padded: padded})
		err = l.forgetTar()
	}
	if err != nil {
		return fmt.Errorf("diffID of layer %s: %w", l.digest, err)
	}
	return nil
}

// Skeleton reads the pieces of a layer's skeleton. It belongs to one goroutine.
type Skeleton struct {
	file   *os.File  // nil if there is none
	pieces []pieceAt // by stream
	buf    []byte
}

// pieceAt is where a piece is. There may be a hundred thousand.
type pieceAt struct {
	stream, at int64 // at is behind the record's header
	size, sum  uint32
}

// Skeleton returns what there is of the layer's skeleton. The caller closes it.
func (l *Layer) Skeleton() (*Skeleton, error) {
	f, err := os.Open(filepath.Join(l.dir, skeletonName))
	if errors.Is(err, fs.ErrNotExist) {
		return &Skeleton{}, nil
	}
	if err != nil {
		return nil, fmt.Errorf("skeleton of layer %s: %w", l.digest, err)
	}
	s := &Skeleton{file: f}
	if _, err := s.index(); err != nil {
		return nil, errors.Join(fmt.Errorf("skeleton of layer %s: %w", l.digest, err), f.Close())
	}
	return s, nil
}

// index finds the records, up to one that is damaged, and returns where they end.
func (s *Skeleton) index() (end int64, err error) {
	in := bufio.NewReaderSize(s.file, 64<<10)
	for {
		p, err := readPiece(in)
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return 0, err
		}
		p.at += end
		s.pieces = append(s.pieces, p)
		end = p.at + int64(p.size)
	}
	slices.SortStableFunc(s.pieces, func(a, b pieceAt) int { return cmp.Compare(a.stream, b.stream) })
	return end, nil
}

// readPiece reads a record, and passes over its piece. The error is io.EOF where no whole one is.
func readPiece(in *bufio.Reader) (pieceAt, error) {
	var h [skeletonHeader]byte
	if _, err := io.ReadFull(in, h[:]); err != nil {
		return pieceAt{}, ended(err)
	}
	if crc32.Checksum(h[:12], castagnoli) != binary.LittleEndian.Uint32(h[12:]) {
		return pieceAt{}, io.EOF
	}
	p := pieceAt{
		stream: int64(binary.LittleEndian.Uint64(h[:])), at: skeletonHeader,
		size: binary.LittleEndian.Uint32(h[8:]), sum: binary.LittleEndian.Uint32(h[16:]),
	}
	_, err := in.Discard(int(p.size))
	return p, ended(err)
}

// ended makes one of the two ways in which a file ends.
func ended(err error) error {
	if errors.Is(err, io.ErrUnexpectedEOF) {
		return io.EOF
	}
	return err
}

// Has reports whether there seems to be a piece of a stream.
func (s *Skeleton) Has(stream int64) bool {
	i, ok := s.find(stream)
	return ok && s.pieces[i].size <= MaxPiece
}

// find returns the first piece of a stream.
func (s *Skeleton) find(stream int64) (i int, ok bool) {
	return slices.BinarySearchFunc(s.pieces, stream, func(p pieceAt, at int64) int { return cmp.Compare(p.stream, at) })
}

// Piece returns that of a stream, valid until the next call; false if there is none, or none that is as it was written.
func (s *Skeleton) Piece(stream int64) ([]byte, bool) {
	i, _ := s.find(stream)
	for ; i < len(s.pieces) && s.pieces[i].stream == stream; i++ {
		p := s.pieces[i]
		if p.size > MaxPiece {
			continue
		}
		s.buf = slices.Grow(s.buf[:0], int(p.size))[:p.size]
		if _, err := s.file.ReadAt(s.buf, p.at); err == nil && crc32.Checksum(s.buf, castagnoli) == p.sum {
			return s.buf, true
		}
	}
	return nil, false
}

// Close closes the skeleton's file.
func (s *Skeleton) Close() error {
	if s.file == nil {
		return nil
	}
	return s.file.Close()
}

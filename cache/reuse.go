package cache

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"slices"
	"sync"

	"github.com/opencontainers/go-digest"
	"golang.org/x/sys/unix"
)

// A chunk that another layer has is copied from there, not fetched: layers of another version of an image, for the most part. What layers
// have chunks in common with one is found out once, by going through the indexes of both, in the order of digests: that takes as long as the
// shorter of them is. So nothing stays in memory for a layer of the store but its digest, however many there are, and for a layer whose chunks are
// looked for, the digests of those that have some of them. Layers that have come since are gone through when chunks are looked for again.

// ErrNoCopy is returned by Sources.Copy for a chunk that no other layer has, or has undamaged.
var ErrNoCopy = errors.New("no other layer has the chunk")

// maxOrigins is how many layers chunks of one are looked for in: those that have most of it.
const maxOrigins = 128

// arrival is a layer of the store.
type arrival struct {
	digest digest.Digest
	serial uint64 // in the order in which layers came
}

// arrivals are all layers of a store. The zero value does not know them yet.
type arrivals struct {
	mu     sync.Mutex
	known  bool
	list   []arrival // in the order of serial
	serial uint64    // of the last one
}

// add takes note of a layer that has come, if the others are known: else it will be found with them.
func (a *arrivals) add(d digest.Digest) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.known {
		a.put(d)
	}
}

func (a *arrivals) put(d digest.Digest) {
	a.drop(d)
	a.serial++
	a.list = append(a.list, arrival{d, a.serial})
}

// remove takes note of one that has gone.
func (a *arrivals) remove(d digest.Digest) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.drop(d)
}

func (a *arrivals) drop(d digest.Digest) {
	a.list = slices.DeleteFunc(a.list, func(o arrival) bool { return o.digest == d })
}

// since lists the layers that came after the one with a serial, and returns the serial of the last one. list tells what there is on disk.
func (a *arrivals) since(serial uint64, list func() ([]digest.Digest, error)) ([]digest.Digest, uint64) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if !a.known {
		found, err := list()
		if err != nil {
			return nil, serial // the next time
		}
		a.known = true
		for _, d := range found {
			a.put(d)
		}
	}
	i, _ := slices.BinarySearchFunc(a.list, serial+1, func(o arrival, s uint64) int { return cmp.Compare(o.serial, s) })
	var out []digest.Digest
	for _, o := range a.list[i:] {
		out = append(out, o.digest)
	}
	return out, a.serial
}

// origins are the layers that have chunks of one.
type origins struct {
	mu   sync.Mutex
	seen uint64 // the last arrival that was gone through
	list []origin
}

type origin struct {
	digest digest.Digest
	bytes  int64 // of chunks in common
}

// findOrigins returns the layers that have chunks of l, those that have most of it first.
func (l *Layer) findOrigins() []origin {
	if l.sums != sha256Sums || l.Complete() {
		return nil
	}
	o := &l.origins
	o.mu.Lock()
	defer o.mu.Unlock()
	var fresh []digest.Digest
	fresh, o.seen = l.store.arrivals.since(o.seen, l.store.List)
	if len(fresh) == 0 {
		return slices.Clone(o.list)
	}
	own := l.index.get(l.dir)
	defer own.trim()
	defer l.Trim()
	for _, d := range fresh {
		if d == l.digest {
			continue
		}
		o.list = slices.DeleteFunc(o.list, func(old origin) bool { return old.digest == d })
		if bytes := l.common(own, d); bytes > 0 {
			o.list = append(o.list, origin{d, bytes})
		}
	}
	slices.SortStableFunc(o.list, func(a, b origin) int { return cmp.Compare(b.bytes, a.bytes) })
	if len(o.list) > maxOrigins {
		o.list = slices.Delete(o.list, maxOrigins, len(o.list))
	}
	return slices.Clone(o.list)
}

// common returns how many bytes of l's chunks another layer has, present or not. One that has no index has none.
func (l *Layer) common(own *index, d digest.Digest) (bytes int64) {
	other, err := openIndex(l.store.layerDir(d))
	if err != nil {
		return 0
	}
	own.meet(&other, func(chunk int) {
		if chunk < l.table.count {
			bytes += l.table.size(chunk)
		}
	})
	if other.unmap() != nil {
		return 0 // it never happens
	}
	return bytes
}

// forgetOrigin drops a layer that is gone.
func (l *Layer) forgetOrigin(d digest.Digest) {
	l.origins.mu.Lock()
	defer l.origins.mu.Unlock()
	l.origins.list = slices.DeleteFunc(l.origins.list, func(o origin) bool { return o.digest == d })
}

// Sources are other layers of the store that have chunks of one. They are open, so it is for a short time, but they may be removed meanwhile: then
// they have what they had. It belongs to one goroutine.
type Sources struct {
	to     *Layer
	layers []*Layer
}

// Sources finds the other layers that have chunks of l, present or not. The caller closes them.
func (l *Layer) Sources() *Sources {
	s := &Sources{to: l}
	for _, o := range l.findOrigins() {
		from, err := l.store.Get(o.digest)
		if err != nil { // removed, or damaged
			l.forgetOrigin(o.digest)
			continue
		}
		s.layers = append(s.layers, from)
	}
	return s
}

// Close lets go of the layers.
func (s *Sources) Close() error {
	var errs []error
	for _, l := range s.layers {
		errs = append(errs, l.Close())
	}
	return errors.Join(errs...)
}

// Any reports whether there are layers at all.
func (s *Sources) Any() bool { return len(s.layers) > 0 }

// Has reports whether one of the layers holds chunk i, as far as that can be told without hashing it.
func (s *Sources) Has(i int) bool {
	d := s.to.table.chunk(i).Digest
	for _, from := range s.layers {
		if slices.ContainsFunc(from.withDigest(d), func(j int) bool { return from.Claimed(j) || from.Has(j) }) {
			return true
		}
	}
	return false
}

// Copy brings chunk i from one of the layers. buf has room for it, and holds its bytes then, also if the error wraps ErrNotStored, which is when
// they are right and could not be written. With share they are not written where the file system can have both layers share them; then
// nobody else may Put the chunk at the same time. The error is ErrNoCopy if none of the layers has the right bytes.
func (s *Sources) Copy(i int, buf []byte, share bool) error {
	c := s.to.table.chunk(i)
	buf = buf[:c.Size]
	for _, from := range s.layers {
		for _, j := range from.withDigest(c.Digest) {
			if !from.copyChunk(j, buf) {
				continue
			}
			if share && s.to.sums.of(buf) == c.Digest && s.to.cloneChunk(i, from, j, buf) {
				return nil
			}
			err := s.to.Put(i, buf)
			if wrong := (*DigestError)(nil); errors.As(err, &wrong) {
				continue // from a disk that has changed it
			}
			return err
		}
	}
	return fmt.Errorf("chunk %d of layer %s: %w", i, s.to.digest, ErrNoCopy)
}

// copyChunk reads chunk i into buf, of its size, and reports whether the layer has it. Its digest is for the caller to check.
func (l *Layer) copyChunk(i int, buf []byte) bool {
	c := l.table.chunk(i)
	if c.Size != int64(len(buf)) || !l.Has(i) {
		return false
	}
	_, ok, err := l.ReadHeld(buf, c.DataOffset, func(int) bool { return false })
	return ok && err == nil
}

// shareBlock is what offsets and sizes of what files share are multiples of, where file systems have blocks as small as most do.
const shareBlock = 4096

// cloneChunk has the data file share the blocks of another one for chunk i, which is chunk j there, and marks it present. want are its bytes,
// checked: what the other disk blocks have may be something else than the page cache, whence they come. It reports false where that cannot
// be done, or has gone wrong: then the bytes have to be written.
func (l *Layer) cloneChunk(i int, from *Layer, j int, want []byte) bool {
	to, at := l.table.chunk(i), from.table.chunk(j)
	size := (to.Size + shareBlock - 1) &^ (shareBlock - 1)
	if l.store.noClone.Load() || to.DataOffset%shareBlock != 0 || at.DataOffset%shareBlock != 0 || !l.alone(i, size) || !from.alone(j, size) {
		return false
	}
	defer from.Pin()()
	defer l.storing(i)()
	if isSet(l.presence.present, i) || !isSet(from.presence.present, j) || l.charge.add(to.onDisk()) != nil {
		return false
	}
	err := unix.IoctlFileCloneRange(int(l.data.Fd()), &unix.FileCloneRange{
		Src_fd: int64(from.data.Fd()), Src_offset: uint64(at.DataOffset), Src_length: uint64(size), Dest_offset: uint64(to.DataOffset),
	})
	if err != nil {
		if errors.Is(err, unix.EOPNOTSUPP) || errors.Is(err, unix.ENOTTY) || errors.Is(err, unix.EXDEV) {
			l.store.noClone.Store(true)
		}
		l.charge.drop(to.onDisk())
		return false
	}
	if !l.holds(to.DataOffset, want, size) {
		l.charge.drop(to.onDisk())
		return false
	}
	l.mark(i, to.Size)
	return true
}

// alone reports whether size bytes from the beginning of chunk i on hold no other chunk.
func (l *Layer) alone(i int, size int64) bool {
	end := l.table.chunk(i).DataOffset + size
	if i+1 < l.table.count {
		return l.table.chunk(i+1).DataOffset >= end
	}
	return end <= l.info.DataSize
}

// holds reads size bytes of the data file and reports whether they are want, and zeros behind that.
func (l *Layer) holds(off int64, want []byte, size int64) bool {
	buf := make([]byte, min(size, 64<<10))
	for at := int64(0); at < size; at += int64(len(buf)) {
		buf = buf[:min(size-at, int64(len(buf)))]
		if _, err := l.data.ReadAt(buf, off+at); err != nil {
			return false
		}
		n := min(max(int64(len(want))-at, 0), int64(len(buf)))
		if !bytes.Equal(buf[:n], want[at:at+n]) || !bytes.Equal(buf[n:], zeroBlock[:int64(len(buf))-n]) {
			return false
		}
	}
	return true
}

package cache

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"time"

	"golang.org/x/sys/unix"
)

// shedBatch is how many bytes are taken away at a time: readers of the layer wait for it.
const shedBatch = 16 << 20

// ReadHeld is ReadAt if the data file has all chunks that have bytes of [off, off+len(p)), but those that kept names: ok says so. Until it
// returns nothing is taken away.
func (l *Layer) ReadHeld(p []byte, off int64, kept func(chunk int) bool) (n int, ok bool, err error) {
	l.content.RLock()
	defer l.content.RUnlock()
	if !l.covers(off, int64(len(p)), kept) {
		return 0, false, nil
	}
	n, err = l.data.ReadAt(p, off)
	return n, true, err
}

// covers says whether a range can be read, and takes note of its use, where that matters. l.content is held.
func (l *Layer) covers(off, size int64, kept func(chunk int) bool) bool {
	complete, noting := l.Complete(), !l.store.Spacious()
	if complete && !noting {
		return true // without a look at the chunk table
	}
	for i := l.table.find(off); i < l.table.count && l.table.chunk(i).DataOffset-off < size; i++ {
		if !complete && !isSet(l.presence.present, i) && !kept(i) {
			return false
		}
		if noting && !isSet(l.recent, i) {
			set(l.recent, i)
		}
	}
	return true
}

// Pin keeps Shed from taking anything away until the function that it returns is called.
func (l *Layer) Pin() (unpin func()) {
	l.content.RLock()
	defer l.content.RUnlock()
	l.pins.Add(1)
	return func() { l.pins.Add(-1) }
}

// Shed takes chunks from the disk, some want bytes of them, and returns how many it were: 0 where nothing can be taken. They are absent then,
// and can be fetched again. Those that were not read since the last time, when the store was not spacious, go first. Nothing is taken of a
// layer that was sealed in this boot, for a native mount may have it, nor of one whose chunks cannot be fetched one by one.
func (l *Layer) Shed(want int64) (freed int64, err error) {
	if !l.sealing.TryLock() {
		return 0, nil
	}
	defer l.sealing.Unlock()
	if !l.yields() {
		return 0, nil
	}
	defer l.Trim()
	for steps := 2 * l.table.count; steps > 0 && freed < want && err == nil; {
		var batch []int
		if batch, steps = l.sweep(min(want-freed, shedBatch), steps); len(batch) == 0 {
			break
		}
		var n int64
		n, err = l.discard(batch)
		freed += n
	}
	if freed > 0 && !l.shed.Swap(true) {
		err = errors.Join(err, l.GiveUpSkeleton())
	}
	if err != nil {
		err = fmt.Errorf("take contents of layer %s from the disk: %w", l.digest, err)
	}
	return freed, err
}

// yields says whether chunks can be taken away.
func (l *Layer) yields() bool { return l.sums == sha256Sums && !l.native.Load() && !l.doubtful }

// Fixed returns how many of the layer's bytes on disk Shed cannot take: all of them, or about what is no chunk.
func (l *Layer) Fixed() int64 {
	n := l.charge.bytes.Load()
	if l.yields() {
		n = max(0, n-l.presentBytes.Load())
	}
	return n
}

// HasShed says whether something was taken away since the layer was opened, or sealed.
func (l *Layer) HasShed() bool { return l.shed.Load() }

// sweep moves the hand of a clock over at most so many chunks: it passes over those that were read since it came by, and returns others, of
// want bytes. l.sealing is held.
func (l *Layer) sweep(want int64, steps int) (batch []int, left int) {
	for ; steps > 0 && want > 0; steps-- {
		i := l.hand
		l.hand = (l.hand + 1) % l.table.count
		if !isSet(l.presence.present, i) && !isSet(l.presence.claimed, i) || unset(l.recent, i) {
			continue
		}
		batch = append(batch, i)
		want -= l.table.chunk(i).onDisk()
	}
	return batch, steps
}

// discard makes chunks absent, and gives their blocks back.
func (l *Layer) discard(chunks []int) (freed int64, err error) {
	l.content.Lock()
	defer l.content.Unlock()
	if l.pins.Load() > 0 {
		return 0, nil
	}
	slices.Sort(chunks)
	chunks = slices.Compact(chunks) // the hand may have come by twice
	claims := false
	for len(chunks) > 0 && err == nil {
		n := 1 // of those that lie side by side the hole is one
		for n < len(chunks) && chunks[n] == chunks[n-1]+1 {
			n++
		}
		var held int64
		var some bool
		held, some, err = l.discardRun(chunks[:n])
		freed, claims, chunks = freed+held, claims || some, chunks[n:]
	}
	if err != nil {
		l.recountHeld() // who knows what is free
	} else if claims {
		freed += max(0, l.recountHeld())
	}
	return freed, err
}

// discardRun does so for chunks that lie side by side. What claims among them had on the disk nobody knows: it is not in freed. Chunks whose
// blocks cannot be given back stay counted, as lost ones.
func (l *Layer) discardRun(chunks []int) (freed int64, claims bool, err error) {
	for _, i := range chunks {
		if l.loseHeld(i) {
			freed += l.table.chunk(i).onDisk()
		} else {
			claims = true
		}
	}
	if err := l.punch(chunks[0], chunks[len(chunks)-1]); err != nil {
		return 0, claims, err
	}
	for _, i := range chunks {
		unset(l.presence.claimed, i)
	}
	l.charge.drop(freed)
	return freed, claims, nil
}

// punch frees the blocks of chunks [first, last], which are absent: those too that they share with others which are absent.
func (l *Layer) punch(first, last int) error {
	from, to := l.table.chunk(first), l.table.chunk(last)
	begin, end := from.DataOffset, to.DataOffset+to.Size
	if down := begin / fillBlock * fillBlock; l.vacant(first-1, -1, down, begin) {
		begin = down
	} else {
		begin = blocks(begin)
	}
	if up := blocks(end); l.vacant(last+1, 1, end, up) {
		end = up
	} else {
		end = end / fillBlock * fillBlock
	}
	if begin >= end {
		return nil
	}
	err := unix.Fallocate(int(l.data.Fd()), unix.FALLOC_FL_PUNCH_HOLE|unix.FALLOC_FL_KEEP_SIZE, begin, end-begin)
	return os.NewSyscallError("fallocate", err)
}

// vacant reports whether no chunk from i on, in the direction of step, has bytes of [begin, end) on disk.
func (l *Layer) vacant(i, step int, begin, end int64) bool {
	for ; i >= 0 && i < l.table.count; i += step {
		c := l.table.chunk(i)
		if c.DataOffset+c.Size <= begin || c.DataOffset >= end {
			break
		}
		if isSet(l.presence.present, i) || isSet(l.presence.claimed, i) {
			return false
		}
	}
	return true
}

// recount has the layer charged with what it takes on disk. Half-written chunks, blocks that a disk has lost, and those of the file system's
// own make the difference. It waits for what is being stored.
func (l *Layer) recount() {
	l.content.Lock()
	defer l.content.Unlock()
	l.recountHeld()
}

// recountHeld is recount for who holds l.content. It returns how many bytes less are charged.
func (l *Layer) recountHeld() (less int64) {
	l.skeletonMu.Lock() // nor is a piece of it half-way between the charge and the disk
	defer l.skeletonMu.Unlock()
	n, err := dirUsage(l.dir)
	if err != nil {
		return 0 // it was removed, and is charged until it is closed
	}
	less = l.charge.bytes.Load() - n
	l.charge.drop(less)
	return less
}

// Touch records that the layer is used now, for LastUse in this process and later ones.
func (l *Layer) Touch() {
	now := time.Now()
	_ = os.Chtimes(l.dir, now, now) // files have ctimes that matter; without this other layers go first
}

// LastUse returns when Touch was called last, or files of the layer made or replaced. The error wraps fs.ErrNotExist if it was removed.
func (l *Layer) LastUse() (time.Time, error) {
	st, err := os.Stat(l.dir)
	if err != nil {
		return time.Time{}, fmt.Errorf("last use of layer %s: %w", l.digest, err)
	}
	return st.ModTime(), nil
}

// AwaitRoom is that of the layer's store.
func (l *Layer) AwaitRoom(ctx context.Context) error { return l.store.AwaitRoom(ctx) }

package cache

import (
	"errors"
	"fmt"

	"golang.org/x/sys/unix"
)

// ErrIncomplete is returned by Seal for a layer that lacks chunks.
var ErrIncomplete = errors.New("not all chunks are present")

// Whole is closed when all chunks have become present.
func (l *Layer) Whole() <-chan struct{} { return l.whole }

// Seal makes sure that the disk has taken the data file of a layer whose chunks are all present: until then, a write
// that fails behind the back of the page cache may still lose some of it. Afterwards the data file needs no Has before
// it is read, until the next boot. Where the disk has failed, all chunks are claims again. It waits for the disk.
func (l *Layer) Seal() error {
	if !l.Complete() {
		return fmt.Errorf("seal layer %s: %w", l.digest, ErrIncomplete)
	}
	if err := l.data.Sync(); err != nil {
		return fmt.Errorf("seal layer %s: %w", l.digest, errors.Join(err, l.distrust()))
	}
	return nil
}

// distrust turns what is present into claims, to be hashed as the disk has it.
func (l *Layer) distrust() error {
	for i := range l.table.count {
		if isSet(l.presence.present, i) {
			set(l.presence.claimed, i) // before it is no longer present: at no time it is neither
			l.unmark(i, l.table.chunk(i).Size)
		}
	}
	// Pages whose writing failed count as clean, and would be hashed as if they were on disk.
	if err := unix.Fadvise(int(l.data.Fd()), 0, 0, unix.FADV_DONTNEED); err != nil {
		return fmt.Errorf("drop cached pages: %w", err)
	}
	return nil
}

func (l *Layer) unmark(i int, size int64) {
	if unset(l.presence.present, i) {
		l.presentChunks.Add(-1)
		l.presentBytes.Add(-size)
	}
}

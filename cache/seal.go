package cache

import (
	"context"
	"errors"
	"fmt"

	"golang.org/x/sys/unix"
)

// ErrIncomplete is returned by Seal for a layer that lacks chunks.
var ErrIncomplete = errors.New("not all chunks are present")

// Whole returns a channel that is closed when all chunks are present. Where a disk that fails takes some away again, the
// next call returns another one.
func (l *Layer) Whole() <-chan struct{} {
	l.wholeMu.Lock()
	defer l.wholeMu.Unlock()
	return l.whole
}

// announce closes whole if all chunks are present.
func (l *Layer) announce() {
	if !l.Complete() {
		return
	}
	l.wholeMu.Lock()
	defer l.wholeMu.Unlock()
	select {
	case <-l.whole:
	default:
		close(l.whole)
	}
}

// Seal makes sure that the disk has all files of a layer whose chunks are all present, and records that, so that it holds for later
// openings too. From then on the data file may be read without Has. What the disk has not taken is no longer present. It waits for
// the disk, for as long as it takes, and when ctx ends it stops hashing.
//
// Until then, a write that fails behind the back of the page cache may still take some of it away: to whoever had the file
// open fsync tells that, once; so of what an earlier process has stored each chunk is hashed again.
func (l *Layer) Seal(ctx context.Context) error {
	l.sealing.Lock()
	defer l.sealing.Unlock()
	if l.Sealed() {
		return nil
	}
	err := l.seal(ctx)
	if err == nil {
		l.sealed.Store(true)
		l.native.Store(true)
		l.shed.Store(false) // nothing will be any more: what the disk loses is worth being fetched again
		return nil
	}
	if undone := l.unseal(); undone != nil { // an attempt may have come as far as to record it
		l.store.doubtful.Store(true)
		err = errors.Join(err, undone)
	}
	return fmt.Errorf("seal layer %s: %w", l.digest, err)
}

// Sealed says whether the layer is complete and Seal has nothing left to do.
func (l *Layer) Sealed() bool { return l.sealed.Load() && l.Complete() }

func (l *Layer) seal(ctx context.Context) error {
	if !l.Complete() {
		return ErrIncomplete
	}
	if err := l.data.Sync(); err != nil {
		return errors.Join(err, l.discardAll())
	}
	// What is cached is of no use to native mounts, which read past the page cache, and not what is to be hashed.
	if err := l.dropPages(); err != nil {
		return err
	}
	if l.inherited {
		if err := l.verifyAll(ctx); err != nil {
			return err
		}
		l.inherited = false
	}
	if err := l.keepFiles(); err != nil {
		return err
	}
	if err := setSealed(l.dir); err != nil {
		return err
	}
	l.recount()
	return nil
}

// discardAll has all chunks fetched again.
func (l *Layer) discardAll() error {
	for i := range l.table.count {
		l.lose(i)
	}
	l.recount() // the disk may have lost blocks too
	l.Trim()
	return l.dropPages() // those whose writing failed count as clean
}

// verifyAll hashes all chunks.
func (l *Layer) verifyAll(ctx context.Context) error {
	defer l.Trim()
	wrong := 0
	for i := range l.table.count {
		ok, err := l.verify(ctx, i)
		if err != nil {
			return err
		}
		if !ok {
			l.lose(i)
			wrong++
		}
	}
	if wrong > 0 {
		l.recount()
		return fmt.Errorf("the disk has lost %d chunks: %w", wrong, ErrIncomplete)
	}
	return l.dropPages()
}

// verify is intact in its turn: after a restart there may be many layers to be hashed, and none of them is in a hurry.
func (l *Layer) verify(ctx context.Context, i int) (bool, error) {
	if ctx.Err() != nil {
		return false, context.Cause(ctx)
	}
	select {
	case l.store.hashing <- struct{}{}:
		defer func() { <-l.store.hashing }()
		return l.intact(l.table.chunk(i)), nil
	case <-ctx.Done():
		return false, context.Cause(ctx)
	}
}

// Recheck reads and hashes all chunks, and makes those absent that the disk has lost. The error wraps ErrIncomplete if there are any.
func (l *Layer) Recheck(ctx context.Context) error {
	l.sealing.Lock()
	defer l.sealing.Unlock()
	if !l.Complete() {
		return ErrIncomplete
	}
	err := l.verifyAll(ctx)
	if err != nil && l.sealed.Load() && !l.Complete() { // what is stored from now on nobody has synced; native mounts stay
		l.sealed.Store(false)
		if undone := l.unseal(); undone != nil {
			l.store.doubtful.Store(true)
			err = errors.Join(err, undone)
		}
	}
	return err
}

func (l *Layer) dropPages() error {
	if err := unix.Fadvise(int(l.data.Fd()), 0, 0, unix.FADV_DONTNEED); err != nil {
		return fmt.Errorf("drop cached pages of %s: %w", dataName, err)
	}
	return nil
}

// setSealed has layer.json say so, durably.
func setSealed(dir string) error {
	rec, err := readRecord(dir)
	if err != nil {
		return err
	}
	rec.Sealed = true
	if rec.Changed, err = readCtimes(dir); err != nil {
		return err
	}
	return rec.writeSynced(dir)
}

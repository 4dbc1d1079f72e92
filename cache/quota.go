package cache

import (
	"context"
	"errors"
	"fmt"
	"os"
	"sync"
	"sync/atomic"
)

// ErrFull is in the error, which then wraps ErrNotStored too, for what would take the store beyond its quota.
var ErrFull = errors.New("the layer store's quota is reached")

// Quota bounds what a store takes of its file system. The zero value bounds nothing.
type Quota struct {
	Limit int64 // bytes on disk that are never exceeded
	High  int64 // from so many on room is to be made
	Low   int64 // down to so many
}

// budget counts the bytes on disk of a store: those of its layers, of layers on their way into it, and of removed ones that are open still.
type budget struct {
	quota  atomic.Pointer[Quota]
	used   atomic.Int64
	wanted atomic.Int64 // see Wanted

	refused atomic.Int64  // see TakeRefused
	denials atomic.Int64  // see Denials
	pressed chan struct{} // see Pressed

	trouble trouble

	mu      sync.Mutex
	relieve func()        // see SetQuota
	roomy   chan struct{} // closed when used falls below High; nil if nobody waits
}

func newBudget() *budget {
	b := &budget{pressed: make(chan struct{}, 1)}
	b.quota.Store(&Quota{})
	return b
}

// SetQuota bounds the store, also while it is in use: what is there already stays. relieve is called where something cannot be stored for
// want of room, by who can wait for that; it makes what room can be made, and may be nil. It is called without locks, by several goroutines.
func (s *Store) SetQuota(q Quota, relieve func()) {
	s.budget.mu.Lock()
	s.budget.relieve = relieve
	s.budget.mu.Unlock()
	s.budget.quota.Store(&q)
	s.budget.press()
	s.budget.air()
}

// Quota returns the quota that holds now.
func (s *Store) Quota() Quota { return *s.budget.quota.Load() }

// Used returns the bytes that the store takes on disk.
func (s *Store) Used() int64 { return s.budget.used.Load() }

// Pressed receives when there may be something to make room for: the store has come to its high watermark, or the disk is full.
func (s *Store) Pressed() <-chan struct{} { return s.budget.pressed }

// Press has room made if the store has come to its high watermark, for whoever has let go of something.
func (s *Store) Press() { s.budget.press() }

// Crowded says whether the store has come to its high watermark: nothing is to be stored that nobody waits for.
func (s *Store) Crowded() bool { return s.budget.crowded() }

// TakeRefused returns how many bytes were last not stored for the quota, since it was called last; 0 if that did not happen.
func (s *Store) TakeRefused() int64 { return s.budget.refused.Swap(0) }

// Wanted returns the bytes that are waited for until room was made. What becomes free is theirs meanwhile.
func (s *Store) Wanted() int64 { return s.budget.wanted.Load() }

// Denials returns how often something was not stored for the quota, since the store was opened.
func (s *Store) Denials() int64 { return s.budget.denials.Load() }

// Spacious says whether the store is below its low watermark.
func (s *Store) Spacious() bool {
	q := s.Quota()
	return q.Low == 0 || s.Used() < q.Low
}

// AwaitRoom waits until the store is not crowded. The error is ctx's.
func (s *Store) AwaitRoom(ctx context.Context) error {
	for {
		roomy := s.budget.wait()
		if roomy == nil {
			return nil
		}
		select {
		case <-roomy:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

// crowded is Crowded.
func (b *budget) crowded() bool {
	q := b.quota.Load()
	return q.High > 0 && b.used.Load() >= q.High
}

// wait returns a channel that is closed when there is room; nil if there is.
func (b *budget) wait() <-chan struct{} {
	b.mu.Lock()
	defer b.mu.Unlock()
	if !b.crowded() {
		return nil
	}
	if b.roomy == nil {
		b.roomy = make(chan struct{})
	}
	return b.roomy
}

// air lets those go on who wait for room, if there is some.
func (b *budget) air() {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.roomy != nil && !b.crowded() {
		close(b.roomy)
		b.roomy = nil
	}
}

// press has room made, if it is wanted.
func (b *budget) press() {
	if b.crowded() {
		b.alarm()
	}
}

func (b *budget) alarm() {
	select {
	case b.pressed <- struct{}{}:
	default: // it is known
	}
}

// take reserves n bytes on disk. The error wraps ErrFull.
func (b *budget) take(n int64) error {
	err := b.takeBeside(n, b.wanted.Load())
	if err != nil {
		b.denials.Add(1)
	}
	return err
}

// takeBeside reserves n bytes where so many are others'. The error wraps ErrFull.
func (b *budget) takeBeside(n, others int64) error {
	used := b.used.Add(n)
	if q := b.quota.Load(); q.Limit > 0 && n > 0 && used > q.Limit-others {
		b.used.Add(-n)
		b.refused.Store(n)
		b.air() // somebody may have seen what was not taken in the end
		b.alarm()
		return fmt.Errorf("%w: %w: %d bytes more than the %d of %d that are used", ErrNotStored, ErrFull, n, used-n, q.Limit)
	}
	b.press()
	return nil
}

// takeHard is take for who can wait until room is made.
func (b *budget) takeHard(n int64) error {
	err := b.takeBeside(n, b.wanted.Load())
	if err == nil {
		return nil
	}
	b.wanted.Add(n)
	defer b.wanted.Add(-n)
	if b.makeRoom() {
		err = b.takeBeside(n, 0)
	}
	if err != nil {
		b.denials.Add(1)
	}
	return err
}

// makeRoom waits until what room can be made is made, and reports whether there is somebody who does that.
func (b *budget) makeRoom() bool {
	b.mu.Lock()
	relieve := b.relieve
	b.mu.Unlock()
	if relieve == nil {
		return false
	}
	relieve()
	return true
}

// patiently writes for who can wait: on a full disk once more, after room was made. write says how many bytes that are at least.
func (b *budget) patiently(write func() (n int64, err error)) error {
	n, err := write()
	if !IsOutOfSpace(err) {
		return err
	}
	b.wrote(n, err)
	if !b.makeRoom() {
		return err
	}
	if n, err = write(); err == nil || IsOutOfSpace(err) {
		b.wrote(n, err)
	}
	return err
}

// give returns bytes that are on the disk no more. n may be negative: what turned out to be there.
func (b *budget) give(n int64) {
	b.used.Add(-n)
	b.air()
	b.press()
}

// charge is what one layer takes of the budget.
type charge struct {
	budget *budget
	bytes  atomic.Int64
}

// add takes n bytes more for the layer.
func (c *charge) add(n int64) error {
	if err := c.budget.take(n); err != nil {
		return err
	}
	c.bytes.Add(n)
	return nil
}

// drop gives n bytes back.
func (c *charge) drop(n int64) {
	c.bytes.Add(-n)
	c.budget.give(n)
}

// measure charges what a new folder takes. The error wraps ErrFull, and leaves the charge as it was.
func (c *charge) measure(dir string) error {
	n, err := dirUsage(dir)
	if err == nil {
		err = c.budget.takeHard(n - c.bytes.Load())
	}
	if err != nil {
		return err
	}
	c.bytes.Store(n)
	return nil
}

// addHard is add for who can wait until room is made.
func (c *charge) addHard(n int64) error {
	if err := c.budget.takeHard(n); err != nil {
		return err
	}
	c.bytes.Add(n)
	return nil
}

// clear removes a folder, and gives back what it was charged with once that is done.
func (c *charge) clear(dir string) {
	os.RemoveAll(dir) // what is left goes with the next start
	c.set(0)
}

// set corrects the charge to what was found on the disk.
func (c *charge) set(n int64) { c.drop(c.bytes.Load() - n) }

// wrote takes note of how an attempt to write n bytes ended.
func (b *budget) wrote(n int64, err error) {
	b.trouble.note(n, err)
	if IsOutOfSpace(err) {
		b.alarm()
	}
}

// onDisk is what a chunk takes of the data file. Files begin with a block of their own, so the first block of a chunk that begins within
// one is that of the chunk before.
func (c Chunk) onDisk() int64 { return blocks(c.DataOffset+c.Size) - blocks(c.DataOffset) }

// blocks rounds up to whole blocks of the disk.
func blocks(n int64) int64 { return (n + fillBlock - 1) / fillBlock * fillBlock }

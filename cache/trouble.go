package cache

import (
	"errors"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

const (
	// healTime is how long nothing must have failed for a disk to count as healed: room for some megabytes comes and goes.
	healTime = 10 * time.Second

	// leastLayer is for how many bytes there was no room at least, where the files of a layer could not be made.
	leastLayer = 1 << 20
)

// trouble is a disk that does not take what is to be stored.
type trouble struct {
	room func() int64 // bytes that the disk has free; in tests something else

	mu     sync.Mutex
	err    error
	size   int64       // bytes of the last write that failed
	failed time.Time   // when that was
	taken  bool        // something was stored since
	heal   *time.Timer // runs while there is trouble
	told   func(error)
}

// Trouble returns why what comes cannot be stored, as on a full or a failing disk; nil if it can. A quota that is reached is none. It ends
// when nothing has failed for some seconds and something was stored, or a full disk has room again.
func (s *Store) Trouble() error {
	t := &s.budget.trouble
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.err
}

// OutOfSpace says whether the trouble is a disk that is full, when that was found out last, and for how many bytes at least it had no room then.
func (s *Store) OutOfSpace() (last time.Time, size int64, ok bool) {
	t := &s.budget.trouble
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.failed, t.size, IsOutOfSpace(t.err)
}

// HasRoom says whether a disk that was full has more than n bytes free. One that is full by a quota of the file system's own does not tell.
func (s *Store) HasRoom(n int64) bool {
	t := &s.budget.trouble
	t.mu.Lock()
	defer t.mu.Unlock()
	return !errors.Is(t.err, unix.EDQUOT) && t.room() > n
}

// IsOutOfSpace says whether an error is that a disk is full, or that a quota of the file system's own is reached.
func IsOutOfSpace(err error) bool { return errors.Is(err, unix.ENOSPC) || errors.Is(err, unix.EDQUOT) }

// free returns how many bytes the disk has free.
func (s *Store) free() int64 {
	var st unix.Statfs_t
	if unix.Statfs(s.dir, &st) != nil {
		return 0
	}
	return int64(st.Bavail) * st.Bsize
}

// OnTrouble has f told when Trouble begins, with its error, and with nil when it ends. f must not block, nor call the Store.
func (s *Store) OnTrouble(f func(error)) {
	t := &s.budget.trouble
	t.mu.Lock()
	defer t.mu.Unlock()
	t.told = f
}

// note takes note of how an attempt to write n bytes ended.
func (t *trouble) note(n int64, err error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if err == nil {
		t.taken = t.err != nil
		return
	}
	isNew := t.err == nil
	t.err, t.size, t.failed, t.taken = err, n, time.Now(), false
	if isNew {
		t.heal = time.AfterFunc(healTime, t.look)
		t.tell(err)
	} else {
		t.heal.Reset(healTime)
	}
}

// look ends the trouble, if it is over.
func (t *trouble) look() {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.taken || IsOutOfSpace(t.err) && t.room() > 2*t.size {
		t.err, t.heal = nil, nil
		t.tell(nil)
		return
	}
	t.heal.Reset(healTime)
}

func (t *trouble) tell(err error) {
	if t.told != nil {
		t.told(err)
	}
}

// stop ends the wait for its end.
func (t *trouble) stop() {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.heal != nil {
		t.heal.Stop()
	}
}

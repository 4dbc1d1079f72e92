package cache

import (
	"errors"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// healTime is how long after a disk has begun to take what comes again that counts: room for some megabytes comes and goes.
const healTime = 10 * time.Second

// trouble is a disk that does not take what is to be stored. The zero value is none.
type trouble struct {
	mu   sync.Mutex
	err  error
	size int64       // bytes of the smallest write that failed
	heal *time.Timer // runs since a write of that size went well; nil else
	told func(error)
}

// Trouble returns why what comes cannot be stored, as on a full or a failing disk; nil if it can. A quota that is reached is none. It ends
// some seconds after something as large could be stored.
func (s *Store) Trouble() error {
	t := &s.budget.trouble
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.err
}

// OutOfSpace says whether the trouble is a disk that is full.
func (s *Store) OutOfSpace() bool { return outOfSpace(s.Trouble()) }

func outOfSpace(err error) bool { return errors.Is(err, unix.ENOSPC) || errors.Is(err, unix.EDQUOT) }

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
	switch {
	case err == nil && t.err == nil:
	case err == nil:
		if n >= t.size && t.heal == nil {
			t.heal = time.AfterFunc(healTime, t.end)
		}
	case t.err == nil:
		t.err, t.size = err, n
		t.tell(err)
	default:
		t.size = min(t.size, n)
		if t.heal != nil {
			t.heal.Stop()
			t.heal = nil
		}
	}
}

func (t *trouble) end() {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.heal == nil || t.err == nil { // stopped too late
		return
	}
	t.err, t.heal = nil, nil
	t.tell(nil)
}

func (t *trouble) tell(err error) {
	if t.told != nil {
		t.told(err)
	}
}

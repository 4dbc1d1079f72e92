package fs

import (
	"context"
	"sync"
)

// longStreak is how many reads in a row have to find all that they want before a layer's lazy mount reads far ahead: more than a program
// has that starts with a prefetch list, which must not wait for what it does not read.
const longStreak = 1024

// streak counts the reads of a layer since the last one that had to wait.
type streak struct {
	mu   sync.Mutex
	hits int
}

// count adds a read, and reports whether it made the streak a long one, or ended such a one.
func (s *streak) count(waited bool) (long, ended bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if waited {
		ended = s.hits >= longStreak
		s.hits = 0
		return false, ended
	}
	s.hits++
	return s.hits == longStreak, false
}

// isLong reports whether it is long.
func (s *streak) isLong() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.hits >= longStreak
}

// adjust sets how far the lazy mount of a layer reads ahead by how its readers fare. It is called after each read.
func (f *FS) adjust(l *shown, waited bool) {
	if f.erofs == nil {
		return
	}
	if long, ended := l.streak.count(waited); !long && !ended {
		return
	}
	f.tasks.start(context.Background(), func(ctx context.Context) {
		f.adjusting.Lock() // the last one to come here knows best
		defer f.adjusting.Unlock()
		if l.streak.isLong() || l.layer.Store().Complete() {
			f.erofs.readFarAhead(ctx, l.id, l.layer.Store().DataPath())
		} else {
			f.erofs.readNear(ctx, l.id)
		}
	})
}

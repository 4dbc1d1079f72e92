package fs

import (
	"sync"

	"github.com/opencontainers/go-digest"
)

// takings are the plain layers that are taken at present, or wait for it. The zero value has none.
type takings struct {
	mu  sync.Mutex
	set map[digest.Digest]*taking
}

// taking is one of them.
type taking struct {
	users  int
	wanted chan struct{} // closed when somebody waits for the layer, and does not only bring it ahead of its turn
	once   sync.Once
}

// want says that somebody waits.
func (t *taking) want() { t.once.Do(func() { close(t.wanted) }) }

// join counts a user in, who leaves.
func (s *takings) join(d digest.Digest) *taking {
	s.mu.Lock()
	defer s.mu.Unlock()
	t := s.set[d]
	if t == nil {
		t = &taking{wanted: make(chan struct{})}
		if s.set == nil {
			s.set = make(map[digest.Digest]*taking)
		}
		s.set[d] = t
	}
	t.users++
	return t
}

func (s *takings) leave(d digest.Digest) {
	s.mu.Lock()
	defer s.mu.Unlock()
	t := s.set[d]
	if t.users--; t.users == 0 {
		delete(s.set, d)
	}
}

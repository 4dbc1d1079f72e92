package layer

import (
	"context"
	"sync"
)

// Admit waits for a place and bytes of memory for a range that a container waits for, and that is fetched outside of this package. The
// context that it returns has the range's Priority; release gives the place back, and may be called again. image is whose it is.
func (s *Scheduler) Admit(ctx context.Context, image string, bytes int64) (_ context.Context, release func(), err error) {
	place := &entrant{priority: Prefetch, bytes: bytes, image: image}
	if err := s.ranges.enter(ctx, place); err != nil {
		return nil, nil, err
	}
	s.heap.begin()
	return withPriority(ctx, Prefetch), sync.OnceFunc(func() {
		s.heap.end(bytes)
		s.ranges.leave(place)
	}), nil
}

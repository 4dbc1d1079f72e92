package pack

import (
	"context"
	"sync"

	"golang.org/x/sync/semaphore"
)

// budget is bytes, uncompressed and compressed, of all batches of a Memory.
const budget = 64 << 20

// Memory is what several calls of Pack may have on their way together: 64 MiB, or one chunk where that is more. It may be used by several
// goroutines.
type Memory struct {
	free *semaphore.Weighted
	idle sync.Pool // of *batch, whose buffers are hard to come by
}

// NewMemory returns one that nobody uses yet.
func NewMemory() *Memory { return &Memory{free: semaphore.NewWeighted(budget)} }

// weight is what a batch takes of the budget: compressed it may be as long again.
func (b *batch) weight() int64 { return min(2*b.size, budget) }

func (m *Memory) batch() *batch {
	b, ok := m.idle.Get().(*batch)
	if !ok {
		b = new(batch)
	}
	b.done = make(chan struct{})
	return b
}

// acquire waits until there is room for a batch. Whoever waits holds only batches that go on without it.
func (m *Memory) acquire(ctx context.Context, b *batch) error {
	if err := m.free.Acquire(ctx, b.weight()); err != nil {
		return context.Cause(ctx)
	}
	return nil
}

func (m *Memory) release(n int64) { m.free.Release(n) }

// recycle takes a batch back that has been written.
func (m *Memory) recycle(b *batch) {
	m.release(b.weight())
	clear(b.segments)
	b.segments, b.size, b.last = b.segments[:0], 0, false
	m.idle.Put(b)
}

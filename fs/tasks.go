package fs

import (
	"context"
	"sync"
)

// tasks are goroutines that outlive the call that began them, and end with their owner. The zero value has none.
type tasks struct {
	wg sync.WaitGroup

	mu      sync.Mutex
	closed  bool
	serial  int
	cancels map[int]context.CancelFunc
}

// start runs fn with the values of ctx, but not its end, until fn returns. stop cancels fn's context. After close, fn
// does not run, and ok is false.
func (t *tasks) start(ctx context.Context, fn func(context.Context)) (stop context.CancelFunc, ok bool) {
	ctx, cancel := context.WithCancel(context.WithoutCancel(ctx))
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.closed {
		cancel()
		return cancel, false
	}
	if t.cancels == nil {
		t.cancels = make(map[int]context.CancelFunc)
	}
	t.serial++
	id := t.serial
	t.cancels[id] = cancel
	t.wg.Go(func() {
		defer t.end(id)
		fn(ctx)
	})
	return cancel, true
}

func (t *tasks) end(id int) {
	t.mu.Lock()
	cancel := t.cancels[id]
	delete(t.cancels, id)
	t.mu.Unlock()
	cancel()
}

// close cancels all tasks and waits for them.
func (t *tasks) close() {
	t.mu.Lock()
	t.closed = true
	for _, cancel := range t.cancels {
		cancel()
	}
	t.mu.Unlock()
	t.wg.Wait()
}

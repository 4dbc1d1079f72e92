package layer

import (
	"sync"
	"time"
)

const (
	// burst is how many bytes work has to have taken for the memory to be given back to the system after it. What stays
	// with less is not worth a collection.
	burst = 16 << 20

	// chunkOverhead is what it takes to keep account of a chunk in flight. A range of tiny files has tens of thousands of them.
	chunkOverhead = 256

	// idle is how long there must have been nothing to do: a starting container's reads come with gaps.
	idle = 2 * time.Second
)

// heap gives memory back to the system after a burst of work. By itself the runtime takes minutes for that: without
// allocations it collects every two minutes, and what is in pools stays through one collection.
type heap struct {
	free func()

	mu       sync.Mutex
	underWay int
	taken    int64       // bytes by what has ended since the last time
	timer    *time.Timer // calls settle; nil before the first burst
}

// begin comes before a piece of work, and end after it, with the bytes that it has taken at most.
func (h *heap) begin() {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.underWay++
	if h.timer != nil {
		h.timer.Stop()
	}
}

func (h *heap) end(taken int64) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.underWay--
	h.taken += taken
	switch {
	case !h.over():
	case h.timer == nil:
		h.timer = time.AfterFunc(idle, h.settle)
	default:
		h.timer.Reset(idle)
	}
}

// over reports whether a burst has ended. h.mu is held.
func (h *heap) over() bool { return h.underWay == 0 && h.taken >= burst }

func (h *heap) settle() {
	h.mu.Lock()
	over := h.over()
	if over {
		h.taken = 0
	}
	h.mu.Unlock()
	if over {
		h.free()
	}
}

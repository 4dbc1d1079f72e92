package layer

import (
	"math"
	"runtime"
	"runtime/debug"
	"time"
)

const (
	defaultMemoryLimit = 256 << 20
	defaultConcurrency = 16

	// backgroundTrickle is how often background starts a range while demand or prefetch is active: rare enough not to
	// be felt by them, often enough that a reader that never stops, or a registry that hangs, cannot stop it for good.
	backgroundTrickle = time.Second
)

// SchedulerOptions bounds what all layers of a node do together.
type SchedulerOptions struct {
	// MemoryLimit is bytes of read buffers and decoded chunks in flight, and of plain layers that are taken, and as many again of TOCs
	// that are made into metadata images; 0 means 256 MiB.
	MemoryLimit int64
	Concurrency int // ranges under way; 0 means 16
	// TailMemory is bytes of the ends of blobs, which come along with TOCs, until their contents are stored. What has no room is fetched
	// again when it is needed. 0 means an eighth of MemoryLimit, less than 0 none.
	TailMemory int64

	// BackgroundLimit is bytes of blobs that Background fetches a second, over all layers together; 0 means no limit. More than
	// that comes for as long as a range takes; it then does nothing until that is made up for.
	BackgroundLimit int64
	// BackgroundPressure is the percent of IOPressure above which Background starts no range; 0 means that it does not matter.
	BackgroundPressure int
	IOPressure         func() (percent float64, err error) // nil means the function of that name; called once a second at most
}

// Scheduler decides which range is fetched next. One serves all layers of a node.
//
// Background has as few ranges under way as leave it at full speed (see pilot), and enters only while at most three quarters of ranges
// and memory are taken; prefetch leaves an eighth of both, so that a reader does not have to wait for either to end.
// While something more urgent is active, background starts no more than one range a second, and neither it nor prefetch
// reads on in those under way, for a second each. Background of a layer that has a prefetch list, is large, or is Foreseen, does not start in the
// pauses of a program that reads now and again either, for ten seconds or so. Within a priority images take turns. BackgroundLimit and BackgroundPressure
// hold background alone, and only ranges that have not begun: no reader ever waits for them.
// A range whose registry is silent lends its place and what memory it does not use (lend.go), so that others do not wait for it.
// The prefetch lists that come along with TOCs (head.go) have no place: 4 MiB of them at most, or an eighth of the memory limit, beside it. So
// do chunks that are copied from other layers (reuse.go), another eighth, and what alone is larger when no other is copied.
// A range that alone exceeds the memory limit is admitted when nothing else is under way.
type Scheduler struct {
	limit   int64
	ranges  *gate
	pilot   pilot
	cores   *gate // who decodes; a range that waits for the network is not inside. Background takes half: containers start meanwhile
	buffers *buffers
	layouts *gate // TOCs that are made into metadata images, and tails
	tails   budget
	heads   budget
	copying *gate         // chunks that are copied from other layers
	proofs  chan struct{} // held while a layer is hashed as a whole: one at a time
	trees   chan struct{} // held while the whole tree of a layer's tar is in memory: one at a time
	heap    heap
}

// NewScheduler returns a scheduler. It owns no goroutine and needs no closing.
func NewScheduler(o SchedulerOptions) *Scheduler {
	if o.MemoryLimit <= 0 {
		o.MemoryLimit = defaultMemoryLimit
	}
	if o.Concurrency <= 0 {
		o.Concurrency = defaultConcurrency
	}
	if o.TailMemory == 0 {
		o.TailMemory = o.MemoryLimit / 8
	}
	if o.IOPressure == nil {
		o.IOPressure = IOPressure
	}
	n, m := o.Concurrency, o.MemoryLimit
	most := max(1, n-n/4)
	cores := runtime.GOMAXPROCS(0)
	s := &Scheduler{
		limit: m,
		pilot: pilot{places: min(pilotStart, most), most: most},
		ranges: &gate{
			places:  [priorities]int{Background: most, Prefetch: n - (n+7)/8, Demand: n},
			bytes:   [priorities]int64{Background: m - m/4, Prefetch: m - m/8, Demand: m},
			trickle: backgroundTrickle,
			brake:   &brake{rate: max(o.BackgroundLimit, 0), most: float64(max(o.BackgroundPressure, 0)), pressure: o.IOPressure},
		},
		cores: &gate{
			places: [priorities]int{Background: max(1, cores/2), Prefetch: cores, Demand: cores},
			bytes:  [priorities]int64{math.MaxInt64, math.MaxInt64, math.MaxInt64},
		},
		buffers: newBuffers(),
		layouts: &gate{
			// TOCs use no more than that, and more would only take memory. Background, the contents that came along, gives way to them.
			places: [priorities]int{Background: 1, Prefetch: cores, Demand: cores},
			bytes:  [priorities]int64{m, m, m},
		},
		tails: budget{left: o.TailMemory},
		heads: budget{left: min(headMemory, m/8)},
		copying: &gate{
			places: [priorities]int{Background: max(1, cores/2), Prefetch: cores, Demand: 2 * cores},
			bytes:  [priorities]int64{m / copyShare / 2, m / copyShare, m / copyShare},
		},
		proofs: make(chan struct{}, 1),
		trees:  make(chan struct{}, 1),
		heap:   heap{free: debug.FreeOSMemory},
	}
	s.pilot.steer = s.ranges.steer
	s.ranges.steer(s.pilot.places)
	return s
}

// BackgroundLimit is SchedulerOptions.BackgroundLimit. Who has what Background would bring fetched at a higher priority goes past it.
func (s *Scheduler) BackgroundLimit() int64 { return s.ranges.brake.rate }

// landed tells of a range that has ended; yielded is whether it had to wait for what was more urgent, requests how many its host
// lets be under way, 0 if it has not said.
func (s *Scheduler) landed(r Range, yielded bool, requests int) {
	if requests > 0 {
		s.pilot.limit(max(1, requests/2)) // those of readers are not to queue behind background's
	}
	switch {
	case r.Priority != Background || yielded || s.ranges.pressed():
		s.pilot.disturb()
	case r.Err == nil:
		s.pilot.landed(r.Blob)
	}
}

// reads tells of a read of what is there, in a layer of which not all is.
func (s *Scheduler) reads() {
	if s.ranges.reads() {
		s.pilot.disturb()
	}
}

// Inflight returns the bytes of memory reserved by the ranges under way, and by reservations.
func (s *Scheduler) Inflight() int64 { return s.ranges.holding() }

// Limit returns the memory limit in bytes.
func (s *Scheduler) Limit() int64 { return s.limit }

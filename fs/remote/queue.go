package remote

import (
	"slices"
	"time"
)

// smallRange is the most bytes of what is asked for to learn something, a manifest or a TOC, and not to have it.
const smallRange = 256 << 10

// An order is what a request's place in the queue goes by.
type order struct {
	ticket uint64 // of its trial: who came first is first also when it has to ask again
	size   int64  // bytes asked for, about
}

// kind is 1 for small requests, 0 for large ones.
func (o order) kind() int {
	if o.size <= smallRange {
		return 1
	}
	return 0
}

// A waiter is a request that has not begun.
type waiter struct {
	order
	came    time.Time
	urgency func() int    // at the moment: others may come to wait for the same
	done    chan struct{} // closed once one of the two is set
	slot    *slot
	err     error
}

// A queue holds waiters, the lowest ticket first.
type queue []*waiter

func (q *queue) Len() int { return len(*q) }

func (q *queue) insert(w *waiter) {
	i := len(*q)
	for i > 0 && (*q)[i-1].ticket > w.ticket {
		i--
	}
	*q = slices.Insert(*q, i, w)
}

// first returns the lowest ticket, nil if there is none.
func (q *queue) first() *waiter {
	if len(*q) == 0 {
		return nil
	}
	return (*q)[0]
}

// best returns the most urgent waiter, of several the lowest ticket, and how urgent it is; nil if there is none.
func (q *queue) best() (best *waiter, urgency int) {
	for _, w := range *q {
		if u := w.urgency(); best == nil || u > urgency {
			best, urgency = w, u
		}
	}
	return best, urgency
}

func (q *queue) remove(w *waiter) {
	if i := slices.Index(*q, w); i >= 0 {
		*q = slices.Delete(*q, i, i+1)
	}
}

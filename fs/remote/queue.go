package remote

import "slices"

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
	done chan struct{} // closed once one of the two is set
	slot *slot
	err  error
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

func (q *queue) pop() *waiter {
	w := (*q)[0]
	*q = slices.Delete(*q, 0, 1)
	return w
}

func (q *queue) remove(w *waiter) {
	if i := slices.Index(*q, w); i >= 0 {
		*q = slices.Delete(*q, i, i+1)
	}
}

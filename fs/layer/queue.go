package layer

import "slices"

// queue is who waits at a gate with one priority. It is kept by image, as turns are taken: while a registry hangs, thousands may wait
// for it, and whose turn it is among all others is found without going through them.
type queue struct {
	images map[string][]*entrant // what came first first; none is empty
	back   []*entrant            // whose places were lent
}

// len returns how many wait that have not begun.
func (q *queue) len() (n int) {
	for _, waiting := range q.images {
		n += len(waiting)
	}
	return n
}

func (q *queue) add(e *entrant) {
	if e.lent {
		q.back = append(q.back, e)
		return
	}
	if q.images == nil {
		q.images = make(map[string][]*entrant)
	}
	q.images[e.image] = append(q.images[e.image], e)
}

func (q *queue) remove(e *entrant) {
	if e.lent {
		q.back = without(q.back, e)
		return
	}
	if q.images[e.image] = without(q.images[e.image], e); len(q.images[e.image]) == 0 {
		delete(q.images, e.image)
	}
}

func without(waiting []*entrant, e *entrant) []*entrant {
	i := slices.Index(waiting, e)
	return slices.Delete(waiting, i, i+1)
}

// impatient returns the rest of a queue from the first on that does not wait for the end of lulls.
func impatient(waiting []*entrant) []*entrant {
	i := slices.IndexFunc(waiting, func(e *entrant) bool { return !e.patient })
	if i < 0 {
		return nil
	}
	return waiting[i:]
}

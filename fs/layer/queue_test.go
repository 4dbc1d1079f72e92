package layer

import (
	"fmt"
	"testing"
	"testing/synctest"
)

// Of images that have as many ranges inside, the one whose range came first is next, of however many.
func TestQueueOrder(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const images = 20
		l := newLine(t, SchedulerOptions{Concurrency: 1})
		l.queue(t.Context(), "first", Demand, 1)
		var want []string
		for i := range images {
			image := fmt.Sprintf("image %d", i)
			l.add(t.Context(), image, &entrant{priority: Demand, image: image})
			want = append(want, image)
		}
		for i := range 2 { // of images whose turn was early
			l.add(t.Context(), "again", &entrant{priority: Demand, image: fmt.Sprintf("image %d", i)})
			want = append(want, "again")
		}
		if n := l.waiting[Demand].len(); n != len(want) {
			t.Errorf("%d wait, want %d", n, len(want))
		}
		l.expect("first")
		for range want {
			l.leaves(Demand)
			l.expect(want[0])
			want = want[1:]
		}
		l.leaves(Demand)
		l.empty()
	})
}

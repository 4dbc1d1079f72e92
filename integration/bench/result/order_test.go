package result

import (
	"slices"
	"testing"
)

func TestOrder(t *testing.T) {
	const n, repetitions = 8, 100
	if got := Order(n, 0); !slices.IsSorted(got) || len(got) != n {
		t.Errorf("first: %v", got)
	}
	follows := make(map[[2]int]int)
	for i := range repetitions {
		order := Order(n, i)
		if !slices.Equal(order, Order(n, i)) {
			t.Errorf("repetition %d: another order each time", i)
		}
		if sorted := slices.Sorted(slices.Values(order)); !slices.Equal(sorted, Order(n, 0)) {
			t.Errorf("repetition %d: %v", i, order)
		}
		for k := 1; k < n; k++ {
			follows[[2]int{order[k-1], order[k]}]++
		}
	}
	for pair, times := range follows {
		if times > 3*repetitions/n {
			t.Errorf("%d follows %d in %d of %d repetitions", pair[1], pair[0], times, repetitions)
		}
	}
	if len(follows) != n*(n-1) {
		t.Errorf("%d of %d neighbourhoods", len(follows), n*(n-1))
	}
}

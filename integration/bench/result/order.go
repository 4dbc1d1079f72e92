package result

import "math/rand/v2"

// Order is the order of n systems in a repetition: as they are listed in the first one, and mixed afterwards, so that nobody always
// follows the same one. It is the same in every run.
func Order(n, repetition int) []int {
	order := rand.New(rand.NewPCG(uint64(n), uint64(repetition))).Perm(n)
	if repetition == 0 {
		for i := range order {
			order[i] = i
		}
	}
	return order
}

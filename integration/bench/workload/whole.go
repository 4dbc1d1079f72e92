package workload

// whole reads everything that w's image has, as somebody does who needs all of it. A pipe is there because tar reads nothing when it sees that it
// writes to /dev/null.
func whole(w Workload) Workload {
	return says(Workload{
		Name: "whole " + w.Name, Image: w.Image, Of: &w,
		Args: []string{"/bin/bash", "-ec", "set -o pipefail; tar c --one-file-system / | cat >/dev/null; echo everything was read"},
	}, "everything was read")
}

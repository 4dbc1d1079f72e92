package steady

import (
	"github.com/sluice-snapshotter/sluice/integration/bench/result"
)

// Names are all that Options.Want may be asked for, where the image can import torch.
func Names() []string {
	var names []string
	for _, op := range (&runner{Options: Options{Torch: true}}).operations() {
		for _, kase := range op.cases {
			names = append(names, rowName(op, kase))
		}
	}
	return names
}

// rowName is a row's name without the system.
func rowName(op operation, kase string) string {
	return result.Situation(result.Steady, op.name, kase)
}

package main

import (
	"errors"
	"fmt"

	"github.com/sluice-snapshotter/sluice/integration/bench/result"
)

// tolerance is by how much ratios may differ between two runs of the same programs on the same machine.
const tolerance = 0.2

// compare prints how the ratios to the baseline differ from those of an older report. It is an error if one differs by more than the
// tolerance.
func compare(s settings) error {
	old, err := result.Read(s.compare)
	if err != nil {
		return err
	}
	now, err := result.Read(s.file())
	if err != nil {
		return err
	}
	beyond, changes := 0, result.Compare(old, now)
	for _, c := range changes {
		mark := ""
		if !c.Within(tolerance) {
			beyond++
			mark = "  !"
		}
		if c.Missing {
			fmt.Printf("%-70s  failed or missing in one of them%s\n", c.Row.Name(), mark)
			continue
		}
		fmt.Printf("%-70s  %.3f  %.3f  %+.0f %%%s\n", c.Row.Name(), c.Old, c.New, 100*c.Difference, mark)
	}
	if len(changes) == 0 {
		return errors.New("neither report has a row to compare")
	}
	if beyond > 0 {
		return fmt.Errorf("%d of %d ratios to %s differ by more than %.0f %%", beyond, len(changes), result.Baseline, 100*tolerance)
	}
	return nil
}

package main

import (
	"context"
	"errors"
	"fmt"
	"io"

	"github.com/sluice-snapshotter/sluice/cmd/internal/control"
)

// drain unmounts everything: through the daemon if one is running, which then
// ends, else what an earlier one left behind.
func drain(ctx context.Context, c config, stdout io.Writer) error {
	if owned(ctx, c.socket()) {
		client, err := control.Dial(c.socket())
		if err != nil {
			return err
		}
		defer client.Close()
		report, err := client.Drain(ctx)
		if err != nil {
			return fmt.Errorf("drain: %w", err)
		}
		_, err = fmt.Fprintf(stdout, "layers unmounted: %d; the daemon ends\n", report.Unmounted)
		return err
	}
	p, err := openParts(ctx, c, newMetrics()) // this clears what is left
	if err != nil {
		return fmt.Errorf("drain: %w", err)
	}
	if err := errors.Join(p.fs.Close(), p.close()); err != nil {
		return fmt.Errorf("drain: %w", err)
	}
	_, err = fmt.Fprintln(stdout, "no daemon is running; what an earlier one left is unmounted")
	return err
}

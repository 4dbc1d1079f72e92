package main

import (
	"context"

	"github.com/sluice-snapshotter/sluice/integration/bench/result"
	"github.com/sluice-snapshotter/sluice/integration/bench/wait"
)

// waits measures how long readers wait for what is not there, with and without fetching in the background.
func (b *suite) waits(ctx context.Context) error {
	if !b.wants(result.Wait, wait.Subject, near.String()) || !b.systems.matches(result.WaitBaseline) {
		return nil
	}
	progress("preparing %s", wait.Subject)
	rows, err := wait.Run(ctx, wait.Options{Link: near, Repeat: b.repeat, Progress: progress})
	if err != nil {
		return err
	}
	return b.addRows(rows)
}

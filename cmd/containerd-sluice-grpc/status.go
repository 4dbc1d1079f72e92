package main

import (
	"context"
	"os"

	"github.com/containerd/log"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/sluice-snapshotter/sluice/cmd/internal/control"
)

var _ control.Server = (*daemon)(nil)

// Status says what the daemon serves.
func (d *daemon) Status(context.Context, control.Nothing) (control.StatusReport, error) {
	report := control.StatusReport{
		Version: version(),
		PID:     os.Getpid(),
		Layers:  []control.Layer{}, // [] in JSON, not null
		Cache:   d.cache(),
		Memory:  control.Memory{Inflight: d.scheduler.Inflight(), Limit: d.scheduler.Limit()},
	}
	for _, l := range d.fs.Status() {
		report.Layers = append(report.Layers, control.Layer{
			Digest:  l.Digest.String(),
			Image:   l.Image,
			Format:  string(l.Format),
			State:   string(l.State),
			Mount:   l.Mount(),
			Size:    l.Size,
			Fetched: l.Fetched,
			Mounts:  len(l.Mounts),
		})
	}
	return report, nil
}

// Drain unmounts everything. What a container still has open is detached:
// reading from it fails from then on. The daemon ends afterwards, whether all
// went well or not, for it has stopped serving layers.
func (d *daemon) Drain(ctx context.Context, _ control.Nothing) (control.DrainReport, error) {
	d.health.Shutdown()
	d.drain.Do(func() {
		report := control.DrainReport{Unmounted: len(d.fs.Status())}
		err := d.fs.Close()
		d.drainReport, d.drainErr = report, err
		close(d.drained)
	})
	if d.drainErr != nil {
		log.G(ctx).WithError(d.drainErr).Error("not everything is unmounted")
		return control.DrainReport{}, status.Error(codes.FailedPrecondition, d.drainErr.Error())
	}
	return d.drainReport, nil
}

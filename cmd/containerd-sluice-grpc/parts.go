package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"time"

	"github.com/containerd/log"

	"github.com/sluice-snapshotter/sluice/cache"
	"github.com/sluice-snapshotter/sluice/fs"
	"github.com/sluice-snapshotter/sluice/fs/layer"
	"github.com/sluice-snapshotter/sluice/fs/remote"
)

// parts are what the daemon is made of below the snapshotter.
type parts struct {
	store     *cache.Store
	scheduler *layer.Scheduler
	fs        *fs.FS
	closers   []io.Closer // last first
}

// openParts takes the root and the state directory, and mounts the file system
// that layers are served from. What a dead daemon left mounted there goes.
func openParts(ctx context.Context, c config, m *metrics) (_ *parts, err error) {
	p := &parts{}
	defer func() {
		if err != nil {
			err = errors.Join(err, p.close())
		}
	}()
	lock, err := lockState(c.State.string)
	if err != nil {
		return nil, err
	}
	p.closers = append(p.closers, lock)
	if err := os.MkdirAll(c.Root.string, 0o711); err != nil {
		return nil, fmt.Errorf("root directory: %w", err)
	}
	if p.store, err = cache.Open(c.Root.string); err != nil {
		return nil, fmt.Errorf("root directory %s: %w", c.Root.string, err)
	}
	p.closers = append(p.closers, p.store)
	p.store.OnTrouble(tellTrouble(ctx)) // before layers are opened
	if err := p.bound(c); err != nil {
		return nil, err
	}
	p.scheduler = layer.NewScheduler(layer.SchedulerOptions{
		MemoryLimit: c.Fetch.MemoryLimit.bytes,
		Concurrency: int(c.Fetch.Concurrency),

		BackgroundLimit:    c.Fetch.BackgroundLimit.bytes,
		BackgroundPressure: pressure(ctx, c.Fetch),
	})
	p.fs, err = fs.New(ctx, fs.Options{
		StateDir:  c.State.string,
		MountDir:  filepath.Join(c.State.string, "m"), // short: overlay options have room for 4 KiB
		ProbeDir:  c.Root.string,
		Store:     p.store,
		Registry:  registry(c.Registry, m),
		Scheduler: p.scheduler,
		Mode:      c.Mount.Mode,
		NoNative:  !c.Native,
		NoPlain:   !c.Fetch.Plain,
		// Zero means a default to these, and none to whoever wrote it.
		PrefetchTimeout: max(c.Fetch.PrefetchTimeout.Duration, time.Nanosecond),
		SmallLayers:     max(c.Fetch.SmallLayers.bytes, 1), // no layer is as small
		ReadAheadKiB:    max(int(c.ReadAhead.bytes>>10), 1),
		BackgroundOf:    c.Fetch.background,
		ProveOf:         c.Fetch.proves,
		Untrusted:       c.Fetch.distrusts,
		Proved:          m.proved,
		Evicted:         m.evicted,
		Observer:        m.observer(),
		Resolved:        m.resolved,
	})
	return p, err
}

// tellTrouble says in the log when the disk is full or fails, and when that is over.
func tellTrouble(ctx context.Context) func(error) {
	return func(err error) {
		if err == nil {
			log.G(ctx).Info("what is fetched is stored again")
			return
		}
		log.G(ctx).WithError(err).Error("what is fetched cannot be stored: reads are answered from the registry until that heals")
	}
}

// pressure is the setting of that name, 0 where the kernel does not say what the pressure is.
func pressure(ctx context.Context, c fetchConfig) int {
	if c.BackgroundPressure == 0 {
		return 0
	}
	if _, err := layer.IOPressure(); err != nil {
		log.G(ctx).WithError(err).Warn("fetch.background_pressure is ignored: this kernel does not tell (CONFIG_PSI, psi=1)")
		return 0
	}
	return int(c.BackgroundPressure)
}

func registry(c registryConfig, m *metrics) *remote.Registry {
	return remote.New(remote.Options{
		ConfigPath:   c.ConfigPath,
		ContentPath:  c.ContentPath,
		UserAgent:    program + "/" + version(),
		MaxAttempts:  int(c.MaxAttempts),
		StallTimeout: c.StallTimeout.Duration,
		Trace:        m.trace(),
		Urgency:      func(ctx context.Context) int { return int(layer.UrgencyFrom(ctx)) },
	})
}

// close lets go of everything but the mounts.
func (p *parts) close() error {
	var errs []error
	for i := len(p.closers) - 1; i >= 0; i-- {
		errs = append(errs, p.closers[i].Close())
	}
	return errors.Join(errs...)
}

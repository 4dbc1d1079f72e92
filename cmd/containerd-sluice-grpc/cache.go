package main

import (
	"context"
	"errors"
	"io/fs"
	"slices"
	"time"

	"github.com/containerd/log"
	"github.com/opencontainers/go-digest"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/sluice-snapshotter/sluice/cmd/internal/control"
	sluicefs "github.com/sluice-snapshotter/sluice/fs"
)

// cache is the layer store as a whole.
func (d *daemon) cache() control.Cache {
	all, pinned := d.fs.Pinned()
	c := control.Cache{Bytes: d.store.Used(), Limit: d.store.Quota().Limit, Pinned: pinned}
	switch err := d.store.Trouble(); {
	case err != nil:
		c.Trouble = err.Error()
	case all:
		c.Trouble = "the limit is reached, and containers use all of it"
	}
	return c
}

// Cache lists what the layer store has.
func (d *daemon) Cache(context.Context, control.Nothing) (control.CacheReport, error) {
	layers, err := d.cached()
	if err != nil {
		return control.CacheReport{}, status.Error(codes.Internal, err.Error())
	}
	return control.CacheReport{Layers: layers, Cache: d.cache()}, nil
}

func (d *daemon) cached() ([]control.CachedLayer, error) {
	usage, err := d.store.Usage()
	if err != nil {
		return nil, err
	}
	mounted := make(map[digest.Digest]control.CachedLayer)
	for _, l := range d.fs.Status() {
		mounted[l.Digest] = control.CachedLayer{
			Image: l.Image, Format: l.Format, State: string(l.State), InUse: l.InUse, Size: l.Size, Fetched: l.Fetched, LastUse: l.LastUse,
		}
	}
	layers := []control.CachedLayer{} // [] in JSON, not null
	for _, u := range usage {
		l := mounted[u.Digest]
		l.Digest, l.Disk = u.Digest.String(), u.Bytes
		if l.Format == "" {
			l.LastUse = u.LastUse
		}
		layers = append(layers, l)
	}
	return layers, nil
}

// Remove removes layers that no container uses, and no pull.
func (d *daemon) Remove(ctx context.Context, in control.RemoveRequest) (control.RemoveReport, error) {
	report := control.RemoveReport{Removed: []string{}, Kept: []control.KeptLayer{}}
	before, err := d.cached()
	if err != nil {
		return report, status.Error(codes.Internal, err.Error())
	}
	if in.Unused {
		if err := d.snapshotter.Cleanup(ctx); err != nil {
			return report, status.Error(codes.Internal, err.Error())
		}
	}
	for _, text := range in.Digests {
		err := digest.Digest(text).Validate()
		if err == nil {
			err = d.snapshotter.RemoveLayer(ctx, digest.Digest(text))
		}
		if err != nil {
			report.Kept = append(report.Kept, control.KeptLayer{Digest: text, Why: err.Error()})
		}
	}
	if in.OlderThan != nil {
		for _, l := range before {
			if l.InUse || time.Since(l.LastUse) < *in.OlderThan {
				continue
			}
			err := d.snapshotter.PruneLayer(ctx, digest.Digest(l.Digest))
			if err != nil && !errors.Is(err, fs.ErrNotExist) && !errors.Is(err, sluicefs.ErrInUse) {
				report.Kept = append(report.Kept, control.KeptLayer{Digest: l.Digest, Why: err.Error()})
			}
		}
	}
	after, err := d.cached()
	if err != nil {
		return report, status.Error(codes.Internal, err.Error())
	}
	for _, l := range before {
		if !slices.ContainsFunc(after, func(kept control.CachedLayer) bool { return kept.Digest == l.Digest }) {
			report.Removed = append(report.Removed, l.Digest)
			report.Freed += l.Disk
		}
	}
	log.G(ctx).WithField("layers", len(report.Removed)).WithField("bytes", report.Freed).Info("layers were removed as was asked for")
	return report, nil
}

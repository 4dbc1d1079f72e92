package main

import (
	"context"
	"fmt"
	"time"

	"github.com/containerd/log"
	"golang.org/x/sys/unix"

	"github.com/sluice-snapshotter/sluice/cache"
)

// sizeInterval is how often the size of the file system is read: disks are grown while they are in use.
const sizeInterval = time.Minute

// bound sets the store's quota. Nothing is removed for it before relieve.
func (p *parts) bound(c config) error {
	q, err := p.quota(c)
	if err != nil {
		return fmt.Errorf("root directory %s: %w", c.Root.string, err)
	}
	p.store.SetQuota(q, nil)
	return nil
}

// relieve has room made in the store from now on. What containers have must be known to be theirs by now.
func (p *parts) relieve() {
	p.store.SetQuota(p.store.Quota(), p.fs.MakeRoom)
	p.fs.Relieve()
}

// rebound sets the quota anew when the size of the file system is another one now. One that cannot be read stays what it was.
func (p *parts) rebound(ctx context.Context, c config) {
	q, err := p.quota(c)
	if err != nil {
		log.G(ctx).WithError(err).Warn("the cache's limit stays what it is")
		return
	}
	if old := p.store.Quota(); q != old {
		log.G(ctx).WithFields(log.Fields{"limit": q.Limit, "before": old.Limit}).Info("the file system has another size: so has the cache's limit")
		p.store.SetQuota(q, p.fs.MakeRoom)
	}
}

// followSize does that until ctx ends.
func (p *parts) followSize(ctx context.Context, c config) error {
	tick := time.NewTicker(sizeInterval)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
			p.rebound(ctx, c)
		case <-ctx.Done():
			return nil
		}
	}
}

func (p *parts) quota(c config) (cache.Quota, error) {
	var st unix.Statfs_t
	if err := unix.Statfs(p.store.Dir(), &st); err != nil {
		return cache.Quota{}, fmt.Errorf("size of the file system: %w", err)
	}
	size := int64(st.Blocks) * st.Bsize
	if size <= 0 {
		return cache.Quota{}, fmt.Errorf("size of the file system: %d bytes", size)
	}
	return c.Cache.quota(size), nil
}

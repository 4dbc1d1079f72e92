package fs

import (
	"context"
	"errors"
	"fmt"
	"math"
	"slices"
	"sync/atomic"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/sluice-snapshotter/sluice/cache"
)

const (
	// evictGrace is how long after its last use a layer that no container has stays: what a pull has mounted waits for its container.
	evictGrace = 30 * time.Second

	// makeRoomTimeout is how long one may wait for that.
	makeRoomTimeout = 30 * time.Second

	// touchInterval is how exactly the store remembers when a layer was used.
	touchInterval = time.Minute

	// Of a disk that is full although the quota is not reached, a tenth of the store is freed, and at least so many bytes.
	leastRelief = 64 << 20
)

// use is when a layer was used last: mounted, or given to a container or taken back from it.
type use struct {
	at, told atomic.Int64 // Unix time in nanoseconds; told to the store
}

// begin is the first use of a layer in this process, which began at started. Of one that was there before, it goes on from what the store
// remembers: all layers are mounted again after a start. Others may have been opened ahead, some time ago.
func (u *use) begin(l *cache.Layer, started time.Time) {
	at, err := l.LastUse()
	if err != nil || at.After(started) { // an error says that it was removed, and is on its way out
		u.touch(l)
		return
	}
	u.at.Store(at.UnixNano())
	u.told.Store(at.UnixNano())
}

func (u *use) touch(l *cache.Layer) {
	now := time.Now().UnixNano()
	u.at.Store(now)
	if told := u.told.Load(); now-told > int64(touchInterval) && u.told.CompareAndSwap(told, now) {
		l.Touch()
	}
}

func (u *use) since() time.Duration { return time.Duration(time.Now().UnixNano() - u.at.Load()) }

// relieve makes room whenever the store asks for it, until ctx ends.
func (f *FS) relieve(ctx context.Context) {
	for {
		select {
		case <-f.opts.Store.Pressed():
			f.makeRoom(ctx, false)
		case <-ctx.Done():
			return
		}
	}
}

// MakeRoom makes what room can be made for something that cannot be used without being stored. It is for cache.Store.SetQuota.
func (f *FS) MakeRoom() {
	ctx, cancel := context.WithTimeout(context.Background(), makeRoomTimeout)
	defer cancel()
	f.makeRoom(ctx, true)
}

// makeRoom brings the store below its low watermark, if there are layers enough that no container has: those that were not used for the
// longest time go first. Their snapshots stay: who uses them again has them mounted and fetched again. What containers have gives way only
// where readers have filled the store beyond its high watermark, for there nothing is stored that nobody waits for; or where hard says that
// something is to be stored that cannot be read otherwise. That are chunks which can be fetched again; the rest is pinned.
func (f *FS) makeRoom(ctx context.Context, hard bool) {
	select {
	case f.relief <- struct{}{}:
		defer func() { <-f.relief }()
	case <-ctx.Done(): // what is taken down may itself be waiting here
		return
	}
	g := f.goals(hard)
	for _, m := range f.byUse() {
		if f.opts.Store.Used() <= g.idle || ctx.Err() != nil {
			return
		}
		f.evict(ctx, m)
	}
	for _, m := range f.byUse() {
		over := f.opts.Store.Used() - g.shed
		if over <= 0 {
			return
		}
		freed, err := m.shown.layer.Store().Shed(over)
		if err != nil {
			m.shown.logger.WithError(err).Warn("contents of the layer could not be taken from the disk")
		}
		f.opts.Evicted(freed)
	}
}

// goals are down to how many bytes room is made: by removing idle layers, and by shedding contents of others.
type goals struct{ idle, shed int64 }

func (f *FS) goals(hard bool) goals {
	st := f.opts.Store
	q, used, refused := st.Quota(), st.Used(), st.TakeRefused()
	margin := (q.Limit - q.High) / 2
	switch {
	case st.OutOfSpace():
		goal := max(0, used-max(used/10, leastRelief))
		return goals{goal, goal}
	case q.Limit == 0:
		return goals{math.MaxInt64, math.MaxInt64}
	case hard:
		return goals{q.Low, q.Low}
	case refused || used > q.High+margin: // readers have filled it: nothing else is stored above the high watermark
		return goals{q.Low, q.High - margin}
	case used >= q.High:
		return goals{q.Low, math.MaxInt64}
	default:
		return goals{math.MaxInt64, math.MaxInt64} // the alarm is old
	}
}

// byUse lists the mounted layers, those first that were not used for the longest time.
func (f *FS) byUse() []*mounted {
	all := f.all()
	slices.SortFunc(all, func(a, b *mounted) int { return int(b.used.since() - a.used.since()) })
	return all
}

// evict removes a layer that nobody has, if it was not used just now.
func (f *FS) evict(ctx context.Context, m *mounted) {
	if m.ways.held() || m.used.since() < f.grace || !m.appears.is() { // what does not appear is being proven
		return
	}
	bytes, err := f.removeIdle(ctx, m)
	switch {
	case errors.Is(err, ErrInUse):
	case err != nil:
		m.shown.logger.WithError(err).Warn("a layer that no container has could not be removed whole")
	default:
		f.opts.Evicted(bytes)
		m.shown.logger.Debug("the layer was removed to make room; it is fetched again when it is used")
	}
}

// removeIdle takes a layer down that nobody has, and removes it from the store. It returns what it took on disk.
func (f *FS) removeIdle(ctx context.Context, m *mounted) (bytes int64, err error) {
	s, err := f.take(ctx, m.src.Digest)
	if err != nil || s == nil {
		return 0, err
	}
	defer f.leaving.Done()
	unmount, idle := m.ways.abandon()
	if s.mounted != m || !idle {
		f.keep(s)
		return 0, ErrInUse
	}
	bytes, err = m.shown.layer.Store().Usage()
	err = errors.Join(err, f.dismantle(m), unmount(), f.opts.Store.Remove(m.src.Digest))
	f.rights.forget(m.src.Digest)
	f.vacate(s)
	return bytes, err
}

// ErrInUse says that a layer is part of a container.
var ErrInUse = errors.New("a container uses the layer")

// Remove removes a layer from the store that no container has. Its snapshots stay: who uses them again has it fetched again. It returns what
// the layer took on disk. Errors: ErrInUse, fs.ErrNotExist.
func (f *FS) Remove(ctx context.Context, d digest.Digest) (bytes int64, err error) {
	m, err := f.lookup(d)
	if err == nil {
		bytes, err = f.removeIdle(ctx, m)
	} else if bytes, _, err = f.Usage(d); err == nil {
		err = f.opts.Store.Remove(d)
	}
	if err != nil {
		return 0, fmt.Errorf("remove layer %s: %w", d, err)
	}
	return bytes, nil
}

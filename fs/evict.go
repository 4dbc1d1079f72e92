package fs

import (
	"cmp"
	"context"
	"errors"
	iofs "io/fs"
	"math"
	"slices"
	"sync/atomic"
	"time"

	"github.com/containerd/log"
	"github.com/opencontainers/go-digest"
	"golang.org/x/sys/unix"

	"github.com/sluice-snapshotter/sluice/cache"
)

const (
	// evictGrace is how long after its last use a layer that no container has stays: what a pull has mounted waits for its container.
	evictGrace = 30 * time.Second

	// makeRoomTimeout is how long one may wait for that.
	makeRoomTimeout = 30 * time.Second

	// touchInterval is how exactly the store remembers when a layer was used.
	touchInterval = time.Minute

	// shedMargin is how many bytes more than what is waited for are shed at most.
	shedMargin = 8 << 20

	// Of a disk that is full although the quota is not reached, a tenth of the store is freed, and at least so many bytes, and what there was
	// no room for.
	leastRelief = 64 << 20

	// reliefPause is the least time between two such rounds.
	reliefPause = 5 * time.Second
)

// use is when a layer was used last: mounted, or given to a container or taken back from it.
type use struct {
	at, told atomic.Int64 // Unix time in nanoseconds; told to the store
	pulled   atomic.Int64 // when it was mounted for an image, in the same way; 0 if somebody has had it since
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

func (u *use) since() time.Duration { return ago(&u.at) }

// pull is a use for an image, whose container is yet to come.
func (u *use) pull(l *cache.Layer) {
	u.touch(l)
	u.pulled.Store(u.at.Load())
}

// take is a use by who has the layer from now on.
func (u *use) take(l *cache.Layer) {
	u.touch(l)
	u.pulled.Store(0)
}

// awaited says whether the layer was mounted for an image within so much time, and nobody has had it since.
func (u *use) awaited(within time.Duration) bool { return ago(&u.pulled) < within }

// ago is the time since at, which becomes now if it lies ahead: the clock was set back.
func ago(at *atomic.Int64) time.Duration {
	then := at.Load()
	now := time.Now().UnixNano()
	if then > now {
		at.CompareAndSwap(then, now)
		return 0
	}
	return time.Duration(now - then)
}

// relieve makes room whenever the store asks for it, until ctx ends, and when a layer becomes idle meanwhile, for nobody asks then.
func (f *FS) relieve(ctx context.Context) {
	for {
		select {
		case <-f.opts.Store.Pressed():
		case <-f.nextIdle(ctx):
		case <-ctx.Done():
			return
		}
		f.makeRoom(ctx, false)
	}
}

// nextIdle returns a channel that receives when a crowded store may be relieved of a layer that no container has: with the end of the first
// grace, and not before another round makes sense. It is nil if there is none.
func (f *FS) nextIdle(ctx context.Context) <-chan time.Time {
	if !f.opts.Store.Crowded() || !f.beginRelief(ctx) {
		return nil
	}
	defer f.endRelief()
	wait := time.Duration(math.MaxInt64)
	for _, m := range f.all() {
		if !m.ways.held() && !m.awaitsProof() {
			wait = min(wait, f.grace-m.used.since())
		}
	}
	if wait == math.MaxInt64 {
		return nil
	}
	return time.After(max(wait, reliefPause))
}

// beginRelief waits until nobody else makes room, and reports false if ctx ends before.
func (f *FS) beginRelief(ctx context.Context) bool {
	select {
	case f.relief <- struct{}{}:
		return true
	case <-ctx.Done(): // what is taken down may itself be waiting here
		return false
	}
}

func (f *FS) endRelief() { <-f.relief }

// MakeRoom makes what room can be made for something that cannot be used without being stored. It is for cache.Store.SetQuota.
func (f *FS) MakeRoom() {
	ctx, cancel := context.WithTimeout(f.relieving, makeRoomTimeout)
	defer cancel()
	f.makeRoom(ctx, true)
}

// makeRoom brings the store below its low watermark, if there are layers enough that no container has: those that were not used for the
// longest time go first. Their snapshots stay: who uses them again has them mounted and fetched again. What containers have gives way only
// where readers have filled the store beyond its high watermark, for there nothing is stored that nobody waits for; or where hard says that
// something is to be stored that cannot be read otherwise, and no more than that needs. That are chunks which can be fetched again; the rest
// is pinned.
func (f *FS) makeRoom(ctx context.Context, hard bool) {
	if !f.beginRelief(ctx) {
		return
	}
	defer f.endRelief()
	g, drops := f.goals(hard), f.drops.Load()
	if f.opts.Store.Used() <= g.shed {
		g.shed = enough
	}
	if g.idle == enough && g.shed == enough || !hard && f.vain.still(g, drops) {
		return
	}
	freed := f.evictIdle(ctx, g.idle) + f.shed(ctx, g.shed)
	if ctx.Err() == nil && freed == 0 && f.opts.Store.Used() > min(g.idle, g.shed) {
		f.vain = vain{g, drops, time.Now()}
		f.tellPinned(ctx, g)
	}
}

// evictIdle removes layers that no container has until the store takes no more than goal: first those which are not mounted, for they are
// damaged or refused, or nobody has asked for them since the start.
func (f *FS) evictIdle(ctx context.Context, goal int64) (freed int64) {
	for _, d := range f.byStoredUse(ctx, goal) {
		if f.opts.Store.Used() <= goal || ctx.Err() != nil {
			break
		}
		freed += f.evicted(ctx, log.G(ctx).WithField("layer", d), func() (int64, error) { return f.removeStored(d, f.grace) })
	}
	for _, m := range f.byUse() {
		if f.opts.Store.Used() <= goal || ctx.Err() != nil {
			break
		}
		freed += f.evicted(ctx, m.shown.logger, func() (int64, error) { return f.removeIdle(m, func() bool { return f.idle(m) }) })
	}
	return freed
}

// byStoredUse lists the layers of a store that takes more than goal, those first that were not used for the longest time, and mounted ones among them.
func (f *FS) byStoredUse(ctx context.Context, goal int64) []digest.Digest {
	if f.opts.Store.Used() <= goal {
		return nil
	}
	usage, err := f.opts.Store.Usage()
	if err != nil {
		log.G(ctx).WithError(err).Warn("room is made by removing mounted layers only")
	}
	slices.SortFunc(usage, func(a, b cache.Usage) int { return a.LastUse.Compare(b.LastUse) })
	digests := make([]digest.Digest, len(usage))
	for i, u := range usage {
		digests[i] = u.Digest
	}
	return digests
}

// idle says whether a layer that no container has may be removed to make room. What was used just now, is being proven for somebody, or mended,
// is not.
func (f *FS) idle(m *mounted) bool {
	return m.used.since() >= f.grace && !m.awaitsProof() && !m.mending.Load()
}

// shed takes contents of layers until the store takes no more than goal.
func (f *FS) shed(ctx context.Context, goal int64) (freed int64) {
	for _, m := range f.byUse() {
		over := f.opts.Store.Used() - goal
		if over <= 0 || ctx.Err() != nil {
			break
		}
		n, err := m.shown.layer.Shed(over)
		freed += n
		f.opts.Evicted(n)
		if err != nil { // the disk fails: more of it would only be lost
			m.shown.logger.WithError(err).Warn("contents of the layer could not be taken from the disk")
			break
		}
	}
	return freed
}

// goals are down to how many bytes room is made: by removing idle layers, and by shedding contents of others.
type goals struct{ idle, shed int64 }

// enough is a goal that is reached.
const enough = math.MaxInt64

func (f *FS) goals(hard bool) goals {
	st := f.opts.Store
	q, used, refused := st.Quota(), st.Used(), st.TakeRefused()
	margin := (q.Limit - q.High) / 2
	switch failed, size, full := st.OutOfSpace(); {
	case full:
		// What failed for want of room may be gone, and have left as much. Others may eat what is given up.
		if failed.Before(f.relieved) || !hard && time.Since(f.relieved) < reliefPause || st.HasRoom(max(2*size, leastRelief)) {
			return goals{enough, enough}
		}
		f.relieved = time.Now()
		goal := max(0, used-max(used/10, size, leastRelief))
		return goals{goal, goal}
	case q.Limit == 0:
		return goals{enough, enough}
	case st.Trouble() != nil:
		// What is given up may not be stored again. But where the quota refuses all, no write can end the trouble. A disk that is read-only gives
		// nothing back.
		if refused == 0 && !hard || errors.Is(st.Trouble(), unix.EROFS) {
			return goals{enough, enough}
		}
		goal := q.Limit - st.Wanted() - 2*refused
		return goals{goal, goal}
	case hard:
		return goals{q.Low, q.Limit - st.Wanted() - min(margin, shedMargin)}
	case refused > 0 || used > q.High+margin: // readers have filled it: nothing else is stored above the high watermark
		return goals{q.Low, min(q.High-margin, q.Limit-2*refused)}
	case used >= q.High:
		return goals{q.Low, enough}
	default:
		return goals{enough, enough} // the alarm is old
	}
}

// byUse lists the mounted layers, those first that were not used for the longest time.
func (f *FS) byUse() []*mounted {
	all := f.all()
	at := make(map[*mounted]int64, len(all))
	for _, m := range all {
		at[m] = m.used.at.Load()
	}
	slices.SortFunc(all, func(a, b *mounted) int { return cmp.Compare(at[a], at[b]) })
	return all
}

// evicted has a layer removed to make room, and returns what it took on disk: nothing if somebody has it.
func (f *FS) evicted(ctx context.Context, logger *log.Entry, remove func() (int64, error)) (freed int64) {
	bytes, err := remove()
	switch {
	case errors.Is(err, ErrInUse), errors.Is(err, iofs.ErrNotExist):
	case ctx.Err() != nil || errors.Is(err, errClosed):
	case err != nil:
		logger.WithError(err).Warn("a layer that no container has could not be removed whole")
	default:
		f.opts.Evicted(bytes)
		logger.Debug("the layer was removed to make room; it is fetched again when it is used")
		return bytes
	}
	return 0
}

// removeIdle takes a layer down that nobody has, if idle says so too, and removes it from the store. It returns what it took on disk.
func (f *FS) removeIdle(m *mounted, idle func() bool) (bytes int64, err error) {
	if m.ways.held() || !idle() {
		return 0, ErrInUse
	}
	s, err := f.claim(m)
	if err != nil {
		return 0, err
	}
	defer f.leaving.Done()
	if !idle() {
		f.keep(s)
		return 0, ErrInUse
	}
	unmount, ok := m.ways.abandon()
	if !ok {
		f.keep(s)
		return 0, ErrInUse
	}
	bytes, err = m.shown.layer.Store().Usage()
	err = errors.Join(err, f.dismantle(m), unmount(), f.opts.Store.Remove(m.src.Digest))
	f.rights.forget(m.src.Digest)
	f.vacate(s)
	return bytes, err
}

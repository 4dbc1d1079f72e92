package fs

import (
	"context"
	"errors"
	"slices"
	"time"
)

// prefetchAwaited is how many compressed bytes of a layer's prefetch list a container's start waits for. A program reads its list
// from front to back, and slower than it comes: more would only keep it from beginning.
const prefetchAwaited = 16 << 20

// fetch begins to bring the layer's contents: first its prefetch list, then, if asked for, all of it. Once all of it has
// come, whoever asked for it, the layer gets its native mount.
func (f *FS) fetch(ctx context.Context, m *mounted) {
	ended := m.ended // fetchAgain has another one
	stop, ok := f.tasks.start(ctx, func(ctx context.Context) {
		defer close(ended)
		err := m.shown.layer.Prefetch(ctx, prefetchAwaited, func() { close(m.fetched) })
		if err != nil && ctx.Err() == nil {
			m.shown.logger.WithError(err).Warn("prefetch failed; readers fetch what they read")
		}
		f.complete(ctx, m)
	})
	if !ok { // closing: what is mounted now is taken down by Close
		close(m.fetched)
		close(ended)
	}
	m.stop = stop
}

// wants takes note of what src's image has its layers go through, and reports whether no image before has wanted that: a layer that is shared
// goes through all that any of its images wants, or one that wants less would have it stay unproven for all.
func (f *FS) wants(m *mounted, src Source) (more bool) {
	if f.opts.BackgroundOf(src.Ref) {
		more = !m.fills.Swap(true)
	}
	if f.opts.ProveOf(src.Ref) || f.opts.Untrusted(src.Ref) {
		more = !m.proving.Swap(true) || more
	}
	return more
}

// fetchAgain begins anew to bring the layer's contents, of which more is wanted. The beginning of the prefetch list is left to who fetches it.
func (f *FS) fetchAgain(ctx context.Context, m *mounted) {
	m.appears.mu.Lock()
	defer m.appears.mu.Unlock()
	if !m.appears.shown || m.appears.gone {
		return
	}
	before, over, ended := m.stop, m.ended, make(chan struct{})
	stop, ok := f.tasks.start(ctx, func(ctx context.Context) {
		defer close(ended)
		select {
		case <-m.fetched:
		case <-ctx.Done():
		}
		before()
		<-over
		if err := m.shown.layer.Prefetch(ctx, 0, nil); err == nil || ctx.Err() == nil { // of an error its readers know
			f.complete(ctx, m)
		}
	})
	if ok {
		m.stop, m.ended = stop, ended
	}
}

const (
	staysLazy     = "the layer is complete, but cannot be mounted natively; it stays on FUSE for now"
	staysUnproven = "the layer is complete, but could not be proven; it stays as it is for now, and that will be tried later"

	// nativeRetry is how long after a native mount failed it is tried again, for the first time; then twice as long, up to an hour.
	nativeRetry    = time.Minute
	maxNativeRetry = time.Hour

	// settleTime is how long a plain layer that has just come stays as it is. All of it is in the page cache, where a container
	// that starts now has it; sealing a layer drops it from there, and native mounts would not look there anyway.
	settleTime = 10 * time.Second
)

// complete brings the whole layer and its native mount, as far as they are wanted. A disk that loses what it was given
// sends it back to the beginning.
func (f *FS) complete(ctx context.Context, m *mounted) {
	for wait := f.retry; ; wait = min(2*wait, maxNativeRetry) {
		if m.src.plain() {
			m.mending.Store(true)
			err := f.mend(ctx, m)
			m.mending.Store(false)
			if err != nil && ctx.Err() == nil {
				m.shown.logger.WithError(err).Warn("the layer could not be fetched again; it will be tried later")
				if !pause(ctx, wait) {
					return
				}
				continue
			}
		} else if m.fills.Load() {
			if f.commanded(m.src.Manifest) {
				m.shown.layer.Foreseen() // expectCommand sees to it
			}
			if err := m.shown.layer.Fill(ctx); err != nil && ctx.Err() == nil {
				m.shown.logger.WithError(err).Warn("background fetch ended; readers fetch what they read")
			}
		} else if err := m.shown.layer.Look(ctx); err != nil && ctx.Err() == nil { // it may have been complete in an earlier boot
			m.shown.logger.WithError(err).Warn("what an earlier boot has left of the layer was not looked at; it counts once it is read")
		}
		lazy := f.erofs != nil && !slices.Contains(m.ways.kinds(), erofsNative)
		if !lazy && !f.proves(m) {
			return
		}
		select {
		case <-m.shown.layer.Store().Whole():
		case <-ctx.Done():
			return
		}
		if lazy {
			f.erofs.readFarAhead(ctx, m.shown.id, m.shown.layer.Store().DataPath())
		}
		native := lazy && f.native()
		if !native && !f.proves(m) {
			return
		}
		if m.src.plain() && !pause(ctx, f.settling) {
			return
		}
		err := f.settleWhole(ctx, m, native)
		if err == nil || ctx.Err() != nil || errors.Is(err, ErrRefused) { // or the layer is going
			return
		}
		logWhole(m, err, f.proves(m))
		if errors.Is(err, errCrowded) {
			wait = f.retry
		}
		if !pause(ctx, wait) {
			return
		}
	}
}

// errCrowded keeps a layer from being sealed for a native mount: then nothing of it could be taken away any more.
var errCrowded = errors.New("the layer store is above its low watermark")

// logWhole says why a complete layer stays as it is.
func logWhole(m *mounted, err error, unproven bool) {
	switch l := m.shown.logger.WithError(err); {
	case errors.Is(err, errCrowded):
		l.Debug(staysLazy)
	case unproven:
		l.Warn(staysUnproven)
	default:
		l.Warn(staysLazy)
	}
}

// settleWhole proves a layer that is complete, if it is to be proven, and then mounts it natively, if it is to be.
func (f *FS) settleWhole(ctx context.Context, m *mounted, native bool) error {
	if f.proves(m) {
		if err := f.prove(ctx, m); err != nil {
			return err
		}
	}
	if !native {
		return nil
	}
	if !f.opts.Store.Spacious() {
		return errCrowded
	}
	if err := f.showNative(ctx, m); err != nil {
		return err
	}
	m.shown.logger.Debug("the layer is complete: containers that start from now on read it natively")
	return nil
}

// pause waits, and reports false if ctx has ended.
func pause(ctx context.Context, d time.Duration) bool {
	select {
	case <-time.After(d):
		return true
	case <-ctx.Done():
		return false
	}
}

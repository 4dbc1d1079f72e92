package layer

import "context"

// Look makes sure of what the store has of the layer: after a reboot it has to read and hash all that was there before. That takes no more
// cores than background work may have, and ends with ctx.
func (l *Layer) Look(ctx context.Context) error {
	if err := l.begin(); err != nil {
		return err
	}
	defer l.alive.RUnlock()
	defer l.store.Trim()
	for i := range l.store.NumChunks() {
		if _, err := l.look(ctx, i, Background); err != nil {
			return l.wrap("look at", err)
		}
	}
	return nil
}

// look reports whether the store has a chunk. Where it has to be hashed for that, it waits for a core like who decodes one.
func (l *Layer) look(ctx context.Context, chunk int, p Priority) (bool, error) {
	switch {
	case ctx.Err() != nil:
		return false, context.Cause(ctx)
	case !l.store.Claimed(chunk):
		return l.store.Has(chunk), nil
	}
	turn := &entrant{priority: p, image: l.ref}
	if err := l.scheduler.cores.enter(ctx, turn); err != nil {
		return false, err
	}
	defer l.scheduler.cores.leave(turn)
	return l.store.Has(chunk), nil
}

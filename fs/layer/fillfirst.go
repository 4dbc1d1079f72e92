package layer

import "context"

// FillFirst fetches the whole layer for somebody who waits for it: before what is fetched in the background, and without the limits to that. It
// returns nil when all of it is in the store, or the first error.
func (l *Layer) FillFirst(ctx context.Context) error {
	return l.bulk(ctx, &bulk{l: l, op: "fill", priority: Prefetch, end: l.store.NumChunks()})
}

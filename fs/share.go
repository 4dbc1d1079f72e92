package fs

import (
	"context"

	"github.com/opencontainers/go-digest"
	"golang.org/x/sync/singleflight"
)

// share has bring run once for all who want the same layer in the store at the same time. Each of them waits until its own ctx ends; bring
// goes on then, for the others and the next attempt, and ends with the FS.
func (f *FS) share(ctx context.Context, d digest.Digest, bring func(context.Context) error) error {
	return f.shareIn(ctx, &f.opening, d, bring)
}

// shareIn is share for something else than bringing layers.
func (f *FS) shareIn(ctx context.Context, group *singleflight.Group, d digest.Digest, bring func(context.Context) error) error {
	result := group.DoChan(d.String(), func() (any, error) {
		err, over := errClosed, make(chan struct{})
		_, ok := f.tasks.start(ctx, func(ctx context.Context) {
			defer close(over)
			err = bring(ctx)
		})
		if ok {
			<-over
		}
		return nil, err
	})
	select {
	case r := <-result:
		return r.Err
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

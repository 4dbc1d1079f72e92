package fs

import (
	"context"

	"github.com/opencontainers/go-digest"
)

// share has bring run once for all who want the same layer in the store at the same time. Each of them waits until its own ctx ends; bring
// goes on then, for the others and the next attempt, and ends with the FS.
func (f *FS) share(ctx context.Context, d digest.Digest, bring func(context.Context) error) error {
	result := f.opening.DoChan(d.String(), func() (any, error) {
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

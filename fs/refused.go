package fs

import (
	"slices"
	"sync"
	"time"

	"github.com/opencontainers/go-digest"
)

const (
	// maxRefusals is how many layers are remembered that were refused.
	maxRefusals = 256
	// refusalTime is for how long: an image is pulled again, at once or into other namespaces, and each layer above brings the others along.
	refusalTime = time.Hour
)

// refusals remembers plain layers that were fetched and could not be taken, so that they are not fetched for nothing again and again. The
// zero value remembers none.
type refusals struct {
	mu   sync.Mutex
	list []refusal // the oldest first
}

type refusal struct {
	digest digest.Digest
	err    error
	until  time.Time
}

// find returns why a layer was refused, nil if it was not, or long ago.
func (r *refusals) find(d digest.Digest) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	now := time.Now()
	r.list = slices.DeleteFunc(r.list, func(one refusal) bool { return !now.Before(one.until) })
	if i := slices.IndexFunc(r.list, func(one refusal) bool { return one.digest == d }); i >= 0 {
		return r.list[i].err
	}
	return nil
}

func (r *refusals) keep(d digest.Digest, err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.list = slices.DeleteFunc(r.list, func(one refusal) bool { return one.digest == d })
	if len(r.list) >= maxRefusals {
		r.list = slices.Delete(r.list, 0, 1)
	}
	r.list = append(r.list, refusal{d, err, time.Now().Add(refusalTime)})
}

// Refuse has Mount answer with err for a plain layer that the store does not have, for an hour: who has fetched it cannot use it.
func (f *FS) Refuse(d digest.Digest, err error) { f.refused.keep(d, err) }

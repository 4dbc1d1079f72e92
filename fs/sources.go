package fs

import (
	"context"
	"errors"
	"io"
	"slices"
	"sync"

	"github.com/opencontainers/go-digest"

	"github.com/sluice-snapshotter/sluice/fs/layer"
	"github.com/sluice-snapshotter/sluice/fs/remote"
)

// maxSources bounds how many repositories a shared layer remembers as places to fetch it from.
const maxSources = 16

// sources is the blob of a mounted layer, in each of the repositories that images have named for it: when one fails, the
// next is asked, and from then on first, and the one that has failed last.
type sources struct {
	granted func(repository string) // told where bytes came from

	mu   sync.Mutex
	list []source // best first
	last *remote.Blob
}

type source struct {
	repository string
	blob       *remote.Blob
}

// newSources has no place yet to fetch a layer from.
func (f *FS) newSources(d digest.Digest) *sources {
	return &sources{granted: func(repository string) { f.rights.grant(d, repository) }}
}

// add takes one more place, which is asked next if the one that is asked first fails: who adds it has just been given the layer on its word. If there
// are too many, the one goes that would be asked last.
func (s *sources) add(repository string, blob *remote.Blob) {
	s.mu.Lock()
	defer s.mu.Unlock()
	o := source{repository, blob}
	switch i := slices.IndexFunc(s.list, func(o source) bool { return o.repository == repository }); {
	case i == 0:
		return
	case i > 0:
		o = s.list[i] // which knows what its hosts are like
		s.list = slices.Delete(s.list, i, i+1)
	case len(s.list) == maxSources:
		s.list = s.list[:maxSources-1]
	}
	s.list = slices.Insert(s.list, min(1, len(s.list)), o)
}

func (s *sources) ReadRange(ctx context.Context, off, size int64) (io.ReadCloser, error) {
	s.mu.Lock()
	list := slices.Clone(s.list)
	s.mu.Unlock()
	var errs []error
	for _, o := range list {
		rc, err := o.blob.ReadRange(ctx, off, size)
		if err == nil {
			s.prefer(o)
			s.granted(o.repository)
			return rc, nil
		}
		errs = append(errs, err)
		if ctx.Err() != nil {
			break
		}
	}
	return nil, errors.Join(errs...)
}

func (s *sources) prefer(o source) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.last = o.blob
	if i := slices.Index(s.list, o); i > 0 {
		s.list = slices.Concat(s.list[i:], s.list[:i])
	}
}

// Host returns who answered last.
func (s *sources) Host() string {
	if b := s.latest(); b != nil {
		return b.Host()
	}
	return ""
}

// Distrust has a host asked last from now on, in the repository that answered last.
func (s *sources) Distrust(host string) {
	if b := s.latest(); b != nil {
		b.Distrust(host)
	}
}

// Link returns what the way to who answered last is like.
func (s *sources) Link() layer.Link {
	b := s.latest()
	if b == nil {
		return layer.Link{}
	}
	link := b.Link()
	return layer.Link{RTT: link.RTT, Rate: link.Rate, Requests: link.Requests}
}

func (s *sources) latest() *remote.Blob {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.last
}

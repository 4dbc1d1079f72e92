package fs

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/containerd/containerd/v2/pkg/reference"
	"github.com/containerd/log"
	"github.com/opencontainers/go-digest"
	"golang.org/x/sync/singleflight"

	"github.com/sluice-snapshotter/sluice/fs/remote"
)

// The rule: an image is given a layer that the node has only if its repository's registry lets the node read the layer's blob from that
// repository, with the credentials that the node has for it. It does so if
//
//   - bytes of the blob came from there within the last rightTime: its TOC did, when the layer was brought for this image, or another
//     one of the repository, and so does all that is read of it; or
//   - the registry gives a byte of it now; or
//   - the registry cannot be asked, and it has let the node read the blob before, since when it has not refused.
//
// A snapshot that there is keeps what it shows (Source.Held): who could make it had the right then. That is what a restart goes by, without the
// network. What a registry refuses (401, 403, 404 from every host that it has) is refused from then on, but for snapshots that there are, until bytes
// of the blob come from there again. A restart forgets that: a snapshot's repository is one that has let the layer be read then.
//
// All of it is about layers that the store has. One that leaves it, or could not be brought into it, is forgotten, refusals and all: nobody is given it
// before a registry has sent it again, and then all others are asked.
//
// The repository counts, not the image: a registry's rights are the repository's.

// ErrNoRight says that an image is not given a layer that the node has for others, because its own registry has not let us read it.
var ErrNoRight = errors.New("the node has the layer, and the image's registry has not let it be read for this image")

const (
	// rightTime is for how long a registry's consent is good. It is what an hour's worth of pulls of one repository needs no
	// request for; tokens of registries are good for five minutes to twelve hours.
	rightTime = time.Hour

	// maxHolders is how many repositories are remembered for a layer. Others are asked for it again.
	maxHolders = 64
)

// rights are the repositories that layers could be read from. The zero value knows none.
type rights struct {
	asking singleflight.Group // by repository and layer

	mu     sync.Mutex
	layers map[digest.Digest]map[string]right // by repository
}

// right is what is known of one repository.
type right struct {
	at      time.Time // when the layer was read from there, or refused; the zero time for long ago
	refused bool      // it was refused since
}

// grant takes note that a layer was read from a repository just now.
func (r *rights) grant(d digest.Digest, repository string) {
	r.set(d, repository, right{at: time.Now()})
}

// hold takes note that it was some time. What was refused since is so still.
func (r *rights) hold(d digest.Digest, repository string) { r.set(d, repository, right{}) }

// revoke takes note that it was refused just now.
func (r *rights) revoke(d digest.Digest, repository string) {
	r.set(d, repository, right{time.Now(), true})
}

// set takes note of what is not older than what is known.
func (r *rights) set(d digest.Digest, repository string, now right) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.layers == nil {
		r.layers = make(map[digest.Digest]map[string]right)
	}
	holders := r.layers[d]
	if holders == nil {
		holders = make(map[string]right)
		r.layers[d] = holders
	}
	if old, ok := holders[repository]; ok && now.at.Before(old.at) {
		return
	} else if !ok && len(holders) >= maxHolders {
		delete(holders, oldest(holders))
	}
	holders[repository] = now
}

func oldest(holders map[string]right) (name string) {
	var first time.Time
	for repository, known := range holders {
		if name == "" || known.at.Before(first) {
			name, first = repository, known.at
		}
	}
	return name
}

// find says whether a layer was ever read from a repository, and not refused since, and whether that was not long ago.
func (r *rights) find(d digest.Digest, repository string) (known, fresh bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	was, known := r.layers[d][repository]
	known = known && !was.refused
	return known, known && time.Since(was.at) < rightTime
}

// forget forgets a layer.
func (r *rights) forget(d digest.Digest) {
	r.mu.Lock()
	defer r.mu.Unlock()
	delete(r.layers, d)
}

// repositoryOf is the repository of an image, without tag and digest.
func repositoryOf(ref string) (string, error) {
	spec, err := reference.Parse(ref)
	return spec.Locator, err
}

// entitle makes sure that src's image may have its layer, which the store has. The error wraps ErrNoRight.
func (f *FS) entitle(ctx context.Context, src Source) error {
	repository, err := repositoryOf(src.Ref)
	if err != nil {
		return fmt.Errorf("%w: %w", ErrNoRight, err)
	}
	if src.Held {
		f.rights.hold(src.Digest, repository)
		return nil
	}
	known, fresh := f.rights.find(src.Digest, repository)
	if fresh {
		return nil
	}
	f.askSiblings(ctx, src)
	switch err := f.ask(ctx, src, repository); {
	case err == nil:
		return nil
	case remote.Refused(err):
		f.rights.revoke(src.Digest, repository)
		return fmt.Errorf("%w: %w", ErrNoRight, err)
	case known:
		log.G(ctx).WithError(err).WithField("image", src.Ref).WithField("layer", src.Digest).
			Info("the registry cannot be asked whether the image may have a layer of the node's, and has let it be read before")
		return nil
	default:
		return fmt.Errorf("%w: %w", ErrNoRight, err)
	}
}

// ask reads a byte of src's layer from its registry, once for all who want to know.
func (f *FS) ask(ctx context.Context, src Source, repository string) error {
	return f.once(ctx, &f.rights.asking, repository+"@"+src.Digest.String(), func(ctx context.Context) error {
		ctx, cancel := context.WithTimeoutCause(ctx, f.patience, errSlow)
		defer cancel()
		places := f.newSources(src.Digest)
		if err := f.addSource(places, src); err != nil {
			return err
		}
		body, err := places.ReadRange(ctx, 0, 1)
		if err != nil {
			return err
		}
		return body.Close()
	})
}

// askSiblings has the image's other layers be asked for at the same time.
func (f *FS) askSiblings(ctx context.Context, src Source) {
	if src.Manifest == "" {
		return
	}
	f.tasks.start(ctx, func(ctx context.Context) {
		if m, _, err := f.manifests.get(ctx, f.opts.Registry, src); err == nil { // else their turn comes
			f.bringSiblings(ctx, m, src)
		}
	})
}

// entitleStored is entitle for a layer that the store may not have: then who brings it finds out.
func (f *FS) entitleStored(ctx context.Context, src Source) error {
	if found, err := f.stored(src.Digest); !found || err != nil {
		return nil //nolint:nilerror // whoever mounts it has the error
	}
	return f.entitle(ctx, src)
}

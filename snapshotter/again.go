package snapshotter

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/opencontainers/go-digest"
)

// errAgain says that a layer cannot be below itself.
var errAgain = errors.New("is in the image below already, and takes names away: overlayfs would list those")

// topmost leaves out directories that stand further up as well: one image may
// have a layer twice (empty ones are all the same), and overlayfs refuses to.
// The upper one has all entries of the lower one, and no whiteouts: checkAgain
// sees to that.
func topmost(lowers []lower) []lower {
	seen := make(map[string]bool)
	return slices.DeleteFunc(slices.Clone(lowers), func(l lower) bool {
		again := seen[l.path]
		seen[l.path] = true
		return again
	})
}

// checkAgain looks whether a layer with whiteouts is in the chain below it.
// Overlayfs has no whiteouts among the names of a directory that is in several
// layers, but in one of a single layer it lists them. So the lower copy cannot
// be left out, and the other one is to be another directory: containerd's.
func (s *Snapshotter) checkAgain(ctx context.Context, parent string, layer digest.Digest) error {
	chain, err := s.chain(ctx, parent)
	if err != nil {
		return err
	}
	if slices.Contains(digests(chain), layer) && s.fs.HasWhiteouts(layer) {
		return fmt.Errorf("layer %s %w", layer, errAgain)
	}
	return nil
}

package remote

import (
	"context"
	"fmt"

	"github.com/opencontainers/go-digest"
)

// Resolve returns the digest of the manifest or index that the tag in ref stands for at the moment. It blocks on the network.
func (r *Registry) Resolve(ctx context.Context, ref string) (digest.Digest, error) {
	_, desc, err := r.Resolver().Resolve(ctx, ref)
	if err != nil {
		return "", fmt.Errorf("resolve %s: %w", ref, err)
	}
	return desc.Digest, nil
}

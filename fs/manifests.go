package fs

import (
	"context"
	"slices"
	"sync"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sync/singleflight"

	"github.com/sluice-snapshotter/sluice/fs/remote"
)

// maxManifests is how many manifests are remembered: those of the images that are being pulled.
const maxManifests = 32

// manifests remembers the manifests that were used last. The zero value remembers none.
type manifests struct {
	flights singleflight.Group // by manifest digest

	mu   sync.Mutex
	kept []keptManifest // the last one used at the end
}

type keptManifest struct {
	digest   digest.Digest
	manifest ocispec.Manifest
}

// get returns the manifest of src. fetched is whether this call has fetched it. ctx must be one that does not end
// while others wait for the same manifest.
func (m *manifests) get(ctx context.Context, r *remote.Registry, src Source) (_ ocispec.Manifest, fetched bool, _ error) {
	if got, ok := m.find(src.Manifest); ok {
		return got, false, nil
	}
	v, err, _ := m.flights.Do(src.Manifest.String(), func() (any, error) {
		if got, ok := m.find(src.Manifest); ok {
			return got, nil
		}
		got, err := r.Manifest(ctx, src.Ref, src.Manifest)
		if err != nil {
			return nil, err
		}
		fetched = true
		m.keep(keptManifest{src.Manifest, got})
		return got, nil
	})
	if err != nil {
		return ocispec.Manifest{}, false, err
	}
	return v.(ocispec.Manifest), fetched, nil
}

func (m *manifests) find(d digest.Digest) (ocispec.Manifest, bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	i := slices.IndexFunc(m.kept, func(k keptManifest) bool { return k.digest == d })
	if i < 0 {
		return ocispec.Manifest{}, false
	}
	k := m.kept[i]
	m.kept = append(slices.Delete(m.kept, i, i+1), k)
	return k.manifest, true
}

func (m *manifests) keep(k keptManifest) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if len(m.kept) >= maxManifests {
		m.kept = slices.Delete(m.kept, 0, 1)
	}
	m.kept = append(m.kept, k)
}

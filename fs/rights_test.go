package fs

import (
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"
)

// tenants are two registries with one layer, which the node has for the first.
func tenants(t *testing.T) (n *node, l blob, first, second *registry) {
	t.Helper()
	l = buildBlob(t, []file{regular("file", noise(1, 200_000))})
	first, second = newRegistry(t, l), newRegistry(t, l)
	n = newNode(t, Options{Mode: FUSE})
	n.mountLayer(t, first.told(l))
	return n, l, first, second
}

// TestRights has an image of another repository want a layer that the node has, by a label that says all: it gets what its registry gives.
func TestRights(t *testing.T) {
	for _, code := range []int{401, 403, 404, 503} {
		t.Run(fmt.Sprint(code), func(t *testing.T) {
			n, l, _, second := tenants(t)
			second.fail.Store(int64(code))
			if err := n.Mount(t.Context(), second.told(l)); !errors.Is(err, ErrNoRight) {
				t.Errorf("error is %v, want %v", err, ErrNoRight)
			}
			second.fail.Store(0)
			before := second.blobs.Load()
			for range 3 {
				n.mountLayer(t, second.told(l))
			}
			if got := second.blobs.Load() - before; got != 1 {
				t.Errorf("%d requests for a right, want one", got)
			}
		})
	}
}

// TestRightsOfNotMounted is the same for a layer that is only in the store.
func TestRightsOfNotMounted(t *testing.T) {
	l := buildBlob(t, []file{regular("file", noise(1, 200_000))})
	first, second := newRegistry(t, l), newRegistry(t, l)
	n := newNode(t, Options{Mode: FUSE})
	if _, err := n.bring(t.Context(), first.told(l)); err != nil {
		t.Fatal(err)
	}
	second.fail.Store(403)
	if err := n.Mount(t.Context(), second.told(l)); !errors.Is(err, ErrNoRight) || n.Mounted(l.digest) {
		t.Errorf("error is %v, want %v; mounted: %v", err, ErrNoRight, n.Mounted(l.digest))
	}
	if _, err := n.bring(t.Context(), second.told(l)); !errors.Is(err, ErrNoRight) {
		t.Errorf("brought: %v, want %v", err, ErrNoRight)
	}
	n.mountLayer(t, first.told(l))
	if got := first.asked(l.digest); got != 1 {
		t.Errorf("the repository that has it was asked %d times", got)
	}
}

// TestRightsJoined has both want the layer at the same moment, before the node has it: that one is bringing it is no right of the other.
func TestRightsJoined(t *testing.T) {
	l := buildBlob(t, []file{regular("file", noise(1, 200_000))})
	first, second := newRegistry(t, l), newRegistry(t, l)
	n := newNode(t, Options{Mode: FUSE})
	first.stall()
	second.fail.Store(403)
	var wg sync.WaitGroup
	results := make([]error, 2)
	wg.Go(func() { results[0] = n.Mount(t.Context(), first.told(l)) })
	await(t, "the first", first.waiting)
	wg.Go(func() { results[1] = n.Mount(t.Context(), second.told(l)) })
	first.release()
	wg.Wait()
	if results[0] != nil || !errors.Is(results[1], ErrNoRight) {
		t.Errorf("errors are %v", results)
	}
}

// TestRightsOfPlain is the rule for a layer without a TOC.
func TestRightsOfPlain(t *testing.T) {
	l, diffID := plainBlob(t, regular("file", noise(1, 100_000)))
	first, second := newRegistry(t, l), newRegistry(t, l)
	n := newNode(t, Options{Mode: FUSE})
	n.mountLayer(t, first.bottom(l, diffID))
	delete(second.content, l.digest) // its manifest is there
	if err := n.Mount(t.Context(), second.bottom(l, diffID)); !errors.Is(err, ErrNoRight) {
		t.Errorf("error is %v, want %v", err, ErrNoRight)
	}
}

// TestRightsLast has the registries be gone: what was let be read before goes on, for those who could.
func TestRightsLast(t *testing.T) {
	n, l, first, second := tenants(t)
	repository, err := repositoryOf(first.ref)
	if err != nil {
		t.Fatal(err)
	}
	age := func(by time.Duration) {
		n.rights.mu.Lock()
		defer n.rights.mu.Unlock()
		n.rights.layers[l.digest][repository] = right{at: time.Now().Add(-by)}
	}
	first.fail.Store(500)
	age(rightTime - time.Minute)
	had := first.blobs.Load()
	n.mountLayer(t, first.told(l))
	if got := first.blobs.Load(); got != had {
		t.Errorf("%d requests within the time", got-had)
	}
	age(rightTime + time.Minute)
	n.mountLayer(t, first.told(l))
	if got := first.blobs.Load(); got == had {
		t.Error("the registry was not asked after that")
	}
	first.fail.Store(403)
	age(rightTime + time.Minute)
	if err := n.Mount(t.Context(), first.told(l)); !errors.Is(err, ErrNoRight) {
		t.Errorf("refused: %v", err)
	}
	first.fail.Store(500)
	if err := n.Mount(t.Context(), first.told(l)); !errors.Is(err, ErrNoRight) {
		t.Errorf("after it was refused, and the registry is down: %v", err)
	}

	held := second.told(l) // of a snapshot
	held.Held = true
	second.fail.Store(500)
	n.mountLayer(t, held)
	n.mountLayer(t, second.told(l))
	second.fail.Store(404)
	if err := n.Mount(t.Context(), second.told(l)); !errors.Is(err, ErrNoRight) {
		t.Errorf("a new image: %v", err)
	}
	n.mountLayer(t, held)
	second.fail.Store(500)
	if err := n.Mount(t.Context(), second.told(l)); !errors.Is(err, ErrNoRight) {
		t.Errorf("a new image, after it was refused, by what its snapshot shows: %v", err)
	}
	second.fail.Store(0)
	n.mountLayer(t, second.told(l))
}

// TestRightsBounded has many repositories want one layer: those that wanted it first are forgotten.
func TestRightsBounded(t *testing.T) {
	var r rights
	d := digest.FromString("layer")
	for i := range 3 * maxHolders {
		r.set(d, fmt.Sprint(i), right{at: time.Unix(int64(i+1), 0)})
	}
	if n := len(r.layers[d]); n != maxHolders {
		t.Errorf("%d are remembered", n)
	}
	if known, _ := r.find(d, fmt.Sprint(3*maxHolders-1)); !known {
		t.Error("the last one is forgotten")
	}
	r.hold(d, fmt.Sprint(3*maxHolders-1))
	if r.layers[d][fmt.Sprint(3*maxHolders-1)].at.IsZero() {
		t.Error("an old right takes the place of a younger one")
	}
	r.forget(d)
	if len(r.layers) != 0 {
		t.Error("a layer that is gone is remembered")
	}
}

// TestRightsOfNothing: of layers that do not come into the store no rights are remembered.
func TestRightsOfNothing(t *testing.T) {
	n := newNode(t, Options{Mode: FUSE})
	good := buildBlob(t, []file{regular("file", noise(1, 1000))})
	n.mountLayer(t, newRegistry(t, good).source(good))
	lie := buildBlob(t, []file{regular("file", noise(2, 1000))})
	lie.tocDigest = digest.FromString("another")
	plain, _ := plainBlob(t, regular("../file", noise(3, 1000)))
	registries := []*registry{newRegistry(t, lie), newRegistry(t, plain)}
	for i, src := range []Source{registries[0].source(lie), registries[1].bottom(plain, digest.FromString("any"))} {
		if err := n.Mount(t.Context(), src); err == nil || registries[i].asked(src.Digest) == 0 {
			t.Errorf("error is %v, %d requests", err, registries[i].asked(src.Digest))
		}
	}
	n.rights.mu.Lock()
	defer n.rights.mu.Unlock()
	if len(n.rights.layers) != 1 || n.rights.layers[good.digest] == nil {
		t.Errorf("remembered: %v", n.rights.layers)
	}
}

// TestRightsOfBadReference has no repository to ask.
func TestRightsOfBadReference(t *testing.T) {
	n, l, first, _ := tenants(t)
	src := first.told(l)
	src.Ref = strings.Repeat("/", 3)
	if err := n.Mount(t.Context(), src); !errors.Is(err, ErrNoRight) {
		t.Errorf("error is %v", err)
	}
}

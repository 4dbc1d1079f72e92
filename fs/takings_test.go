package fs

import (
	"sync"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/sluice-snapshotter/sluice/fs/layer"
)

func TestTakings(t *testing.T) {
	var s takings
	d := digest.FromString("d")
	wanted := func(t *taking) bool {
		select {
		case <-t.wanted:
			return true
		default:
			return false
		}
	}
	ahead := s.join(d)
	if other := s.join(digest.FromString("other")); wanted(ahead) || other == ahead {
		t.Error("nobody waits for it")
	}
	mount := s.join(d)
	mount.want()
	mount.want()
	if s.leave(d); !wanted(ahead) {
		t.Error("somebody waits for it")
	}
	if s.leave(d); wanted(s.join(d)) || len(s.set) != 2 {
		t.Errorf("nobody waits for it any more; %d are left", len(s.set))
	}
}

// TestPlainAheadYields: while somebody waits for another image, a layer that comes ahead of its turn gives way, and one that is mounted does not.
func TestPlainAheadYields(t *testing.T) {
	first, firstID := plainBlob(t, regular("file", noise(1, 50_000)))
	second, _ := plainBlob(t, regular("file", noise(2, 90_000)))
	other := buildBlob(t, []file{regular("file", noise(3, 1000))})
	r, busy := newRegistry(t, first, second), newRegistry(t, other)
	var mu sync.Mutex
	waits := make(map[int64]time.Duration) // by bytes
	n := newNode(t, Options{Mode: FUSE, Observer: layer.Observer{Fetched: func(r layer.Range) {
		mu.Lock()
		defer mu.Unlock()
		waits[r.Blob] = r.Wait
	}}})
	busy.crawl()
	done := make(chan error, 1)
	go func() {
		_, err := n.bring(t.Context(), Source{Ref: busy.ref, Digest: other.digest, TOCDigest: other.tocDigest, Size: int64(len(other.bytes))})
		done <- err
	}()
	await(t, "the other image's TOC", busy.waiting)
	n.mountLayer(t, r.bottom(first, firstID))
	eventually(t, "the layer ahead", func() bool {
		found, err := n.stored(second.digest)
		return found && err == nil
	})
	busy.release()
	if err := <-done; err != nil {
		t.Error(err)
	}
	mu.Lock()
	defer mu.Unlock()
	mounted, ahead := waits[int64(len(first.bytes))], waits[int64(len(second.bytes))]
	if least := 900 * time.Millisecond; mounted >= least || ahead < least {
		t.Errorf("the layer that is mounted has waited %s, the one ahead %s", mounted, ahead)
	}
}

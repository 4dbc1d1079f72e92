package fs

import (
	"errors"
	"os"
	"sync"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"
	"golang.org/x/sys/unix"

	"github.com/sluice-snapshotter/sluice/cache"
)

// TestRoomAfterDrop: what a container has let go of is removed from a crowded store once its grace is over, though nothing is stored
// meanwhile that would ask for room; and what waits for room goes on.
func TestRoomAfterDrop(t *testing.T) {
	first, second := bulky(t, 1, 3<<20), bulky(t, 2, 1<<20)
	r := newRegistry(t, first, second)
	n := newNode(t, Options{Mode: FUSE, Background: true})
	n.grace = time.Second
	n.mountLayer(t, r.source(first))
	until(t, "the first layer is complete", func() bool { return n.status(t, first).State == Complete })
	limit := n.store.Used() * 100 / 96 // above the high watermark, and too little for contents to be shed
	n.store.SetQuota(cache.Quota{Limit: limit, High: limit / 100 * 95, Low: limit / 100 * 85}, n.MakeRoom)
	if err := n.Mount(t.Context(), r.source(second)); err != nil {
		t.Fatal(err)
	}
	n.path(t, second, "another")
	time.Sleep(2 * n.grace)
	if s := n.status(t, second); !n.Mounted(first.digest) || s.State == Complete {
		t.Fatalf("there is room while a container has all: %+v", s)
	}
	n.Drop(t.Name())
	until(t, "what the container had is removed", func() bool { return !n.Mounted(first.digest) })
	until(t, "the second layer is complete", func() bool { return n.status(t, second).State == Complete })
}

// TestPinnedIsQuiet: as long as containers have all of a crowded store, nobody waits for the end of a grace.
func TestPinnedIsQuiet(t *testing.T) {
	l := bulky(t, 1, 100_000)
	n := newNode(t, Options{Mode: FUSE})
	n.mountLayer(t, newRegistry(t, l).source(l))
	if n.nextIdle(t.Context()) != nil {
		t.Error("a store that has room waits for more")
	}
	n.store.SetQuota(cache.Quota{Limit: 1 << 30, High: 1, Low: 1}, n.MakeRoom)
	if n.nextIdle(t.Context()) != nil {
		t.Error("it is waited for a layer that a container has")
	}
	n.Drop(t.Name())
	if n.nextIdle(t.Context()) == nil {
		t.Error("it is not waited for a layer that no container has")
	}
}

// TestLargeOnFullDisk: a layer whose files take more than a disk has free has room made, though what is half-made of it is gone by then.
func TestLargeOnFullDisk(t *testing.T) {
	disk := t.TempDir()
	if err := unix.Mount("none", disk, "tmpfs", 0, "size=100m"); err != nil {
		t.Skip(err)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(disk, unix.MNT_DETACH); err != nil {
			t.Error(err)
		}
	})
	l := bulky(t, 1, 15<<20)
	n := openNode(t, disk, Options{Mode: FUSE, Background: true})
	defer n.close(t)
	n.grace = 0
	n.store.SetQuota(cache.Quota{}, n.MakeRoom)
	if err := n.Mount(t.Context(), newRegistry(t, l).source(l)); err != nil {
		t.Fatal(err)
	}
	until(t, "the layer is complete", func() bool { return n.status(t, l).State == Complete })
	large, err := n.store.Create(digest.FromString("large"), cache.Info{}, func(meta *os.File, _ func(cache.Chunk) error) error {
		_, err := meta.Write(make([]byte, 90<<20))
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	if err := large.Close(); err != nil {
		t.Error(err)
	}
	if n.Mounted(l.digest) {
		t.Error("the layer that no container has stays")
	}
}

// TestEvictComingBack: who makes room does not wait for a layer that is being mounted anew meanwhile, which may itself be waiting for room.
func TestEvictComingBack(t *testing.T) {
	l := bulky(t, 1, 100_000)
	r := newRegistry(t, l)
	n := newNode(t, Options{Mode: FUSE})
	if err := n.Mount(t.Context(), r.source(l)); err != nil {
		t.Fatal(err)
	}
	m := n.settled(t, l)
	if err := n.Unmount(t.Context(), l.digest); err != nil {
		t.Fatal(err)
	}
	r.stall()
	var g sync.WaitGroup
	g.Go(func() {
		if err := n.Mount(t.Context(), r.source(l)); err != nil {
			t.Error(err)
		}
	})
	<-r.waiting
	done := make(chan error, 1)
	go func() {
		_, err := n.removeIdle(m, func() bool { return true })
		done <- err
	}()
	select {
	case err := <-done:
		if !errors.Is(err, ErrInUse) {
			t.Errorf("removed: %v", err)
		}
	case <-time.After(5 * time.Second):
		t.Error("it is waited for")
	}
	r.release()
	g.Wait()
	if !n.Mounted(l.digest) {
		t.Error("the layer is not mounted")
	}
}

package fs

import (
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/sluice-snapshotter/sluice/cache"
)

// TestPinned: a store at its limit whose layers are all in use says so once, in its log and to who asks, until it has room.
func TestPinned(t *testing.T) {
	plain, diffID := plainBlob(t, regular("file", noise(1, 1<<20)))
	l := bulky(t, 2, 300_000)
	r := newRegistry(t, plain, l)
	ctx, lines := logged(t)
	n, err := tryNode(ctx, t.TempDir(), Options{Mode: FUSE})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { n.close(t) })
	n.mountLayer(t, r.bottom(plain, diffID))
	path := n.mountLayer(t, r.source(l))
	used := n.store.Used()
	if all, bytes := n.Pinned(); all || bytes != used {
		t.Errorf("all is pinned: %t; %d bytes, of %d", all, bytes, used)
	}
	n.store.SetQuota(cache.Quota{Limit: used + 10_000, High: used, Low: used / 2}, n.MakeRoom)
	for range 3 {
		compare(t, path, l.files)
		dropCaches(t)
	}
	until(t, "it is known that all is pinned", func() bool { all, _ := n.Pinned(); return all })
	if n.store.Denials() < 3 {
		t.Errorf("%d times something was not stored", n.store.Denials())
	}
	n.store.SetQuota(cache.Quota{}, n.MakeRoom)
	until(t, "there is room", func() bool { all, _ := n.Pinned(); return !all })
	until(t, "the log says that there is", func() bool { return strings.Contains(lines.String(), "has room again") })
	if told := strings.Count(lines.String(), "has come to its limit"); told != 1 {
		t.Errorf("the log says it %d times:\n%s", told, lines)
	}
	compare(t, path, l.files)
	if _, bytes := n.Pinned(); bytes > used+64<<10 {
		t.Errorf("contents that can be given up are pinned: %d bytes", bytes)
	}
}

// TestVain: a round that was in vain is not done again at once, unless something has changed.
func TestVain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		idle, all := goals{10, enough}, goals{10, 20}
		v := vain{idle, 7, time.Now()}
		expect := func(want bool, g goals, drops uint64) {
			t.Helper()
			if got := v.still(g, drops); got != want {
				t.Errorf("in vain as well: %t", got)
			}
		}
		expect(true, idle, 7)
		expect(false, idle, 8) // somebody has let go
		expect(false, all, 7)  // more may be given up
		v.goals = all
		expect(true, idle, 7)
		expect(true, goals{10, 5}, 7)
		time.Sleep(reliefPause)
		expect(false, all, 7)
	})
	if (vain{}).still(goals{}, 0) {
		t.Error("the first round is in vain")
	}
}

// TestVainRounds: while all is in use, what is stored does not have the layers looked at each time.
func TestVainRounds(t *testing.T) {
	plain, diffID := plainBlob(t, regular("file", noise(1, 1<<20)))
	r := newRegistry(t, plain)
	n := newNode(t, Options{Mode: FUSE})
	n.grace = 0
	n.mountLayer(t, r.bottom(plain, diffID))
	n.store.SetQuota(cache.Quota{Limit: 2 << 20, High: 1 << 20, Low: 1 << 19}, n.MakeRoom)
	round := func() vain {
		n.makeRoom(t.Context(), false)
		n.relief <- struct{}{}
		defer func() { <-n.relief }()
		return n.vain
	}
	first := round()
	if first.at.IsZero() {
		t.Fatal("the round was not in vain")
	}
	if second := round(); second != first && second.at.Sub(first.at) < reliefPause {
		t.Errorf("another round at once: %+v, after %+v", second, first)
	}
	n.Drop(t.Name())
	if round(); n.Mounted(plain.digest) {
		t.Error("what a container has let go of stays")
	}
}

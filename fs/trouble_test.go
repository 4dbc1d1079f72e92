package fs

import (
	"errors"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/sluice-snapshotter/sluice/cache"
)

// TestTroubleAtLimit: a disk that fails keeps what the store has, but if the quota refuses all that comes, room is made: only what is stored ends
// the trouble.
func TestTroubleAtLimit(t *testing.T) {
	idle, held := bulky(t, 1, 1<<20), bulky(t, 2, 3_000_000)
	r := newRegistry(t, idle, held)
	n := newNode(t, Options{Mode: FUSE})
	n.grace = 0
	compare(t, n.mountLayer(t, r.source(idle)), idle.files)
	n.Drop(t.Name())
	path := n.mountLayer(t, r.source(held))
	mend := breakData(t, held)
	read := func(name string) {
		t.Helper()
		if _, err := os.ReadFile(filepath.Join(path, "d", name)); err != nil {
			t.Fatal(err)
		}
	}
	read("a")
	if err := n.store.Trouble(); err == nil || cache.IsOutOfSpace(err) {
		t.Fatalf("trouble: %v", err)
	}
	if g := n.quietGoals(); g != (goals{enough, enough}) {
		t.Errorf("a failing disk is to give up %+v", g)
	}
	mend()
	used := n.store.Used()
	n.store.SetQuota(cache.Quota{Limit: used + 1, High: used, Low: used / 2}, n.MakeRoom)
	if g := n.quietGoals(); g != (goals{enough, enough}) {
		t.Errorf("a failing disk is to give up %+v, though nothing was refused", g)
	}
	read("b")
	until(t, "room is made", func() bool { return !n.Mounted(idle.digest) })
	read("c")
	until(t, "the trouble is over", func() bool { return n.store.Trouble() == nil })
	if n.status(t, held).Fetched == 0 {
		t.Error("nothing was stored")
	}
}

// quietGoals are the goals of a round that nobody has asked for.
func (n *node) quietGoals() goals {
	n.relief <- struct{}{}
	defer func() { <-n.relief }()
	return n.goals(false)
}

// breakData has what is written to l's data file fail, until the function that it returns is called.
func breakData(t *testing.T, l blob) (mend func()) {
	t.Helper()
	links, err := filepath.Glob("/proc/self/fd/*")
	if err != nil {
		t.Fatal(err)
	}
	for _, link := range links {
		if name, _ := os.Readlink(link); !strings.HasSuffix(name, filepath.Join(l.digest.Encoded(), "data")) {
			continue
		}
		fd, err := strconv.Atoi(filepath.Base(link))
		if err != nil {
			t.Fatal(err)
		}
		replace := func(flags int) {
			t.Helper()
			other, err := unix.Open(link, flags|unix.O_CLOEXEC, 0)
			if err == nil {
				err = errors.Join(unix.Dup3(other, fd, unix.O_CLOEXEC), unix.Close(other))
			}
			if err != nil {
				t.Fatal(err)
			}
		}
		replace(unix.O_RDONLY)
		return func() { replace(unix.O_RDWR) }
	}
	t.Fatal("the data file is not open")
	return nil
}

package main

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/containerd/log"
	"github.com/opencontainers/go-digest"
	"github.com/sirupsen/logrus"
	"golang.org/x/sys/unix"

	"github.com/sluice-snapshotter/sluice/cache"
	"github.com/sluice-snapshotter/sluice/fs"
)

// partsOn are parts with their root on a tmpfs of this size, and what they log.
func partsOn(t *testing.T, size string) (_ *parts, c config, root string, lines *bytes.Buffer) {
	t.Helper()
	root = t.TempDir()
	if err := unix.Mount("none", root, "tmpfs", 0, "size="+size); err != nil {
		t.Skip("mounting a tmpfs: ", err)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(root, unix.MNT_DETACH); err != nil {
			t.Error(err)
		}
	})
	c = newConfig()
	c.Root, c.State, c.Mount = directory{filepath.Join(root, "root")}, directory{filepath.Join(shortDir(t), "state")}, mount{fs.FUSE}
	lines = new(bytes.Buffer)
	logger := logrus.New()
	logger.SetOutput(lines)
	p, err := openParts(log.WithLogger(t.Context(), logrus.NewEntry(logger)), c, newMetrics())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := errors.Join(p.fs.Close(), p.close()); err != nil {
			t.Error(err)
		}
	})
	return p, c, root, lines
}

// TestLimitFollowsDisk: the limit is a share of what the file system has now, not of what it had at the start.
func TestLimitFollowsDisk(t *testing.T) {
	p, c, root, _ := partsOn(t, "100m")
	p.relieve()
	for _, step := range []struct {
		size  string
		limit int64 // MiB
	}{{"100m", 80}, {"200m", 160}, {"50m", 40}} {
		if err := unix.Mount("none", root, "tmpfs", unix.MS_REMOUNT, "size="+step.size); err != nil {
			t.Fatal(err)
		}
		p.rebound(t.Context(), c)
		q := p.store.Quota()
		if limit := q.Limit >> 20; limit < step.limit-1 || limit > step.limit || q.High >= q.Limit || q.Low >= q.High || q.Low == 0 {
			t.Errorf("of %s: %+v", step.size, q)
		}
	}
}

// TestBoundBeforeRelief: the quota holds from the start on, and nothing is removed for it before it is known what containers have.
func TestBoundBeforeRelief(t *testing.T) {
	p, _, root, _ := partsOn(t, "100m")
	store := func(name string, mib int64) error {
		l, err := p.store.Create(digest.FromString(name), cache.Info{}, func(meta *os.File, _ func(cache.Chunk) error) error {
			return unix.Fallocate(int(meta.Fd()), 0, 0, mib<<20)
		})
		if err != nil {
			return err
		}
		long := time.Now().Add(-time.Hour)
		return errors.Join(l.Close(), os.Chtimes(filepath.Join(root, "root", "layers", "sha256", digest.FromString(name).Encoded()), long, long))
	}
	if err := store("idle", 78); err != nil {
		t.Fatal(err)
	}
	if err := store("another", 10); !errors.Is(err, cache.ErrFull) {
		t.Errorf("beyond the quota: %v", err)
	}
	p.relieve()
	if err := store("another", 10); err != nil {
		t.Errorf("once layers may be removed: %v", err)
	}
	if layers, err := p.store.List(); err != nil || len(layers) != 1 {
		t.Errorf("layers %v, %v", layers, err)
	}
}

// TestEarlyTrouble: a disk that is full while layers are opened after a start is told of.
func TestEarlyTrouble(t *testing.T) {
	p, _, _, lines := partsOn(t, "1m")
	_, err := p.store.Create(digest.FromString("layer"), cache.Info{}, func(meta *os.File, _ func(cache.Chunk) error) error {
		_, err := meta.Write(make([]byte, 2<<20))
		return err
	})
	if !cache.IsOutOfSpace(err) {
		t.Fatalf("on a full disk: %v", err)
	}
	if got := strings.Count(lines.String(), "cannot be stored"); got != 1 {
		t.Errorf("the log says it %d times:\n%s", got, lines)
	}
}

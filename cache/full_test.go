package cache

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"github.com/opencontainers/go-digest"
	"golang.org/x/sys/unix"
)

// A layer that is made on a full disk waits until room was made; if there is none, it fails, and leaves nothing.
func TestMakeOnFullDisk(t *testing.T) {
	const size = 4 << 20
	for name, test := range map[string]struct {
		rooms []int64 // when it begins
		bring func(s *Store, d digest.Digest) (*Layer, error)
	}{
		"create": {[]int64{0, size / 2}, func(s *Store, d digest.Digest) (*Layer, error) {
			return s.Create(d, Info{}, func(meta *os.File, _ func(Chunk) error) error {
				_, err := meta.Write(spread(size))
				return err
			})
		}},
		"fill": {[]int64{0, size, 2*size + size/2}, func(s *Store, d digest.Digest) (*Layer, error) {
			return s.Fill(d, func(f *Filling) (Info, error) {
				if _, err := f.WriteAt(spread(2*size), 0); err != nil {
					return Info{}, err
				}
				_, err := f.Meta.Write(spread(size))
				return Info{DataSize: 2 * size}, err
			})
		}},
	} {
		for _, room := range test.rooms {
			t.Run(fmt.Sprint(name, " with ", room), func(t *testing.T) {
				disk := loopDisk(t, filepath.Join(t.TempDir(), "image"), "32M")
				store := openStore(t, disk, bootA)
				filler, rounds := fillDisk(t, disk), 0
				shrink(t, filler, room)
				store.SetQuota(Quota{}, func() {
					rounds++
					shrink(t, filler, 14<<20)
				})
				l, err := test.bring(store, digest.FromString("first"))
				if err != nil {
					t.Fatal(err)
				}
				if _, _, full := store.OutOfSpace(); rounds != 1 || !full {
					t.Errorf("room was made %d times; the disk is said to be full: %t", rounds, full)
				}
				used := store.Used()
				fillDisk(t, disk)
				store.SetQuota(Quota{}, func() { rounds++ })
				if _, err := test.bring(store, digest.FromString("second")); !IsOutOfSpace(err) || rounds != 2 {
					t.Errorf("without room, after %d rounds: %v", rounds, err)
				}
				layers, err := store.List()
				if err != nil || len(layers) != 1 || store.Used() != used {
					t.Errorf("layers %v, %v; %d bytes are counted, %d before", layers, err, store.Used(), used)
				}
				if left, err := os.ReadDir(store.tempDir()); err != nil || len(left) > 0 {
					t.Errorf("left: %v, %v", left, err)
				}
				closeAll(t, l, store)
			})
		}
	}
}

// What was half-made tells how much there was no room for, and a file system's own quota that nobody knows what it has.
func TestOutOfSpace(t *testing.T) {
	for _, full := range []error{unix.ENOSPC, unix.EDQUOT} {
		store := openStore(t, t.TempDir(), bootA)
		if !store.HasRoom(1) {
			t.Skip("the disk is full")
		}
		_, err := store.Create(digest.FromString("layer"), Info{}, func(meta *os.File, _ func(Chunk) error) error {
			_, err := meta.Write(spread(8 << 20))
			return errors.Join(err, full)
		})
		if _, size, ok := store.OutOfSpace(); !errors.Is(err, full) || !ok || size < 8<<20 {
			t.Errorf("%v: %d bytes are said not to have had room: %t", err, size, ok)
		}
		if got, want := store.HasRoom(1), errors.Is(full, unix.ENOSPC); got != want {
			t.Errorf("%v: the disk has room: %t", full, got)
		}
		closeAll(t, store)
	}
}

// What room was made for is not taken by who can do without.
func TestRoomIsKept(t *testing.T) {
	store := openStore(t, t.TempDir(), bootA)
	smp := newSample("layer", 64<<10, 64<<10)
	l := smp.create(t, store)
	smp.put(t, l, 0)
	limit := store.Used()
	rounds := 0
	store.SetQuota(Quota{Limit: limit}, func() {
		rounds++
		if _, err := l.Shed(none); err != nil {
			t.Error(err)
		}
		if err := l.Put(0, smp.data[0]); !errors.Is(err, ErrFull) {
			t.Errorf("what was shed is stored again: %v", err)
		}
	})
	other := newSample("other", 4096)
	made, err := store.Create(other.digest, Info{DataSize: other.size}, func(meta *os.File, add func(Chunk) error) error {
		_, err := meta.Write(spread(40 << 10))
		return errors.Join(err, other.addTo(add))
	})
	if err != nil || rounds != 1 || store.Wanted() != 0 {
		t.Fatalf("after %d rounds: %v; %d bytes are waited for", rounds, err, store.Wanted())
	}
	closeAll(t, made, l, store)
}

// shrink gives a disk the last bytes of a file back.
func shrink(t *testing.T, name string, by int64) {
	t.Helper()
	st, err := os.Stat(name)
	if err == nil {
		err = os.Truncate(name, max(0, st.Size()-by))
	}
	if err != nil {
		t.Error(err)
	}
}

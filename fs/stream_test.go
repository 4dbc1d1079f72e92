package fs

import (
	"io"
	"os"
	"path/filepath"
	"strconv"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// TestStream: who reads on without waiting is one, in the kernel's order or nearly so; who waits ends it.
func TestStream(t *testing.T) {
	const n = 128 << 10
	type read struct {
		off    int64
		waited bool
	}
	row := func(from, to int64) (rs []read) {
		for off := from; off < to; off += n {
			rs = append(rs, read{off: off})
		}
		return rs
	}
	swapped := row(0, streamBytes)
	for i := 0; i+1 < len(swapped); i += 2 {
		swapped[i], swapped[i+1] = swapped[i+1], swapped[i]
	}
	var scattered, backwards []read
	for i := range int64(1000) {
		scattered = append(scattered, read{off: i * 7919 % 1000 << 20})
		backwards = append(backwards, read{off: (1000 - i) << 20})
	}
	join := func(parts ...[]read) (all []read) {
		for _, p := range parts {
			all = append(all, p...)
		}
		return all
	}
	wait := []read{{off: 0, waited: true}}
	for _, c := range []struct {
		name    string
		reads   []read
		seen    bool
		changes int
	}{
		{"from the beginning", row(0, streamBytes), true, 1},
		{"from the middle", row(3<<30, 3<<30+streamBytes+n), true, 1},
		{"two under way", swapped, true, 1},
		{"too little", row(0, streamBytes-n), false, 0},
		{"with a gap", join(row(0, streamBytes/2), row(streamBytes, 3*streamBytes/2)), false, 0},
		{"with a wait", join(row(0, streamBytes-n), []read{{streamBytes - n, true}}, row(streamBytes, 2*streamBytes-n)), false, 0},
		{"scattered", scattered, false, 0},
		{"backwards", backwards, false, 0},
		{"and then one that waits", join(row(0, streamBytes), wait), false, 2},
		{"and then scattered", join(row(0, streamBytes), scattered), true, 1},
		{"and once more", join(row(0, streamBytes), wait, wait, row(n, streamBytes+2*n)), true, 3},
	} {
		t.Run(c.name, func(t *testing.T) {
			var s stream
			changes := 0
			for _, r := range c.reads {
				if s.read(r.off, n, r.waited) {
					changes++
				}
			}
			if s.seen.Load() != c.seen || changes != c.changes {
				t.Errorf("seen %t after %d changes, want %t after %d", s.seen.Load(), changes, c.seen, c.changes)
			}
		})
	}
}

// TestStreamReadAhead: a mount reads further ahead once somebody has read a lot of what is there, as far as was asked for, and no longer once
// somebody has to wait. One that takes its place does so as well.
func TestStreamReadAhead(t *testing.T) {
	const present, missing = streamBytes + 1<<20, 32 << 20
	for _, kib := range []int{200, 2048} {
		t.Run(strconv.Itoa(kib), func(t *testing.T) {
			l := buildBlob(t, []file{regular("present", noise(1, present)), regular("missing", noise(2, missing))})
			n := newNode(t, Options{Mode: Loop, ReadAheadKiB: kib, NoNative: true})
			path := n.mountLayer(t, newRegistry(t, l).source(l))
			read := func(path, name string, off, end int64) {
				t.Helper()
				f, err := os.Open(filepath.Join(path, name))
				if err != nil {
					t.Fatal(err)
				}
				defer f.Close()
				if _, err := io.Copy(io.Discard, io.NewSectionReader(f, off, end-off)); err != nil {
					t.Fatal(err)
				}
			}
			// The mount's readahead is that of the loop device below it, which can be looked at as a disk is.
			becomes := func(path string, want int) {
				t.Helper()
				for deadline := time.Now().Add(10 * time.Second); diskReadAhead(path) != want; time.Sleep(time.Millisecond) {
					if time.Now().After(deadline) {
						t.Fatalf("readahead is %d KiB, want %d", diskReadAhead(path), want)
					}
				}
			}
			read(path, "present", 0, present)
			dropCaches(t)
			becomes(path, lazyReadAheadKiB)
			read(path, "present", 0, present)
			becomes(path, kib)
			if err := unix.Unmount(path, 0); err != nil {
				t.Fatal(err)
			}
			path = n.path(t, l, "next")
			becomes(path, kib)
			read(path, "missing", missing-1, missing) // the layer has read ahead of the other end
			becomes(path, lazyReadAheadKiB)
		})
	}
}

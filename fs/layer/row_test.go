package layer

import (
	"slices"
	"testing"

	"github.com/sluice-snapshotter/sluice/cache"
)

// TestRow: what somebody has read from front to back, in the kernel's order or nearly so, is told but for the last block.
func TestRow(t *testing.T) {
	const n, block = 128 << 10, cache.DropBlock
	reads := func(from, to, n int64) (rs []Extent) {
		for off := from; off < to; off += n {
			rs = append(rs, Extent{off, n})
		}
		return rs
	}
	swap := func(rs []Extent) []Extent {
		for i := 0; i+1 < len(rs); i += 2 {
			rs[i], rs[i+1] = rs[i+1], rs[i]
		}
		return rs
	}
	var scattered []Extent
	for i := range int64(1000) {
		scattered = append(scattered, Extent{i * 7919 % 1000 << 20, n})
	}
	backwards := reads(0, 16*block, n)
	slices.Reverse(backwards)
	for _, c := range []struct {
		name   string
		reads  []Extent
		behind []int64 // blocks
	}{
		{"from the beginning", reads(0, 4*block, n), []int64{0, 1, 2}},
		{"from the middle", reads(3<<30, 3<<30+4*block, n), []int64{1536, 1537, 1538}},
		{"from within a block", reads(3<<30-n, 3<<30+4*block, n), []int64{1536, 1537, 1538}},
		{"two under way", swap(reads(0, 4*block, n)), []int64{0, 1, 2}},
		{"two large ones under way", swap(reads(0, 4*block, 1<<20)), []int64{0, 1, 2}},
		{"small ones", reads(0, 4*block, 4096), []int64{0, 1, 2}},
		{"not to the end of a block", reads(0, 4*block-n, n), []int64{0, 1}},
		{"with a gap", slices.Concat(reads(0, block+n, n), reads(4*block, 5*block, n)), nil},
		{"scattered", scattered, nil},
		{"backwards", backwards, nil},
		{"the same", slices.Repeat([]Extent{{0, n}}, 1000), nil},
		{"and once more", slices.Concat(reads(0, 4*block, n), reads(0, 4*block, n)), []int64{0, 1, 2, 0, 1, 2}},
	} {
		t.Run(c.name, func(t *testing.T) {
			var r row
			var blocks []int64
			for _, e := range c.reads {
				behind := r.read(e.Off, e.Size)
				if behind.Off%block != 0 || behind.Size%block != 0 {
					t.Errorf("tells of %d+%d", behind.Off, behind.Size)
				}
				for off := behind.Off; off < behind.Off+behind.Size; off += block {
					blocks = append(blocks, off/block)
				}
			}
			if !slices.Equal(blocks, c.behind) {
				t.Errorf("tells of blocks %v, want %v", blocks, c.behind)
			}
		})
	}
}

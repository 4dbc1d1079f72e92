package layer

import (
	"testing"

	"github.com/sluice-snapshotter/sluice/cache"
)

// members are the chunks of the layer by the stream that holds them.
func members(l *cache.Layer) map[int64][]int {
	streams := make(map[int64][]int)
	for i := range l.NumChunks() {
		offset := l.Chunk(i).BlobOffset
		streams[offset] = append(streams[offset], i)
	}
	return streams
}

// TestChunksInOneMember: a gzip member with several chunks is fetched and decoded once, and gives all of them, whichever of them was read.
func TestChunksInOneMember(t *testing.T) {
	f := formats["estargz, several chunks in a member"]()
	tested := 0
	for offset, chunks := range members(open(t, f, nil).Store()) {
		if len(chunks) < 2 {
			continue
		}
		tested++
		for _, read := range []int{chunks[0], chunks[len(chunks)/2], chunks[len(chunks)-1]} {
			ranges := make(chan Range, 100)
			h := open(t, f, func(o *Options) { o.Observer.Fetched = func(r Range) { ranges <- r } })
			c := h.Store().Chunk(read)
			h.mustCheck(c.DataOffset, int(c.Size))
			r := <-ranges
			seen := h.blob.seen()
			if len(seen) != 1 || seen[0].off != offset || r.Blob != seen[0].size {
				t.Fatalf("chunk %d of %v at %d: requests %v, %d bytes came", read, chunks, offset, seen, r.Blob)
			}
			for _, i := range chunks {
				if i <= read && !h.Store().Has(i) {
					t.Errorf("chunk %d was decoded on the way to %d, and is not in the store", i, read)
				}
			}
			h.close()
		}
		if tested == 3 {
			break
		}
	}
	if tested == 0 {
		t.Fatal("no member has several chunks")
	}
}

// TestFillOfSharedMembers: a whole layer of such members comes byte by byte once.
func TestFillOfSharedMembers(t *testing.T) {
	for name, f := range formats {
		t.Run(name, func(t *testing.T) {
			ranges := make(chan Range, 1000)
			h := open(t, f(), func(o *Options) { o.Observer.Fetched = func(r Range) { ranges <- r } })
			if err := h.Fill(t.Context()); err != nil {
				t.Fatal(err)
			}
			count := h.Store().NumChunks()
			h.close()
			close(ranges)
			came, stored := int64(0), 0
			for r := range ranges {
				came += r.Blob
				stored += r.Chunks
			}
			asked := int64(0)
			for _, q := range h.blob.seen() {
				asked += q.size
			}
			if stored != count || came != asked || asked > int64(len(h.fix.blob)) {
				t.Errorf("%d bytes came of %d asked for, of a blob of %d; %d chunks stored", came, asked, len(h.fix.blob), stored)
			}
		})
	}
}

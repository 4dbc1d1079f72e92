package toc

import "github.com/containerd/stargz-snapshotter/estargz"

// collector keeps the entries of a TOC, for who wants to look at them one by one.
type collector struct {
	entries []*estargz.TOCEntry
	slab    []estargz.TOCEntry // of which the next entries are made: the garbage collector likes few large objects
}

const slabSize = 512 // entries

func (c *collector) take(e *estargz.TOCEntry) error {
	if len(c.slab) == 0 {
		c.slab = make([]estargz.TOCEntry, slabSize)
	}
	kept := &c.slab[0]
	c.slab = c.slab[1:]
	*kept = *e
	c.share(kept)
	c.entries = append(c.entries, kept)
	return nil
}

// share gives strings that many entries have, or one has twice, one place in memory: a quarter of a TOC's.
func (c *collector) share(e *estargz.TOCEntry) {
	for _, t := range [...]string{"reg", "chunk", "dir", "symlink", "hardlink"} {
		if e.Type == t {
			e.Type = t
		}
	}
	if e.Digest == e.ChunkDigest {
		e.Digest = e.ChunkDigest
	}
	if n := len(c.entries); n > 0 && c.entries[n-1].ModTime3339 == e.ModTime3339 {
		e.ModTime3339 = c.entries[n-1].ModTime3339
	}
}

package fs

import (
	"bytes"
	"context"
	"path"
	"slices"
	"strings"
	"sync"
	"sync/atomic"

	"github.com/opencontainers/go-digest"

	"github.com/sluice-snapshotter/sluice/fs/layer"
	"github.com/sluice-snapshotter/sluice/fs/linker"
)

// A program that starts has its libraries opened one after the other, and the beginning and the end of each read before the next is opened:
// with the 130 libraries of PyTorch, 250 round trips. What will be opened is written in the libraries, so they are fetched, all that one
// needs at a time, as soon as somebody has begun to read the first.

const (
	// beginning is the most bytes of a first read by the kernel or a dynamic linker, which want headers only: the kernel rounds them up to
	// four pages. Who copies files asks for more.
	beginning = 16 << 10

	maxPrograms  = 8    // that are seen to at a time, of a node; others are read as they are
	maxObjects   = 1024 // of one program
	maxReading   = 16   // of them at a time
	maxCacheFile = 8 << 20

	// For one program so many bytes of the address space are fetched as if somebody waited for them, and so many at all. PyTorch's objects
	// have 42 MB of beginnings and ends, and as much of tables.
	maxUrgent   = 48 << 20
	maxExpected = 192 << 20
)

// begins is told that somebody has read p at off of the address space.
func (f *FS) begins(l *shown, off int64, p []byte) {
	if len(p) > beginning || !bytes.HasPrefix(p, []byte(linker.Magic)) || !l.begun.add(off) {
		return
	}
	if f.programs.Add(1) > maxPrograms {
		f.programs.Add(-1)
		return
	}
	_, ok := f.tasks.start(context.Background(), func(ctx context.Context) {
		defer f.programs.Add(-1)
		k := &linking{fs: f, chain: []digest.Digest{l.layer.Store().Digest()}, looks: newLooks(), reading: make(chan struct{}, maxReading)}
		if c := l.chain.Load(); c != nil {
			k.chain = *c
		}
		if f.completed(k.chain) { // the program's own layer may be, and not those of its libraries
			return
		}
		k.link(ctx, extent{shown: l, off: off, size: l.dataSize - off})
	})
	if !ok {
		f.programs.Add(-1)
	}
}

// completed reports whether all of the layers is there.
func (f *FS) completed(ds []digest.Digest) (all bool) {
	f.withChain(ds, func(c chain) {
		all = !slices.ContainsFunc(c, func(l *shown) bool { return !l.layer.Store().Complete() })
	})
	return all
}

// begun are the places in a layer's address space where objects begin that were seen to. The zero value is empty.
type begun struct {
	mu  sync.Mutex
	set map[int64]struct{}
}

// add reports whether off was not there.
func (b *begun) add(off int64) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	if _, ok := b.set[off]; ok {
		return false
	}
	if b.set == nil {
		b.set = make(map[int64]struct{})
	}
	b.set[off] = struct{}{}
	return true
}

// linking is a program, or a library that a program has loaded, with all that it needs.
type linking struct {
	fs    *FS
	chain []digest.Digest
	cache func() linker.Cache // of the image; called by several

	looks   *looks
	reading chan struct{} // places
	wanted  atomic.Int64  // bytes that were expected

	wg     sync.WaitGroup
	mu     sync.Mutex
	found  int     // objects
	tables extents // of all of them
}

// link fetches what a dynamic linker will read for an object.
func (k *linking) link(ctx context.Context, o extent) {
	k.cache = sync.OnceValue(func() linker.Cache { return k.readCache(ctx) })
	k.visit(ctx, o, nil)
	k.wg.Wait()
	if k.wanted.Add(k.tables.size()) <= maxExpected {
		k.tables.expect(layer.Prefetch) // they are read when all objects are open
	}
}

// visit sees to one object and what it needs. rpath are the folders of the RPaths of those that need it.
func (k *linking) visit(ctx context.Context, o extent, rpath []string) {
	k.reading <- struct{}{}
	defer func() { <-k.reading }()
	parsed, err := linker.Parse(contents{ctx, k.expect, o})
	if err != nil {
		o.logger.WithError(err).Debug("what a program needs of an object is not fetched ahead")
		return
	}
	k.mu.Lock()
	for _, t := range parsed.Tables {
		k.tables.add(o, layer.Extent{Off: t.Off, Size: t.Size})
	}
	k.mu.Unlock()
	needed, rpath := k.needs(ctx, parsed, o, rpath)
	for _, next := range needed {
		k.wg.Go(func() { k.visit(ctx, next, rpath) })
	}
}

// needs finds the objects that one needs and that were not seen to, and begins to fetch them. It adds the object's own RPath.
func (k *linking) needs(ctx context.Context, parsed *linker.Object, o extent, inherited []string) (found []extent, rpath []string) {
	var cache linker.Cache
	if len(parsed.Needed) > 0 {
		cache = k.cache()
	}
	var ends extents
	k.fs.withChain(k.chain, func(c chain) {
		if o.dir == "" && strings.Contains(parsed.RPath+parsed.RunPath, "ORIGIN") && slices.Contains(c, o.shown) {
			if p, ok := o.image.PathAt(o.off); ok {
				o.dir = path.Dir(p)
			}
		}
		rpath = slices.Concat(linker.Folders(parsed.RPath, o.dir), inherited)
		for paths := range parsed.Loads(o.dir, rpath, cache) {
			if ctx.Err() != nil {
				return
			}
			if next, ok := c.first(paths, k.looks); ok && k.add(next) {
				found = append(found, next)
				ends.add(next, next.ends()...)
			}
		}
	})
	k.expect(ends)
	return found, rpath
}

// expect begins to fetch what will be read, within what one program may have.
func (k *linking) expect(x extents) {
	switch n := k.wanted.Add(x.size()); {
	case n <= maxUrgent:
		x.expect(layer.Demand)
	case n <= maxExpected:
		x.expect(layer.Prefetch)
	}
}

// add reports whether an object is to be seen to.
func (k *linking) add(o extent) bool {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.found == maxObjects || !o.begun.add(o.off) {
		return false
	}
	k.found++
	return true
}

// readCache reads the image's cache of objects; nil if it has none.
func (k *linking) readCache(ctx context.Context) linker.Cache {
	var at extent
	found := false
	k.fs.withChain(k.chain, func(c chain) { at, found = c.file(linker.CachePath, k.looks) })
	if !found || at.size > maxCacheFile {
		return nil
	}
	p := make([]byte, at.size)
	if _, err := (contents{ctx, k.expect, at}).ReadAt(p, 0); err != nil {
		at.logger.WithError(err).Debug("the cache of the dynamic linker is not used")
		return nil
	}
	return linker.ParseCache(p)
}

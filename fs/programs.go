package fs

import (
	"bytes"
	"context"
	"errors"
	"path"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

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

	// maxCode is how much more may be what is not read until the program runs: all of the program itself, if that is up to maxProgram, and
	// what lies between the ends of objects of up to codeObject, the first ones that are found.
	maxCode    = 24 << 20
	maxProgram = 16 << 20
	codeObject = 4 << 20

	// codeTime is how long the link may take for the code of all objects, large ones too, where the rest of the image is fetched anyway: most of
	// what PyTorch's 279 objects have, 490 MB, is read before it has started, in hundreds of places, one after the other. At 25 MB/s a part of it
	// was no help, and all of it too much (11.9 s instead of 11.3). It is twice what that is worth: the small ranges before show half of the link's rate.
	codeTime = 4 * time.Second
)

// begins is told that somebody has read p at off of the address space.
func (f *FS) begins(l *shown, off int64, p []byte) {
	if len(p) > beginning || !bytes.HasPrefix(p, []byte(linker.Magic)) || !l.begun.add(off) {
		return
	}
	begun := f.lookAhead(&f.programs, maxPrograms, l.chained(), func(ctx context.Context, k *linking) {
		k.begin(ctx, extent{shown: l, off: off, size: l.dataSize - off})
	})
	if !begun {
		l.begun.remove(off)
	}
}

// lookAhead has see fetch what a program needs, of an image with the layers ds, the topmost first, and does not wait for it. If most are taken of
// the places, it does nothing, and reports false.
func (f *FS) lookAhead(taken *atomic.Int32, most int32, ds []digest.Digest, see func(context.Context, *linking)) bool {
	if taken.Add(1) > most {
		taken.Add(-1)
		return false
	}
	_, ok := f.tasks.start(context.Background(), func(ctx context.Context) {
		defer taken.Add(-1)
		if f.completed(ds) { // the program's own layer may be, and not those of its libraries
			return
		}
		k := &linking{fs: f, chain: ds, listed: f.listed(ds), looks: newLooks(), reading: make(chan struct{}, maxReading)}
		k.background = !k.listed && f.streams(ds)
		k.link(ctx, see)
	})
	if !ok {
		taken.Add(-1)
	}
	return ok
}

// completed reports whether all of the layers is there.
func (f *FS) completed(ds []digest.Digest) (all bool) {
	f.withChain(ds, func(c chain) {
		all = !slices.ContainsFunc(c, func(l *shown) bool { return !l.layer.Store().Complete() })
	})
	return all
}

// streams reports whether the rest of the image with the layers ds is fetched in the background, as fast as it comes.
func (f *FS) streams(ds []digest.Digest) bool {
	if len(ds) == 0 || f.opts.Scheduler.BackgroundLimit() > 0 {
		return false
	}
	m, err := f.lookup(ds[0])
	return err == nil && f.opts.BackgroundOf(m.src.Ref)
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

// remove has off be seen to again.
func (b *begun) remove(off int64) {
	b.mu.Lock()
	defer b.mu.Unlock()
	delete(b.set, off)
}

// linking is a program, or a library that a program has loaded, with all that it needs; or the programs of one command.
type linking struct {
	fs         *FS
	chain      []digest.Digest
	listed     bool                // there is a prefetch list, which has what the program itself reads
	background bool                // there is none, and what is fetched in vain would have come later anyway
	runs       atomic.Bool         // a program was found, and not a library only, which may just be looked at
	cache      func() linker.Cache // of the image; called by several

	looks   *looks
	reading chan struct{} // places
	wanted  atomic.Int64  // bytes that were expected

	wg     sync.WaitGroup
	mu     sync.Mutex
	found  int      // objects
	tables extents  // of all of them
	code   int64    // bytes that were expected though they are read later
	rest   []extent // objects whose code is for later
}

// link fetches what a dynamic linker will read for the objects that see visits.
func (k *linking) link(ctx context.Context, see func(context.Context, *linking)) {
	k.cache = sync.OnceValue(func() linker.Cache { return k.readCache(ctx) })
	see(ctx, k)
	k.wg.Wait()
	if k.wanted.Add(k.tables.size()) <= maxExpected {
		k.tables.expect(layer.Prefetch) // they are read when all objects are open
	}
	k.expectRest()
}

// expectRest begins to fetch what is left of all objects, if that comes soon.
func (k *linking) expectRest() {
	if len(k.rest) == 0 {
		return
	}
	most := k.rest[0].layer.Within(codeTime)
	if most == 0 {
		most = maxCode
	}
	var code extents
	for _, o := range k.rest {
		code.add(o, o.code())
	}
	if code.size() <= most {
		code.expect(layer.Prefetch)
	}
}

// begin sees to an object that was not found as what another needs.
func (k *linking) begin(ctx context.Context, o extent) {
	parsed := k.parse(ctx, o)
	if parsed == nil {
		return
	}
	if parsed.Program && !k.listed {
		k.runs.Store(true)
		if parsed.Loaded <= maxProgram && k.takeCode(parsed.Loaded) {
			var code extents
			code.add(o, layer.Extent{Size: parsed.Loaded})
			code.expect(layer.Prefetch)
		}
	}
	k.follow(ctx, parsed, o, nil)
}

// visit sees to an object that another one needs. rpath are the folders of the RPaths of those that need it.
func (k *linking) visit(ctx context.Context, o extent, rpath []string) {
	if parsed := k.parse(ctx, o); parsed != nil {
		k.follow(ctx, parsed, o, rpath)
	}
}

// parse returns nil if that fails.
func (k *linking) parse(ctx context.Context, o extent) *linker.Object {
	k.reading <- struct{}{}
	defer func() { <-k.reading }()
	parsed, err := linker.Parse(contents{ctx, k.expect, o})
	if err != nil {
		if !errors.Is(err, linker.ErrFormat) {
			o.begun.remove(o.off) // the registry may be there when it is read the next time
		}
		o.logger.WithError(err).Debug("what a program needs of an object is not fetched ahead")
		return nil
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	for _, t := range parsed.Tables {
		k.tables.add(o, layer.Extent{Off: t.Off, Size: t.Size})
	}
	return parsed
}

// follow visits what an object needs.
func (k *linking) follow(ctx context.Context, parsed *linker.Object, o extent, rpath []string) {
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
	var ends, code extents
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
				k.addCode(&code, next)
			}
		}
	})
	k.expect(ends)
	code.expect(layer.Prefetch)
	return found, rpath
}

// addCode adds what a linker does not read of an object, or leaves it for later.
func (k *linking) addCode(x *extents, o extent) {
	switch part := o.code(); {
	case part.Size <= 0:
	case k.runs.Load() && o.size <= codeObject && k.takeCode(part.Size):
		x.add(o, part)
	case k.background:
		k.mu.Lock()
		k.rest = append(k.rest, o)
		k.mu.Unlock()
	}
}

// takeCode reports whether n bytes of code more are not too many.
func (k *linking) takeCode(n int64) bool {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.code+n > maxCode {
		return false
	}
	k.code += n
	return true
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

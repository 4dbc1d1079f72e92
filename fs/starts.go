package fs

import (
	"context"

	"github.com/opencontainers/go-digest"

	"github.com/sluice-snapshotter/sluice/fs/layer"
	"github.com/sluice-snapshotter/sluice/fs/linker"
)

// startFiles are what most programs, or containerd for them, read when they start. What an image does not have is passed over.
var startFiles = []string{
	"/etc/passwd", "/etc/group", linker.CachePath, "/etc/localtime", "/usr/lib/locale/C.utf8/LC_CTYPE",
	"/usr/lib/x86_64-linux-gnu/gconv/gconv-modules.cache", "/usr/lib/aarch64-linux-gnu/gconv/gconv-modules.cache",
}

// startObjects are the usual dynamic linkers, and what they load for nearly everybody.
var startObjects = []string{
	"/lib64/ld-linux-x86-64.so.2", "/lib/ld-linux-aarch64.so.1", "/lib/ld-musl-x86_64.so.1", "/lib/ld-musl-aarch64.so.1",
	"/lib/x86_64-linux-gnu/libc.so.6", "/lib/aarch64-linux-gnu/libc.so.6", "/lib64/libc.so.6",
}

const (
	maxStartFile   = 1 << 20 // bytes of one of startFiles
	maxStartObject = 4 << 20 // bytes of one of startObjects that comes whole
)

// starts is told that a container is prepared. ds are the layers of its image, the topmost first.
func (f *FS) starts(ds []digest.Digest) {
	f.withChain(ds, func(c chain) {
		for _, l := range c {
			l.chain.Store(&ds)
		}
	})
	f.expectContainer(ds)
}

// pulled is told that a layer is mounted for src. With the last one of an image that is being pulled it begins to fetch what a container is likely
// to begin with: between containerd's last Prepare for a pull and the first one for a container there is time for a round trip. Where background is
// off, nothing is fetched before there is a container.
func (f *FS) pulled(src Source, l *shown) {
	m, ok := f.manifests.find(src.Manifest)
	if !ok || len(m.Layers) == 0 || m.Layers[len(m.Layers)-1].Digest != src.Digest {
		return
	}
	l.topOf.Store(&src.Manifest)
	ds := topmostFirst(m.Layers)
	if !f.opts.BackgroundOf(src.Ref) || f.listed(ds) {
		return
	}
	f.expectContainer(ds)
}

// expectContainer begins to fetch what a container with the layers ds is likely to begin with.
func (f *FS) expectContainer(ds []digest.Digest) {
	f.tasks.start(context.Background(), func(context.Context) { f.withChain(ds, expectStart) })
	f.expectCommand(ds)
}

func expectStart(c chain) {
	var wanted extents
	l, listed := newLooks(), c.listed() // then what is used of libraries is on the list
	for _, name := range startFiles {
		if found, ok := c.file(name, l); ok {
			wanted.add(found, layer.Extent{Size: min(found.size, maxStartFile)})
		}
	}
	for _, name := range startObjects {
		if found, ok := c.file(name, l); ok {
			if !listed && found.size <= maxStartObject {
				wanted.add(found, layer.Extent{Size: found.size})
			} else {
				wanted.add(found, found.ends()...)
			}
		}
	}
	wanted.expect(layer.Demand)
}

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

// maxStartFile is bytes of one of startFiles.
const maxStartFile = 1 << 20

// starts begins to fetch what most containers of an image begin with. ds are its layers, the topmost first.
func (f *FS) starts(ds []digest.Digest) {
	f.withChain(ds, func(c chain) {
		for _, l := range c {
			l.chain.Store(&ds)
		}
	})
	f.tasks.start(context.Background(), func(context.Context) { f.withChain(ds, expectStart) })
}

func expectStart(c chain) {
	var wanted extents
	l := newLooks()
	for _, name := range startFiles {
		if found, ok := c.file(name, l); ok {
			wanted.add(found, layer.Extent{Size: min(found.size, maxStartFile)})
		}
	}
	for _, name := range startObjects {
		if found, ok := c.file(name, l); ok {
			wanted.add(found, found.ends()...)
		}
	}
	wanted.expect(layer.Demand)
}

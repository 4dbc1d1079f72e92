package fs

import (
	"context"
	"io"

	"github.com/sluice-snapshotter/sluice/fs/layer"
	"github.com/sluice-snapshotter/sluice/fs/linker"
)

const (
	// Of an object so many bytes of the beginning and the end are fetched at once: they have its headers and its dynamic section. One that is
	// hardly larger comes whole.
	headSize    = 64 << 10
	tailSize    = 128 << 10
	smallObject = 512 << 10
)

// extent is where a regular file lies.
type extent struct {
	*shown
	off, size int64  // in the address space
	dir, name string // the file's in the image, without symlinks; "" if that is not known
}

// ends are the parts of an object that are read first.
func (e extent) ends() []layer.Extent {
	if e.size <= smallObject {
		return []layer.Extent{{Size: e.size}}
	}
	return []layer.Extent{{Size: headSize}, {Off: e.size - tailSize, Size: tailSize}}
}

// code is what lies between the ends of an object that is not small: a linker reads little of it, and the program that it is for more.
func (e extent) code() layer.Extent {
	if e.size <= smallObject {
		return layer.Extent{}
	}
	return layer.Extent{Off: headSize, Size: e.size - headSize - tailSize}
}

// extents are parts of files, by layer. The zero value has none.
type extents struct{ of map[*shown][]layer.Extent }

// add adds parts of a file. What is beyond its end is left out.
func (x *extents) add(e extent, parts ...layer.Extent) {
	if x.of == nil {
		x.of = make(map[*shown][]layer.Extent)
	}
	for _, p := range parts {
		if p.Off >= 0 && p.Off < e.size {
			x.of[e.shown] = append(x.of[e.shown], layer.Extent{Off: e.off + p.Off, Size: min(p.Size, e.size-p.Off)})
		}
	}
}

// size is how many bytes they have.
func (x *extents) size() (n int64) {
	for _, parts := range x.of {
		for _, p := range parts {
			n += p.Size
		}
	}
	return n
}

// expect begins to fetch them.
func (x *extents) expect(p layer.Priority) {
	for l, parts := range x.of {
		l.layer.Expect(parts, p)
	}
}

// contents are those of a file, read by one for whom nobody waits: as linker.Source has it.
type contents struct {
	ctx    context.Context
	expect func(extents)
	extent
}

func (c contents) Expect(ranges []linker.Range) {
	var wanted extents
	for _, r := range ranges {
		wanted.add(c.extent, layer.Extent(r))
	}
	c.expect(wanted)
}

func (c contents) ReadAt(p []byte, off int64) (int, error) {
	if off >= c.size {
		return 0, io.EOF
	}
	n, err := c.layer.ReadExpected(c.ctx, p[:min(int64(len(p)), c.size-off)], c.off+off)
	if err == nil && n < len(p) {
		err = io.EOF
	}
	return n, err
}

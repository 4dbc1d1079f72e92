// Package linker reads ELF objects as a dynamic linker does, to tell what one will read next.
//
// What it reads is not to be trusted. Whatever there is in an object, Parse reads 300 KiB of it at most and ends; of real ones some KiB.
package linker

import (
	"bytes"
	"debug/elf"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
)

// Magic is what ELF objects begin with.
const Magic = elf.ELFMAG

const (
	maxSegments = 256
	maxDynamic  = 4096 // entries
	maxNeeded   = 512
	maxExpected = 64   // of the needed are read ahead
	maxName     = 256  // bytes of the name of one, as NAME_MAX, and its end
	maxPath     = 4096 // bytes of others, as PATH_MAX
)

// ErrFormat is in the errors of Parse that are not those of its reader.
var ErrFormat = errors.New("no ELF object that a dynamic linker would take")

// Range is some bytes of a file.
type Range struct{ Off, Size int64 }

// Object is what an object says to a dynamic linker.
type Object struct {
	Machine     elf.Machine
	Interpreter string   // path of the dynamic linker; "" but in programs
	Needed      []string // names of other objects, in the order in which they are loaded
	RPath       string   // as DT_RPATH, which is also that of what the object needs; "" if there is a RunPath
	RunPath     string   // as DT_RUNPATH
	Program     bool     // it has an interpreter, nothing to link, or says that it is one
	Loaded      int64    // bytes from its beginning to the end of what is mapped of it
	// Tables are what a dynamic linker reads of every object besides its header: the tables of symbols and relocations, and the segments
	// that it relocates.
	Tables []Range

	r        Source
	order    binary.ByteOrder
	wide     bool // ELFCLASS64
	segments []elf.Prog64
	dynamic  map[elf.DynTag]uint64 // but DT_NEEDED
	needed   []uint64
}

// Source is an object to be read. Expect is told what will be read of it next: where reading takes a round trip, it is one for all.
type Source interface {
	io.ReaderAt
	Expect([]Range)
}

// Parse reads the headers and the dynamic section of r, which the object keeps. It does not need section headers. The error is ErrFormat
// for what is no object, or a broken one.
func Parse(r Source) (*Object, error) {
	o := &Object{r: r}
	for _, step := range []func() error{o.header, o.interpreter, o.dynamicSection, o.names, o.tables, o.loaded} {
		if err := step(); err != nil {
			return nil, err
		}
	}
	return o, nil
}

func (o *Object) read(off, size uint64) ([]byte, error) {
	if int64(off) < 0 {
		return nil, broken("offset %d", off)
	}
	p := make([]byte, size)
	if n, err := o.r.ReadAt(p, int64(off)); n < len(p) {
		if errors.Is(err, io.EOF) {
			return nil, broken("%d bytes at %d are beyond its end", size, off)
		}
		return nil, err
	}
	return p, nil
}

func broken(format string, args ...any) error {
	return fmt.Errorf("%w: "+format, append([]any{ErrFormat}, args...)...)
}

// interpreter reads PT_INTERP.
func (o *Object) interpreter() error {
	for _, s := range o.segments {
		if elf.ProgType(s.Type) != elf.PT_INTERP {
			continue
		}
		if s.Filesz > maxPath {
			return broken("the name of its interpreter has %d bytes", s.Filesz)
		}
		p, err := o.read(s.Off, s.Filesz)
		if err != nil {
			return err
		}
		o.Interpreter = text(p)
		return nil
	}
	return nil
}

// dynamicSection reads PT_DYNAMIC. Without one there is nothing to link.
func (o *Object) dynamicSection() error {
	entry := uint64(8)
	if o.wide {
		entry = 16
	}
	o.dynamic = make(map[elf.DynTag]uint64)
	for _, s := range o.segments {
		if elf.ProgType(s.Type) != elf.PT_DYNAMIC {
			continue
		}
		p, err := o.read(s.Off, min(s.Filesz, maxDynamic*entry))
		if err != nil {
			return err
		}
		for ; uint64(len(p)) >= entry; p = p[entry:] {
			tag, value := uint64(o.order.Uint32(p)), uint64(o.order.Uint32(p[4:]))
			if o.wide {
				tag, value = o.order.Uint64(p), o.order.Uint64(p[8:])
			}
			switch t := elf.DynTag(tag); {
			case t == elf.DT_NULL:
				return nil
			case t == elf.DT_NEEDED && len(o.needed) < maxNeeded:
				o.needed = append(o.needed, value)
			default:
				o.dynamic[t] = value
			}
		}
		return nil // there is one
	}
	return nil
}

// names reads the names that the dynamic section has by their places in the table of strings.
func (o *Object) names() (err error) {
	if table, ok := o.offset(o.dynamic[elf.DT_STRTAB]); ok {
		var expected []Range
		for _, n := range o.needed[:min(len(o.needed), maxExpected)] {
			if n < o.dynamic[elf.DT_STRSZ] {
				expected = append(expected, Range{int64(table + n), maxName})
			}
		}
		o.r.Expect(expected)
	}
	for _, n := range o.needed {
		name, err := o.name(n, maxName)
		if err != nil {
			return err
		}
		o.Needed = append(o.Needed, name)
	}
	if n, ok := o.dynamic[elf.DT_RUNPATH]; ok {
		o.RunPath, err = o.name(n, maxPath)
	} else if n, ok := o.dynamic[elf.DT_RPATH]; ok {
		o.RPath, err = o.name(n, maxPath)
	}
	return err
}

// name reads what is at a place of the table of strings, with its end not longer than limit.
func (o *Object) name(at, limit uint64) (string, error) {
	size := o.dynamic[elf.DT_STRSZ]
	if at >= size {
		return "", broken("name at %d of a table of %d bytes", at, size)
	}
	table, ok := o.offset(o.dynamic[elf.DT_STRTAB])
	if !ok {
		return "", broken("its table of strings lies in no segment")
	}
	p, err := o.read(table+at, min(size-at, limit))
	if err == nil && bytes.IndexByte(p, 0) < 0 {
		err = broken("the name at %d has no end", at)
	}
	return text(p), err
}

// text is p up to its first zero.
func text(p []byte) string {
	before, _, _ := bytes.Cut(p, []byte{0})
	return string(before)
}

// loaded looks at what of the object comes into memory.
func (o *Object) loaded() error {
	o.Program = o.Interpreter != "" || len(o.dynamic) == 0 || elf.DynFlag1(o.dynamic[elf.DT_FLAGS_1])&elf.DF_1_PIE != 0
	for _, s := range o.segments {
		if end := s.Off + s.Filesz; elf.ProgType(s.Type) == elf.PT_LOAD && end >= s.Off && end < 1<<62 {
			o.Loaded = max(o.Loaded, int64(end))
		}
	}
	return nil
}

// offset is where an address is in the file.
func (o *Object) offset(addr uint64) (off uint64, ok bool) {
	for _, s := range o.segments {
		if elf.ProgType(s.Type) == elf.PT_LOAD && addr >= s.Vaddr && addr-s.Vaddr < s.Filesz {
			return s.Off + addr - s.Vaddr, true
		}
	}
	return 0, false
}

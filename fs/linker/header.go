package linker

import (
	"bytes"
	"debug/elf"
	"encoding/binary"
)

// header reads the file header and the program headers, as debug/elf describes them; those of 32 bits are widened.
func (o *Object) header() error {
	p, err := o.read(0, 64) // a file header of 64 bits; no object is smaller
	if err != nil {
		return err
	}
	if !bytes.HasPrefix(p, []byte(Magic)) {
		return broken("it does not begin as one")
	}
	o.wide = elf.Class(p[elf.EI_CLASS]) == elf.ELFCLASS64
	o.order = binary.LittleEndian
	if elf.Data(p[elf.EI_DATA]) == elf.ELFDATA2MSB {
		o.order = binary.BigEndian
	}
	var off uint64
	var size, n uint16
	if o.wide {
		var h elf.Header64
		_, err = binary.Decode(p, o.order, &h)
		o.Machine, off, size, n = elf.Machine(h.Machine), h.Phoff, h.Phentsize, h.Phnum
	} else {
		var h elf.Header32
		_, err = binary.Decode(p, o.order, &h)
		o.Machine, off, size, n = elf.Machine(h.Machine), uint64(h.Phoff), h.Phentsize, h.Phnum
	}
	if err != nil {
		return err // never: p is long enough
	}
	return o.programHeaders(off, size, n)
}

func (o *Object) programHeaders(off uint64, size, n uint16) error {
	want := binary.Size(elf.Prog32{})
	if o.wide {
		want = binary.Size(elf.Prog64{})
	}
	if int(size) != want || n > maxSegments {
		return broken("%d program headers of %d bytes", n, size)
	}
	p, err := o.read(off, uint64(size)*uint64(n))
	if err != nil {
		return err
	}
	o.segments = make([]elf.Prog64, n)
	for i := range o.segments {
		at := p[i*want:]
		if o.wide {
			_, err = binary.Decode(at, o.order, &o.segments[i])
		} else {
			var s elf.Prog32
			_, err = binary.Decode(at, o.order, &s)
			o.segments[i] = elf.Prog64{
				Type: s.Type, Flags: s.Flags, Off: uint64(s.Off), Vaddr: uint64(s.Vaddr), Filesz: uint64(s.Filesz),
			}
		}
		if err != nil {
			return err // never, as above
		}
	}
	return nil
}

package linker

import (
	"bytes"
	"debug/elf"
	"encoding/binary"
	"errors"
	"slices"
	"testing"
)

// source is an object in memory. It counts what is read of it.
type source struct {
	*bytes.Reader
	read, largest int64
	expected      []Range
}

func newSource(p []byte) *source { return &source{Reader: bytes.NewReader(p)} }

func (s *source) ReadAt(p []byte, off int64) (int, error) {
	s.read += int64(len(p))
	s.largest = max(s.largest, int64(len(p)))
	return s.Reader.ReadAt(p, off)
}

func (s *source) Expect(ranges []Range) { s.expected = append(s.expected, ranges...) }

// anyOrder is a byte order that can be read and written in.
type anyOrder interface {
	binary.ByteOrder
	binary.AppendByteOrder
}

// synthetic is an object that no compiler on this machine makes.
type synthetic struct {
	narrow         bool     // of 32 bits
	order          anyOrder // nil means little endian
	interpreter    string
	needed         []string
	rpath, runpath string
	// change changes what was made, if it is not nil. segments are the program headers, widened, dynamic the dynamic section.
	change func(h *elf.Header64, segments *[]elf.Prog64, dynamic *[]elf.Dyn64)
}

const (
	readBase  = 0x10000 // where the first segment is in memory
	writeBase = 0x30000 // and the second one

	hashSize, symbolsSize, relocationsSize, dataSize = 32, 48, 72, 40
)

// made is a synthetic object, and where it has what.
type made struct {
	bytes                []byte
	tables, dynamic, end uint64 // from the first table on, from the dynamic section on, behind the data
}

func (s synthetic) make(t testing.TB) made {
	t.Helper()
	var o made
	header, prog := uint64(52), uint64(32)
	if !s.narrow {
		header, prog = 64, 56
	}
	interp := append([]byte(s.interpreter), 0)
	at := header + 4*prog
	o.tables = at + uint64(len(interp))
	names := o.tables + hashSize + symbolsSize
	stringTable := []byte{0}
	name := func(tag elf.DynTag, text string) elf.Dyn64 {
		d := elf.Dyn64{Tag: int64(tag), Val: uint64(len(stringTable))}
		stringTable = append(append(stringTable, text...), 0)
		return d
	}
	var dynamic []elf.Dyn64
	for _, n := range s.needed {
		dynamic = append(dynamic, name(elf.DT_NEEDED, n))
	}
	if s.rpath != "" {
		dynamic = append(dynamic, name(elf.DT_RPATH, s.rpath))
	}
	if s.runpath != "" {
		dynamic = append(dynamic, name(elf.DT_RUNPATH, s.runpath))
	}
	relocations := names + uint64(len(stringTable))
	o.dynamic = relocations + relocationsSize
	for tag, value := range map[elf.DynTag]uint64{
		elf.DT_GNU_HASH: readBase + o.tables, elf.DT_SYMTAB: readBase + o.tables + hashSize,
		elf.DT_STRTAB: readBase + names, elf.DT_STRSZ: uint64(len(stringTable)),
		elf.DT_RELA: readBase + relocations, elf.DT_RELASZ: relocationsSize,
	} {
		dynamic = append(dynamic, elf.Dyn64{Tag: int64(tag), Val: value})
	}
	slices.SortStableFunc(dynamic, func(a, b elf.Dyn64) int { return int(a.Tag - b.Tag) })
	dynamic = append(dynamic, elf.Dyn64{})
	dynamicSize := uint64(len(dynamic)) * 16
	if s.narrow {
		dynamicSize /= 2
	}
	o.end = o.dynamic + dynamicSize + dataSize
	segments := []elf.Prog64{
		{Type: uint32(elf.PT_INTERP), Flags: uint32(elf.PF_R), Off: at, Vaddr: readBase + at, Filesz: uint64(len(interp))},
		{Type: uint32(elf.PT_LOAD), Flags: uint32(elf.PF_R | elf.PF_X), Vaddr: readBase, Filesz: o.dynamic},
		{Type: uint32(elf.PT_LOAD), Flags: uint32(elf.PF_R | elf.PF_W), Off: o.dynamic, Vaddr: writeBase + o.dynamic, Filesz: o.end - o.dynamic},
		{Type: uint32(elf.PT_DYNAMIC), Flags: uint32(elf.PF_R | elf.PF_W), Off: o.dynamic, Vaddr: writeBase + o.dynamic, Filesz: dynamicSize},
	}
	if s.interpreter == "" {
		segments[0].Type = uint32(elf.PT_NOTE)
	}
	h := elf.Header64{
		Type: uint16(elf.ET_DYN), Machine: uint16(elf.EM_X86_64), Version: 1, Phoff: header, Phentsize: uint16(prog), Phnum: uint16(len(segments)),
	}
	if s.change != nil {
		s.change(&h, &segments, &dynamic)
	}
	w := s.writer(t)
	w.header(h)
	for _, p := range segments[:4] {
		w.segment(p)
	}
	w.out = append(w.out, interp...)
	w.out = append(w.out, make([]byte, hashSize+symbolsSize)...)
	w.out = append(w.out, stringTable...)
	w.out = append(w.out, make([]byte, relocationsSize)...)
	for _, d := range dynamic {
		w.entry(d)
	}
	w.out = append(w.out, make([]byte, dataSize)...)
	for _, p := range segments[4:] { // more of them than there is room for, where a change has put them
		w.segment(p)
	}
	o.bytes = w.out
	return o
}

// writer writes the structures of one class and byte order.
type writer struct {
	t      testing.TB
	narrow bool
	order  anyOrder
	out    []byte
}

func (s synthetic) writer(t testing.TB) *writer {
	if s.order == nil {
		s.order = binary.LittleEndian
	}
	return &writer{t: t, narrow: s.narrow, order: s.order}
}

func (w *writer) add(v any) {
	w.t.Helper()
	var err error
	if w.out, err = binary.Append(w.out, w.order, v); err != nil {
		w.t.Fatal(err)
	}
}

func (w *writer) header(h elf.Header64) {
	class, data := elf.ELFCLASS64, elf.ELFDATA2LSB
	if w.narrow {
		class = elf.ELFCLASS32
	}
	if w.order == binary.BigEndian {
		data = elf.ELFDATA2MSB
	}
	copy(h.Ident[:], elf.ELFMAG)
	h.Ident[elf.EI_CLASS], h.Ident[elf.EI_DATA], h.Ident[elf.EI_VERSION] = byte(class), byte(data), byte(elf.EV_CURRENT)
	if !w.narrow {
		h.Ehsize = 64
		w.add(h)
		return
	}
	w.add(elf.Header32{
		Ident: h.Ident, Type: h.Type, Machine: h.Machine, Version: h.Version, Phoff: uint32(h.Phoff), Ehsize: 52, Phentsize: h.Phentsize, Phnum: h.Phnum,
	})
}

func (w *writer) segment(p elf.Prog64) {
	if !w.narrow {
		w.add(p)
		return
	}
	w.add(elf.Prog32{Type: p.Type, Off: uint32(p.Off), Vaddr: uint32(p.Vaddr), Filesz: uint32(p.Filesz), Flags: p.Flags})
}

func (w *writer) entry(d elf.Dyn64) {
	if !w.narrow {
		w.add(d)
		return
	}
	w.add(elf.Dyn32{Tag: int32(d.Tag), Val: uint32(d.Val)})
}

// inClasses runs a test with objects of each class and byte order.
func inClasses(t *testing.T, test func(t *testing.T, s synthetic)) {
	for name, s := range map[string]synthetic{
		"64 bits, little endian": {order: binary.LittleEndian}, "64 bits, big endian": {order: binary.BigEndian},
		"32 bits, little endian": {narrow: true, order: binary.LittleEndian}, "32 bits, big endian": {narrow: true, order: binary.BigEndian},
	} {
		t.Run(name, func(t *testing.T) { test(t, s) })
	}
}

// sound fails the test unless what Parse has made of any bytes is an object within bounds, or ErrFormat, and little was read for it.
func sound(t *testing.T, s *source, o *Object, err error) {
	t.Helper()
	if s.read > maxRead || s.largest > maxDynamic*16 {
		t.Errorf("%d bytes were read, %d at once", s.read, s.largest)
	}
	if err != nil {
		if o != nil || !errors.Is(err, ErrFormat) {
			t.Errorf("object %v, error %v", o, err)
		}
		return
	}
	if len(o.Needed) > maxNeeded || len(o.segments) > maxSegments || len(o.Tables) > 2*maxSegments {
		t.Errorf("%d needed, %d segments, %d tables", len(o.Needed), len(o.segments), len(o.Tables))
	}
	for _, name := range append([]string{o.Interpreter, o.RPath, o.RunPath}, o.Needed...) {
		if len(name) > maxName || bytes.ContainsRune([]byte(name), 0) {
			t.Errorf("name of %d bytes: %q", len(name), name)
		}
	}
	for _, r := range o.Tables {
		if r.Off < 0 || r.Size <= 0 || r.Size > maxTable || r.Off+r.Size < 0 {
			t.Errorf("table %+v", r)
		}
	}
}

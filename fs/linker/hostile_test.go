package linker

import (
	"bytes"
	"debug/elf"
	"encoding/binary"
	"errors"
	"math"
	"testing"
)

// TestParseTruncated: of an object that was cut short, as much as is there is read, and no more.
func TestParseTruncated(t *testing.T) {
	inClasses(t, func(t *testing.T, s synthetic) {
		s.interpreter, s.needed, s.runpath = "/lib/ld.so.1", []string{"libb.so", "liba.so.1"}, "/lib"
		m := s.make(t)
		for n := range m.bytes {
			src := newSource(m.bytes[:n])
			o, err := Parse(src)
			sound(t, src, o, err)
			if whole := uint64(n) >= m.end-dataSize; (err == nil) != whole {
				t.Errorf("of %d bytes %d: %v", len(m.bytes), n, err)
			}
		}
	})
}

// TestParseBroken: each is refused, unless it is harmless.
func TestParseBroken(t *testing.T) {
	type (
		header   = *elf.Header64
		segments = *[]elf.Prog64
		dynamic  = *[]elf.Dyn64
	)
	set := func(tag elf.DynTag, value uint64) func(header, segments, dynamic) {
		return func(_ header, _ segments, d dynamic) {
			for i := range *d {
				if (*d)[i].Tag == int64(tag) {
					(*d)[i].Val = value
				}
			}
		}
	}
	for name, tt := range map[string]struct {
		change func(header, segments, dynamic)
		ok     bool
	}{
		"no program headers":          {func(h header, _ segments, _ dynamic) { h.Phnum = 0 }, true},
		"too many program headers":    {func(h header, _ segments, _ dynamic) { h.Phnum = maxSegments + 1 }, false},
		"program headers of no size":  {func(h header, _ segments, _ dynamic) { h.Phentsize = 0 }, false},
		"program headers of any size": {func(h header, _ segments, _ dynamic) { h.Phentsize = math.MaxUint16 }, false},
		"program headers far away":    {func(h header, _ segments, _ dynamic) { h.Phoff = 1 << 40 }, false},
		"program headers below zero":  {func(h header, _ segments, _ dynamic) { h.Phoff = math.MaxUint64 - 10 }, false},
		"interpreter far away":        {func(_ header, s segments, _ dynamic) { (*s)[0].Off = math.MaxInt64 }, false},
		"interpreter of any size":     {func(_ header, s segments, _ dynamic) { (*s)[0].Filesz = math.MaxUint64 }, false},
		"overlapping segments":        {func(_ header, s segments, _ dynamic) { (*s)[2] = (*s)[1] }, true},
		"segments of any size":        {func(_ header, s segments, _ dynamic) { (*s)[1].Filesz, (*s)[2].Filesz = math.MaxUint64, math.MaxUint64 }, true},
		"segments of half of any size": {func(_ header, s segments, _ dynamic) {
			(*s)[1].Filesz, (*s)[2].Filesz = math.MaxInt64, math.MaxInt64
		}, true},
		"segment that wraps around":     {func(_ header, s segments, _ dynamic) { (*s)[1].Off = math.MaxUint64 - 100 }, false},
		"segments not in memory":        {func(_ header, s segments, _ dynamic) { (*s)[1].Vaddr = 1 << 40 }, false},
		"dynamic section far away":      {func(_ header, s segments, _ dynamic) { (*s)[3].Off = 1 << 50 }, false},
		"dynamic section of any size":   {func(_ header, s segments, _ dynamic) { (*s)[3].Filesz = math.MaxUint64 }, false},
		"dynamic section without end":   {func(_ header, s segments, d dynamic) { (*d)[len(*d)-1].Tag = 77 }, true},
		"no string table":               {set(elf.DT_STRTAB, 0), false},
		"string table nowhere":          {set(elf.DT_STRTAB, math.MaxUint64), false},
		"string table of any size":      {set(elf.DT_STRSZ, math.MaxUint64), false},
		"string table of no size":       {set(elf.DT_STRSZ, 0), false},
		"name outside the string table": {set(elf.DT_NEEDED, 1<<30), false},
		"name at the end of everything": {set(elf.DT_RUNPATH, math.MaxUint64), false},
		"relocations of any size":       {set(elf.DT_RELASZ, math.MaxUint64), true},
		"relocations nowhere":           {set(elf.DT_RELA, math.MaxUint64-8), true},
		"symbols at the end of memory":  {set(elf.DT_SYMTAB, math.MaxUint64), true},
	} {
		t.Run(name, func(t *testing.T) {
			s := synthetic{interpreter: "/lib/ld.so.1", needed: []string{"liba.so"}, runpath: "/lib", change: tt.change}
			src := newSource(s.make(t).bytes)
			o, err := Parse(src)
			sound(t, src, o, err)
			if (err == nil) != tt.ok {
				t.Errorf("it is %+v, %v", o, err)
			}
		})
	}
}

// TestParseNoObject: what is none is said to be none.
func TestParseNoObject(t *testing.T) {
	for name, p := range map[string][]byte{
		"empty": nil, "short": []byte(Magic), "script": append([]byte("#!/bin/sh\n"), make([]byte, 100)...), "zeros": make([]byte, 100),
		"of no class": append([]byte(Magic), make([]byte, 100)...),
	} {
		t.Run(name, func(t *testing.T) {
			if o, err := Parse(newSource(p)); !errors.Is(err, ErrFormat) {
				t.Errorf("it is %+v, %v", o, err)
			}
		})
	}
}

// TestParseReadsLittle: an object with as much as there may be of everything does not keep anybody long.
func TestParseReadsLittle(t *testing.T) {
	many := func(kind elf.ProgType, size uint64) []byte {
		w := synthetic{}.writer(t)
		w.header(elf.Header64{Phoff: 64, Phentsize: 56, Phnum: maxSegments})
		for range maxSegments {
			w.segment(elf.Prog64{Type: uint32(kind), Off: 64 + maxSegments*56, Filesz: size})
		}
		return append(w.out, bytes.Repeat([]byte{1}, int(size))...)
	}
	names := synthetic{change: func(_ *elf.Header64, s *[]elf.Prog64, d *[]elf.Dyn64) {
		(*s)[1].Vaddr, (*s)[1].Filesz = 0, 1<<20
		*d = []elf.Dyn64{{Tag: int64(elf.DT_STRTAB), Val: 1}, {Tag: int64(elf.DT_STRSZ), Val: 1 << 20}}
		for i := range maxDynamic {
			*d = append(*d, elf.Dyn64{Tag: int64(elf.DT_NEEDED), Val: uint64(i)})
		}
		(*s)[3].Filesz = uint64(len(*d)) * 16
	}}.make(t).bytes
	for name, p := range map[string][]byte{
		"interpreters":     many(elf.PT_INTERP, maxName),
		"dynamic sections": many(elf.PT_DYNAMIC, 1<<20),
		"names":            append(names, make([]byte, 1<<20)...),
	} {
		t.Run(name, func(t *testing.T) {
			src := newSource(p)
			o, err := Parse(src)
			sound(t, src, o, err)
			if err != nil {
				t.Error(err)
			}
		})
	}
}

// FuzzParse gives Parse any bytes as an object.
func FuzzParse(f *testing.F) {
	for _, s := range []synthetic{
		{interpreter: "/lib/ld.so.1", needed: []string{"liba.so"}, runpath: "$ORIGIN"},
		{order: binary.BigEndian, needed: []string{"a", "b"}, rpath: "/lib"},
		{narrow: true, needed: []string{"libc.so"}},
		{narrow: true, order: binary.BigEndian, interpreter: "/i", rpath: "/r", runpath: "/u"},
	} {
		f.Add(s.make(f).bytes)
	}
	f.Fuzz(func(t *testing.T, p []byte) {
		src := newSource(p)
		o, err := Parse(src)
		sound(t, src, o, err)
		if err == nil {
			for paths := range o.Loads("/o", []string{"/r"}, Cache{"libc.so": "/c"}) {
				for _, p := range paths {
					if p == "" {
						t.Errorf("no path among %q", paths)
					}
				}
			}
		}
	})
}

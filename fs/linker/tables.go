package linker

import "debug/elf"

// maxTable is bytes of a range of Tables: those of the largest libraries there are, of several GiB, are smaller.
const maxTable = 256 << 20

// sized are the tables that a linker reads, and the tags that have their sizes; the others end where one of these begins.
var sized = map[elf.DynTag]elf.DynTag{
	elf.DT_HASH: 0, elf.DT_GNU_HASH: 0, elf.DT_SYMTAB: 0, elf.DT_VERSYM: 0, elf.DT_VERNEED: 0, elf.DT_VERDEF: 0,
	elf.DT_STRTAB: elf.DT_STRSZ,
	elf.DT_RELA:   elf.DT_RELASZ, elf.DT_REL: elf.DT_RELSZ, elf.DT_JMPREL: elf.DT_PLTRELSZ, dtRelr: dtRelrSize,
}

// Not in debug/elf: relative relocations in few bits, of the gABI since 2022.
const (
	dtRelrSize = elf.DynTag(35)
	dtRelr     = elf.DynTag(36)
)

// tables finds what every linker reads. The tables of a segment follow each other, as all that make objects have it.
func (o *Object) tables() error {
	for _, s := range o.segments {
		if elf.ProgType(s.Type) != elf.PT_LOAD {
			continue
		}
		if elf.ProgFlag(s.Flags)&elf.PF_W != 0 {
			o.table(s.Off, s.Off+s.Filesz)
			continue
		}
		from, to := uint64(1<<63), uint64(0)
		for start, size := range sized {
			addr, ok := o.dynamic[start]
			if !ok || addr < s.Vaddr || addr-s.Vaddr >= s.Filesz {
				continue
			}
			at := addr - s.Vaddr
			from, to = min(from, at), max(to, min(s.Filesz, at+min(o.dynamic[size], s.Filesz)))
		}
		if from < to {
			o.table(s.Off+from, s.Off+to)
		}
	}
	return nil
}

// table adds bytes [from, to) of the file.
func (o *Object) table(from, to uint64) {
	if from < to && to < 1<<62 {
		o.Tables = append(o.Tables, Range{int64(from), int64(min(to-from, maxTable))})
	}
}

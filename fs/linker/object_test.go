package linker

import (
	"debug/elf"
	"errors"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// maxRead is what Parse reads at most of anything: 512 names of 4 KiB, and the dynamic section. Of real objects it is much less.
const (
	maxRead     = 3 << 20
	maxReadReal = 512 << 10
)

// some are at most n of files that match, from all over their list.
func some(t *testing.T, pattern string, n int) (out []string) {
	t.Helper()
	all, err := filepath.Glob(pattern)
	if err != nil {
		t.Fatal(err)
	}
	step := max(1, len(all)/n)
	for i := 0; i < len(all); i += step {
		out = append(out, all[i])
	}
	return out
}

// TestParseReal compares with package debug/elf, which goes by section headers.
func TestParseReal(t *testing.T) {
	parsed := 0
	for _, pattern := range []string{"/usr/lib/x86_64-linux-gnu/*.so*", "/usr/bin/*", "/usr/lib/x86_64-linux-gnu/*/*.so", "/sbin/ldconfig"} {
		for _, name := range some(t, pattern, 150) {
			if compareReal(t, name) {
				parsed++
			}
		}
	}
	if parsed < 20 {
		t.Errorf("there are only %d objects on this machine", parsed)
	}
}

// compareReal reports whether a file is an object.
func compareReal(t *testing.T, name string) bool {
	t.Helper()
	f, err := os.Open(name)
	if err != nil {
		return false // a dangling symlink, say
	}
	defer f.Close()
	s := &file{File: f}
	got, err := Parse(s)
	magic := make([]byte, len(Magic))
	if _, readErr := f.ReadAt(magic, 0); readErr != nil || string(magic) != Magic {
		var path *os.PathError
		if !errors.Is(err, ErrFormat) && !errors.As(err, &path) { // the latter is a folder's
			t.Errorf("%s, which is no object: %v", name, err)
		}
		return false
	}
	if err != nil {
		t.Errorf("%s: %v", name, err)
		return true
	}
	if s.read > maxReadReal {
		t.Errorf("%s: %d bytes were read", name, s.read)
	}
	want, err := elf.NewFile(f)
	if err != nil {
		t.Errorf("%s: %v", name, err)
		return true
	}
	if libraries, err := want.ImportedLibraries(); err == nil && !slices.Equal(got.Needed, libraries) {
		t.Errorf("%s needs %q, want %q", name, got.Needed, libraries)
	}
	if got.Machine != want.Machine || got.Interpreter != interpreter(t, want) {
		t.Errorf("%s: machine %v, interpreter %q", name, got.Machine, got.Interpreter)
	}
	for _, sec := range want.Sections {
		if end := int64(sec.Offset + sec.FileSize); sec.Flags&elf.SHF_ALLOC != 0 && sec.Type != elf.SHT_NOBITS && end > got.Loaded {
			t.Errorf("%s: %d bytes are mapped, but %s ends at %d", name, got.Loaded, sec.Name, end)
		}
	}
	if info, err := f.Stat(); err != nil || got.Loaded > info.Size() {
		t.Errorf("%s: %d bytes are mapped, of %v, %v", name, got.Loaded, info, err)
	}
	if program := !strings.Contains(name, ".so"); got.Program != program && got.Interpreter == "" { // some libraries can be run
		t.Errorf("%s is a program: %v", name, got.Program)
	}
	if runpath, _ := want.DynString(elf.DT_RUNPATH); got.RunPath != only(runpath) {
		t.Errorf("%s: RUNPATH %q, want %q", name, got.RunPath, runpath)
	}
	if rpath, _ := want.DynString(elf.DT_RPATH); got.RunPath == "" && got.RPath != only(rpath) {
		t.Errorf("%s: RPATH %q, want %q", name, got.RPath, rpath)
	}
	for _, section := range linked {
		if sec := want.Section(section); sec != nil && sec.Type != elf.SHT_NOBITS && !covers(got.Tables, sec) {
			t.Errorf("%s: %s at %#x, %d bytes, is not in %+v", name, section, sec.Offset, sec.FileSize, got.Tables)
		}
	}
	return true
}

// linked are the sections that a linker reads of every object.
var linked = []string{
	".dynsym", ".dynstr", ".hash", ".gnu.hash", ".gnu.version", ".gnu.version_r", ".gnu.version_d", ".rela.dyn", ".rela.plt", ".relr.dyn",
	".dynamic", ".data.rel.ro", ".got", ".got.plt", ".init_array", ".fini_array", ".data",
}

func covers(tables []Range, s *elf.Section) bool {
	return slices.ContainsFunc(tables, func(r Range) bool {
		return uint64(r.Off) <= s.Offset && s.Offset+s.FileSize <= uint64(r.Off+r.Size)
	})
}

func only(s []string) string {
	if len(s) == 0 {
		return ""
	}
	return s[0]
}

func interpreter(t *testing.T, f *elf.File) string {
	t.Helper()
	for _, p := range f.Progs {
		if p.Type == elf.PT_INTERP {
			name, err := io.ReadAll(p.Open())
			if err != nil {
				t.Fatal(err)
			}
			return text(name)
		}
	}
	return ""
}

// file counts what is read of a file.
type file struct {
	*os.File
	read int64
}

func (f *file) ReadAt(p []byte, off int64) (int, error) {
	f.read += int64(len(p))
	return f.File.ReadAt(p, off)
}

func (f *file) Expect([]Range) {}

func TestParse(t *testing.T) {
	inClasses(t, func(t *testing.T, s synthetic) {
		s.interpreter, s.needed, s.runpath = "/lib/ld.so.1", []string{"libb.so", "liba.so.1"}, "$ORIGIN/../lib"
		m := s.make(t)
		src := newSource(m.bytes)
		o, err := Parse(src)
		if err != nil {
			t.Fatal(err)
		}
		if o.Interpreter != s.interpreter || !slices.Equal(o.Needed, s.needed) || o.RunPath != s.runpath || o.RPath != "" {
			t.Errorf("it is %+v", o)
		}
		want := []Range{{int64(m.tables), int64(m.dynamic - m.tables)}, {int64(m.dynamic), int64(m.end - m.dynamic)}}
		if !slices.Equal(o.Tables, want) {
			t.Errorf("tables are %v, want %v", o.Tables, want)
		}
		for i, name := range o.Needed { // all are announced before the first is read
			if at := src.expected[i].Off; string(m.bytes[at:][:len(name)]) != name {
				t.Errorf("expected %+v, there is no %q", src.expected[i], name)
			}
		}
	})
}

func TestParsePaths(t *testing.T) {
	for name, tt := range map[string]struct{ rpath, runpath, wantRPath, wantRunPath string }{
		"none":    {"", "", "", ""},
		"rpath":   {"/r", "", "/r", ""},
		"runpath": {"", "/u:/v", "", "/u:/v"},
		"both":    {"/r", "/u", "", "/u"},
	} {
		t.Run(name, func(t *testing.T) {
			o, err := Parse(newSource(synthetic{rpath: tt.rpath, runpath: tt.runpath}.make(t).bytes))
			if err != nil || o.RPath != tt.wantRPath || o.RunPath != tt.wantRunPath {
				t.Errorf("it is %+v, %v", o, err)
			}
		})
	}
}

// TestParseReader: what a registry does not give is no broken object.
func TestParseReader(t *testing.T) {
	want := errors.New("registry is away")
	if _, err := Parse(failing{want}); !errors.Is(err, want) || errors.Is(err, ErrFormat) {
		t.Errorf("error is %v", err)
	}
}

type failing struct{ err error }

func (f failing) ReadAt([]byte, int64) (int, error) { return 0, f.err }

func (f failing) Expect([]Range) {}

package linker

import (
	"debug/elf"
	"slices"
	"strings"
	"testing"
)

func TestFolders(t *testing.T) {
	for name, tt := range map[string]struct {
		list, origin string
		want         []string
	}{
		"none":            {"", "/o", nil},
		"several":         {"/a:/b/c", "/o", []string{"/a", "/b/c"}},
		"origin":          {"$ORIGIN:${ORIGIN}/../lib:/x/$ORIGIN", "/o", []string{"/o", "/o/../lib", "/x//o"}},
		"many":            {strings.Repeat("/a:", 1000), "/o", slices.Repeat([]string{"/a"}, maxFolders)},
		"root":            {"$ORIGIN/lib", "/", []string{"//lib"}},
		"origin unknown":  {"$ORIGIN/lib:/a:${ORIGIN}", "", []string{"/a"}},
		"of the process":  {"::lib:./lib:/a", "/o", []string{"/a"}},
		"other variables": {"/$LIB:/usr/${PLATFORM}/x:/a", "/o", []string{"/a"}},
	} {
		t.Run(name, func(t *testing.T) {
			if got := Folders(tt.list, tt.origin); !slices.Equal(got, tt.want) {
				t.Errorf("got %q, want %q", got, tt.want)
			}
		})
	}
}

// TestLoads looks at the beginnings of the lists of paths, where a linker finds what it looks for.
func TestLoads(t *testing.T) {
	cache := Cache{"liba.so": "/cached/liba.so"}
	usually := []string{"/lib/x86_64-linux-gnu/liba.so", "/usr/lib/x86_64-linux-gnu/liba.so", "/lib64/liba.so"}
	for name, tt := range map[string]struct {
		object Object
		origin string
		rpath  []string // that is inherited
		want   [][]string
	}{
		"nothing":     {},
		"interpreter": {Object{Interpreter: "/lib64/ld.so"}, "", nil, [][]string{{"/lib64/ld.so"}}},
		"cache":       {Object{Needed: []string{"liba.so"}}, "/o", nil, [][]string{append([]string{"/cached/liba.so"}, usually...)}},
		"no cache":    {Object{Needed: []string{"libb.so"}}, "/o", nil, [][]string{{"/lib/x86_64-linux-gnu/libb.so", "/usr/lib/x86_64-linux-gnu/libb.so"}}},
		"inherited": {Object{Needed: []string{"liba.so"}}, "/o", []string{"/r", "/s"},
			[][]string{{"/r/liba.so", "/s/liba.so", "/cached/liba.so"}}},
		"own and not inherited": {Object{Needed: []string{"liba.so"}, RunPath: "$ORIGIN/lib:/u"}, "/o", []string{"/r"},
			[][]string{{"/o/lib/liba.so", "/u/liba.so", "/cached/liba.so"}}},
		"up":                             {Object{Needed: []string{"liba.so"}, RunPath: "$ORIGIN/../lib"}, "/o", nil, [][]string{{"/o/../lib/liba.so"}}},
		"own, of which nothing is known": {Object{Needed: []string{"liba.so"}, RunPath: "$ORIGIN/lib"}, "", []string{"/r"}, [][]string{{"/cached/liba.so"}}},
		"paths": {Object{Needed: []string{"/p/liba.so", "$ORIGIN/liba.so", "./liba.so", "sub/liba.so"}, RunPath: "/u"}, "/o", nil,
			[][]string{{"/p/liba.so"}, {"/o/liba.so"}, nil, nil}},
		"in order": {Object{Interpreter: "/i", Needed: []string{"/z", "/y"}}, "/o", nil, [][]string{{"/i"}, {"/z"}, {"/y"}}},
	} {
		t.Run(name, func(t *testing.T) {
			tt.object.Machine = elf.EM_X86_64
			got := slices.Collect(tt.object.Loads(tt.origin, tt.rpath, cache))
			if !slices.EqualFunc(got, tt.want, func(got, want []string) bool { return len(got) >= len(want) && slices.Equal(got[:len(want)], want) }) {
				t.Errorf("got %q, want %q", got, tt.want)
			}
			for i, paths := range got {
				if len(tt.want[i]) == 1 && !strings.HasSuffix(tt.want[i][0], "lib/liba.so") && tt.want[i][0] != "/cached/liba.so" && len(paths) > 1 {
					t.Errorf("a path is searched for: %q", paths)
				}
			}
		})
	}
}

// TestLoadsElsewhere: a machine whose folders are not known has those that all have.
func TestLoadsElsewhere(t *testing.T) {
	o := Object{Machine: elf.EM_MIPS, Needed: []string{"liba.so"}}
	want := []string{"/lib64/liba.so", "/usr/lib64/liba.so", "/lib/liba.so", "/usr/lib/liba.so", "/usr/local/lib/liba.so"}
	if got := slices.Collect(o.Loads("/o", nil, nil)); !slices.Equal(got[0], want) {
		t.Errorf("got %q, want %q", got[0], want)
	}
}

package prefetch

import (
	"slices"
	"strings"
	"testing"
)

func TestParse(t *testing.T) {
	for _, tt := range []struct {
		name, in string
		want     []string
		err      string
	}{
		{"empty", "", nil, ""},
		{"comments and blanks", "# list\n\n  \nusr/bin/env\n", []string{"/usr/bin/env"}, ""},
		{"carriage returns", "a\r\nb\r\n", []string{"/a", "/b"}, ""},
		{"leading slash and dots", "/a/b\n./a/../c\n../d\n", []string{"/a/b", "/c", "/d"}, ""},
		{"spaces belong to the path", "my file\n", []string{"/my file"}, ""},
		{"a hash after the slash", "/#a\n", []string{"/#a"}, ""},
		{"no end of line", "a", []string{"/a"}, ""},
		{"the root", "a\n/\n", nil, "line 2"},
		{"bad pattern", "a\nb\n[x\n", nil, "line 3"},
		{"bad pattern in a folder", "[x/y\n", nil, "line 1"},
		{"zero byte", "a\x00b\n", nil, "line 1"},
		{"ranges", "a\t0-4095,8192-8192\nb c\t5-6\n", []string{"/a", "/b c"}, ""},
		{"range without an end", "a\nb\t5\n", nil, "line 2"},
		{"range backwards", "b\t5-4\n", nil, `line 1: path "b": range "5-4"`},
		{"negative range", "b\t-5-4\n", nil, "line 1"},
		{"no range after the tab", "b\t\n", nil, "line 1"},
		{"no range after a comma", "b\t1-2,\n", nil, "line 1"},
		{"not a range", "a\tb\n", nil, "line 1"},
		{"range of nothing", "\t1-2\n", nil, "line 1"},
		{"long line", "a\n" + strings.Repeat("x", maxLine+1), nil, "line 2"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			l, err := Parse(strings.NewReader(tt.in))
			if tt.err != "" {
				if err == nil || !strings.Contains(err.Error(), tt.err) {
					t.Fatalf("error %v, want one with %q", err, tt.err)
				}
				return
			}
			if err != nil || !slices.Equal(l.Lines(), tt.want) {
				t.Fatalf("got %q, %v; want %q", l.Lines(), err, tt.want)
			}
			if l.Empty() != (len(tt.want) == 0) {
				t.Errorf("Empty is %t", l.Empty())
			}
		})
	}
}

func TestMatch(t *testing.T) {
	names := []string{"bin/sh", "lib/z.so", "lib/a.so", "lib/sub/x.so", "a*b", "etc/passwd"}
	for _, tt := range []struct {
		name, list string
		want       []string
		hit        []bool
	}{
		{"nothing", "", nil, []bool{}},
		{"order of the list", "etc/passwd\nbin/sh", []string{"etc/passwd", "bin/sh"}, []bool{true, true}},
		{"order of the layer in a glob", "lib/*.so", []string{"lib/z.so", "lib/a.so"}, []bool{true}},
		{"each once", "lib/a.so\nlib/*", []string{"lib/a.so", "lib/z.so"}, []bool{true, true}},
		{"no slash in a star", "*.so\nlib/*/*.so", []string{"lib/sub/x.so"}, []bool{false, true}},
		{"escaped", `a\*b`, []string{"a*b"}, []bool{true}},
		{"classes", "[a-e]*/[ps]?*", []string{"bin/sh", "etc/passwd"}, []bool{true}},
		{"missing", "no/such\nno/*", nil, []bool{false, false}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			l, err := Parse(strings.NewReader(tt.list))
			if err != nil {
				t.Fatal(err)
			}
			picks, hit := l.Match(names)
			var picked []string
			for _, p := range picks {
				picked = append(picked, p.Name)
				if p.Ranges != nil {
					t.Errorf("ranges of %s: %v", p.Name, p.Ranges)
				}
			}
			if !slices.Equal(picked, tt.want) || !slices.Equal(hit, tt.hit) {
				t.Errorf("got %q %v, want %q %v", picked, hit, tt.want, tt.hit)
			}
		})
	}
}

// TestRanges: what several lines name of a file is all of that, and all of the file if one of them says so.
func TestRanges(t *testing.T) {
	l, err := Parse(strings.NewReader("a\t0-9\nb*\t4-4,7-8\nc\nbb\t1-2\na\nc\t1-1\n"))
	if err != nil {
		t.Fatal(err)
	}
	picked, _ := l.Match([]string{"a", "b", "bb", "c"})
	want := []Pick{{"a", nil}, {"b", []Range{{4, 4}, {7, 8}}}, {"bb", []Range{{4, 4}, {7, 8}, {1, 2}}}, {"c", nil}}
	if !slices.EqualFunc(picked, want, func(p, q Pick) bool { return p.Name == q.Name && slices.Equal(p.Ranges, q.Ranges) }) {
		t.Errorf("picked %v, want %v", picked, want)
	}
}

// FuzzParse: what parses, parses again from its own lines to the same list, and matching never fails or invents names.
func FuzzParse(f *testing.F) {
	f.Add("# c\n/usr/bin/*\n[a-z]/x\\*y\n../..//b\n")
	f.Add("a\r\n\r\n #b\n")
	f.Add("[]a]\n[^x]\n\\\n")
	f.Add("a\t0-1,5-9\nx/*\t7-7\na\n")
	f.Fuzz(func(t *testing.T, in string) {
		l, err := Parse(strings.NewReader(in))
		if err != nil {
			return
		}
		again, err := Parse(strings.NewReader(strings.Join(l.Lines(), "\n")))
		if err != nil || !slices.Equal(again.Lines(), l.Lines()) {
			t.Fatalf("%q parses again as %q, %v", l.Lines(), again.Lines(), err)
		}
		names := []string{"usr/bin/env", "a", "x/y"}
		picked, hit := l.Match(names)
		if len(hit) != len(l.Lines()) {
			t.Fatalf("%d hits for %d lines", len(hit), len(l.Lines()))
		}
		for _, p := range picked {
			if !slices.Contains(names, p.Name) {
				t.Fatalf("picked %q", p.Name)
			}
			for _, r := range p.Ranges {
				if r.First < 0 || r.Last < r.First {
					t.Fatalf("range %v", r)
				}
			}
		}
	})
}

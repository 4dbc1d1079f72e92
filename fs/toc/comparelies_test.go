package toc

import (
	"archive/tar"
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/containerd/stargz-snapshotter/estargz"
)

// honest is a layer with all that a TOC may lie about.
func honest() []member {
	return []member{
		dir("etc/", 0o755), reg("etc/one", noise(1, 9000)), reg("etc/two", noise(2, 9000)), reg("etc/three", noise(3, 9000)), reg("etc/empty", ""),
		reg("etc/zeros", strings.Repeat("\x00", 5000)), reg("etc/zero2", strings.Repeat("\x00", 5000)), link(tar.TypeLink, "etc/link", "etc/one"), link(tar.TypeLink, "etc/link2", "etc/zeros"),
		link(tar.TypeSymlink, "etc/sym", "one"), device(tar.TypeChar, "null", 1, 3), link(tar.TypeFifo, "fifo", ""),
		reg("caps", "x").xattr("security.capability", "some"), dir("opq", 0o755), reg("opq/.wh..wh..opq", ""), reg("opq/.wh.gone", ""),
		dir("none", 0o755), reg("a/b/implied", "x"),
	}
}

type tocEntries = []*estargz.TOCEntry

// of finds the entry with a name.
func of(t *testing.T, entries tocEntries, name string) *estargz.TOCEntry {
	t.Helper()
	i := slices.IndexFunc(entries, func(e *estargz.TOCEntry) bool { return strings.TrimSuffix(e.Name, "/") == name })
	if i < 0 {
		t.Fatalf("no entry %s", name)
	}
	return entries[i]
}

func without(entries tocEntries, name string) tocEntries {
	return slices.DeleteFunc(slices.Clone(entries), func(e *estargz.TOCEntry) bool { return strings.TrimSuffix(e.Name, "/") == name })
}

// lies are what a TOC may say otherwise than its tar, by the path and what is told of the difference.
func lies(t *testing.T) map[string]struct {
	path, what string
	lie        func(entries tocEntries) tocEntries
} {
	type lie = struct {
		path, what string
		lie        func(entries tocEntries) tocEntries
	}
	change := func(name string, what string, change func(e *estargz.TOCEntry)) lie {
		return lie{name, what, func(entries tocEntries) tocEntries { change(of(t, entries, name)); return entries }}
	}
	add := func(e *estargz.TOCEntry) lie {
		return lie{e.Name, "not in the tar", func(entries tocEntries) tocEntries { return append(entries, e) }}
	}
	swap := func(entries tocEntries, a, b, typ string) {
		var of [2]tocEntries
		for i, name := range []string{a, b} {
			for _, e := range entries {
				if e.Name == name && (typ == "" || e.Type == typ) {
					of[i] = append(of[i], e)
				}
			}
		}
		for i := range of[0] {
			x, y := of[0][i], of[1][i]
			x.Offset, y.Offset = y.Offset, x.Offset
			x.InnerOffset, y.InnerOffset = y.InnerOffset, x.InnerOffset
			x.ChunkDigest, y.ChunkDigest = y.ChunkDigest, x.ChunkDigest
			x.Digest, y.Digest = y.Digest, x.Digest
		}
	}
	return map[string]lie{
		"mode":            change("etc/two", "mode", func(e *estargz.TOCEntry) { e.Mode |= 0o4000 }),
		"mode of a dir":   change("etc", "mode", func(e *estargz.TOCEntry) { e.Mode = 0o777 }),
		"uid":             change("etc/two", "owner", func(e *estargz.TOCEntry) { e.UID = 1000 }),
		"gid":             change("etc/empty", "owner", func(e *estargz.TOCEntry) { e.GID = 1 }),
		"time":            change("etc/two", "modification time", func(e *estargz.TOCEntry) { e.ModTime3339 = "2001-01-01T00:00:00Z" }),
		"xattr more":      change("etc/two", "xattr", func(e *estargz.TOCEntry) { e.Xattrs = map[string][]byte{"user.x": nil} }),
		"xattr less":      change("caps", "xattr", func(e *estargz.TOCEntry) { e.Xattrs = nil }),
		"xattr changed":   change("caps", "xattr", func(e *estargz.TOCEntry) { e.Xattrs["security.capability"] = []byte("more") }),
		"symlink":         change("etc/sym", "leads to", func(e *estargz.TOCEntry) { e.LinkName = "two" }),
		"device":          change("null", "device", func(e *estargz.TOCEntry) { e.DevMinor = 1 }),
		"type":            change("fifo", "mode", func(e *estargz.TOCEntry) { e.Type = "char" }),
		"hard link":       change("etc/link", "", func(e *estargz.TOCEntry) { e.LinkName = "etc/two" }),
		"hard link times": change("etc/link", "modification time", func(e *estargz.TOCEntry) { e.ModTime3339 = "2001-01-01T00:00:00Z" }),
		"hard link less": {"etc/link2", "contents", func(entries tocEntries) tocEntries {
			for _, e := range slices.Clone(entries) {
				if e.Name == "etc/zeros" {
					again := *e
					again.Name = "etc/link2"
					entries = append(entries, &again)
				}
			}
			return slices.DeleteFunc(entries, func(e *estargz.TOCEntry) bool { return e.Name == "etc/link2" && e.Type == "hardlink" })
		}},
		"hard link more": {"etc/zero2", "hard link", func(entries tocEntries) tocEntries {
			e := *of(t, entries, "etc/link2")
			e.Name = "etc/zero2"
			return append(without(entries, "etc/zero2"), &e)
		}},
		"contents": {"etc/three", "contents", func(entries tocEntries) tocEntries { swap(entries, "etc/three", "etc/two", ""); return entries }},
		"part of the contents": {"etc/three", "contents", func(entries tocEntries) tocEntries {
			swap(entries, "etc/three", "etc/two", "chunk")
			return entries
		}},
		"a file of zeros": {"etc/two", "contents", func(entries tocEntries) tocEntries {
			for _, e := range entries {
				if e.Name == "etc/two" {
					e.ChunkDigest = hole
				}
			}
			return entries
		}},
		"hidden":          {"etc/two", "not in the TOC", func(entries tocEntries) tocEntries { return without(entries, "etc/two") }},
		"hidden dir":      {"none", "not in the TOC", func(entries tocEntries) tocEntries { return without(entries, "none") }},
		"hidden empty":    {"etc/empty", "not in the TOC", func(entries tocEntries) tocEntries { return without(entries, "etc/empty") }},
		"hidden whiteout": {"opq/gone", "not in the TOC", func(entries tocEntries) tocEntries { return without(entries, "opq/.wh.gone") }},
		"not opaque":      {"opq", "", func(entries tocEntries) tocEntries { return without(entries, "opq/.wh..wh..opq") }},
		"opaque": {"etc", "", func(e tocEntries) tocEntries {
			return append(e, &estargz.TOCEntry{Name: "etc/.wh..wh..opq", Type: "reg"})
		}},
		"opaque root": {"/", "", func(e tocEntries) tocEntries { return append(e, &estargz.TOCEntry{Name: ".wh..wh..opq", Type: "reg"}) }},
		"opaque and nobody": {"a/b", "", func(e tocEntries) tocEntries {
			return append(e, &estargz.TOCEntry{Name: "a/b/.wh..wh..opq", Type: "reg"})
		}},
		"whiteout": {"etc/passwd", "not in the tar", func(e tocEntries) tocEntries {
			return append(e, &estargz.TOCEntry{Name: "etc/.wh.passwd", Type: "reg"})
		}},
		"root": {"/", "modification time", func(e tocEntries) tocEntries {
			return append(e, &estargz.TOCEntry{Name: "./", Type: "dir", Mode: 0o755, ModTime3339: "2001-01-01T00:00:00Z"})
		}},
		"more":                                   add(&estargz.TOCEntry{Name: "evil", Type: "dir", Mode: 0o4777}),
		"more, empty, as if something lay there": add(&estargz.TOCEntry{Name: "evil", Type: "dir", Mode: 0o755}),
		"an empty file":                          add(&estargz.TOCEntry{Name: "etc/evil", Type: "reg", Mode: 0o644}),
		"one more link":                          add(&estargz.TOCEntry{Name: "etc/evil", Type: "hardlink", LinkName: "etc/one", Mode: 0o644, ModTime3339: when.Format(time.RFC3339)}),
		"implied as dir": {"a/b", "mode", func(e tocEntries) tocEntries {
			return append(e, &estargz.TOCEntry{Name: "a/b", Type: "dir", Mode: 0o777})
		}},
		"longer": {"etc/zero2", "bytes", func(entries tocEntries) tocEntries {
			for _, e := range entries { // of one chunk each, and holes
				if e.Name == "etc/zero2" && e.Type == "reg" {
					e.Size = 9000
				}
				if e.Name == "etc/zero2" {
					e.ChunkDigest, e.ChunkSize = hole, 0
				}
			}
			return slices.DeleteFunc(entries, func(e *estargz.TOCEntry) bool { return e.Name == "etc/zero2" && e.Type == "chunk" })
		}},
	}
}

// TestCompareFindsLies: whatever a TOC says otherwise than its tar is found, and told.
func TestCompareFindsLies(t *testing.T) {
	b := packAsIs(t, makeTar(t, honest()...))
	for name, lie := range lies(t) {
		t.Run(name, func(t *testing.T) {
			toc := b.read(t)
			toc.Entries = lie.lie(toc.Entries)
			l, err := toc.Layout()
			if err != nil {
				t.Fatal(err)
			}
			quick, last := compareBoth(t, b, l)
			var d *DifferenceError
			if quick == nil || !errors.As(last, &d) {
				t.Fatalf("%v; %v", quick, last)
			}
			if got := strings.Trim(d.Path, "/"); got != strings.Trim(lie.path, "/") && lie.what != "hard link" || !strings.Contains(d.What, lie.what) {
				t.Errorf("%v; want %s: %s", d, lie.path, lie.what)
			}
		})
	}
}

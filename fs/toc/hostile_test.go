package toc

import (
	"errors"
	"fmt"
	"io"
	"maps"
	"math"
	"slices"
	"strings"
	"testing"

	"github.com/containerd/stargz-snapshotter/estargz"
	"golang.org/x/sys/unix"
)

type entry = estargz.TOCEntry

const (
	someDigest  = "sha256:" + "00112233445566778899aabbccddeeff00112233445566778899aabbccddeeff"
	otherDigest = "sha256:" + "ff112233445566778899aabbccddeeff00112233445566778899aabbccddeeff"
)

// tocOf is a TOC whose digest is taken to be right, of a blob with 1 MiB of payload.
func tocOf(entries ...*entry) *TOC {
	return &TOC{Format: EStargz, Entries: entries, PayloadSize: 1 << 20, BlobSize: 2 << 20}
}

// sound is a sound file in one chunk, to be spoilt.
func sound(name string, change ...func(e *entry)) *entry {
	e := &entry{Name: name, Type: "reg", Size: 100, Mode: 0o644, Offset: 512, ChunkDigest: someDigest, ModTime3339: "2024-02-29T12:00:00Z"}
	for _, f := range change {
		f(e)
	}
	return e
}

func chunkAt(offset, size int64, change ...func(e *entry)) *entry {
	e := &entry{Name: "f", Type: "chunk", ChunkOffset: offset, ChunkSize: size, Offset: 4096 + offset, ChunkDigest: someDigest}
	for _, f := range change {
		f(e)
	}
	return e
}

func hardlink(name, target string) *entry {
	return &entry{Name: name, Type: "hardlink", LinkName: target}
}
func folder(name string) *entry      { return &entry{Name: name, Type: "dir", Mode: 0o755} }
func symlink(name, to string) *entry { return &entry{Name: name, Type: "symlink", LinkName: to} }

func TestHostileEntries(t *testing.T) {
	deep := strings.Repeat("d/", 2048)
	tests := map[string]struct {
		entries []*entry
		name    string // of the entry that is to be blamed; that of the last one if empty
		reason  string
	}{
		"dotdot":               {[]*entry{sound("../etc/passwd")}, "", `path holds ".."`},
		"dotdot within":        {[]*entry{sound("a/../../b")}, "", `path holds ".."`},
		"dotdot at the end":    {[]*entry{folder("a/..")}, "", `path holds ".."`},
		"absolute":             {[]*entry{sound("/etc/passwd")}, "", "absolute path"},
		"empty name":           {[]*entry{sound("")}, "", "empty name"},
		"empty component":      {[]*entry{sound("a//b")}, "", "empty component"},
		"slashes at the end":   {[]*entry{folder("a//")}, "", "empty component"},
		"NUL":                  {[]*entry{sound("a\x00b")}, "", "NUL"},
		"long name":            {[]*entry{sound(strings.Repeat("n", 256))}, "", "name of 256 bytes"},
		"long name of parent":  {[]*entry{sound(strings.Repeat("n", 256) + "/f")}, "", "name of 256 bytes"},
		"long path":            {[]*entry{sound(deep + "f")}, "", "path of 4097 bytes"},
		"null entry":           {[]*entry{{}}, "", "empty name"},
		"file as root":         {[]*entry{sound("./")}, "", "root is no directory"},
		"link as root":         {[]*entry{sound("f"), hardlink(".", "f")}, "", "root is no directory"},
		"no type":              {[]*entry{{Name: "f"}}, "", `unknown type ""`},
		"unknown type":         {[]*entry{{Name: "f", Type: "socket"}}, "", `unknown type "socket"`},
		"under a file":         {[]*entry{sound("f"), sound("f/g")}, "", `beneath "f", which is a regular file`},
		"far under a file":     {[]*entry{sound("f"), folder("f/g/h")}, "", `beneath "f", which is a regular file`},
		"under a symlink":      {[]*entry{symlink("l", "/etc"), sound("l/passwd")}, "", `beneath "l", which is a symlink`},
		"under a device":       {[]*entry{{Name: "c", Type: "char"}, sound("c/f")}, "", `beneath "c", which is a device`},
		"under a hard link":    {[]*entry{sound("f"), hardlink("h", "f"), sound("h/g")}, "", `beneath "h"`},
		"whiteout in a file":   {[]*entry{sound("f"), sound("f/.wh.g")}, "", `beneath "f"`},
		"under a whiteout":     {[]*entry{sound(".wh.d/f")}, "", "beneath a whiteout"},
		"whiteout of nothing":  {[]*entry{sound("d/.wh.")}, "", "whiteout of nothing"},
		"whiteout of dot":      {[]*entry{sound("d/.wh..")}, "", "whiteout of nothing"},
		"whiteout of dotdot":   {[]*entry{sound("d/.wh...")}, "", "whiteout of nothing"},
		"file, then directory": {[]*entry{sound("a"), folder("a")}, "", "twice, for a regular file and for a directory"},
		"directory, then file": {[]*entry{folder("a"), sound("a")}, "", "twice, for a directory and for a regular file"},
		"parent, then file":    {[]*entry{sound("a/b"), sound("a")}, "", "twice, for a directory and for a regular file"},
		"file, then symlink":   {[]*entry{sound("a"), symlink("a", "b")}, "", "twice, for a regular file and for a symlink"},
		"link over symlink":    {[]*entry{sound("a"), symlink("b", "x"), hardlink("b", "a")}, "", "twice, for a symlink"},

		"negative size":       {[]*entry{sound("f", func(e *entry) { e.Size = -1 })}, "", "negative size"},
		"huge size":           {[]*entry{sound("f", func(e *entry) { e.Size = math.MaxInt64 })}, "", "bytes, at most"},
		"huge size, chunked":  {[]*entry{sound("f", func(e *entry) { e.Size, e.ChunkSize = math.MaxInt64, 100 })}, "", "chunks end at 100"},
		"chunk over the file": {[]*entry{sound("f", func(e *entry) { e.ChunkSize = 101 })}, "", "101 bytes at 0 of a file of 100"},
		"negative chunk size": {[]*entry{sound("f", func(e *entry) { e.ChunkSize = -5 })}, "", "-5 bytes"},
		"large chunk":         {[]*entry{sound("f", func(e *entry) { e.Size = MaxChunkSize + 1 })}, "", "at most 134217728"},
		"outside the blob":    {[]*entry{sound("f", func(e *entry) { e.Offset = 1 << 20 })}, "", "offset 1048576 is outside"},
		"far outside":         {[]*entry{sound("f", func(e *entry) { e.Offset = math.MaxInt64 })}, "", "is outside"},
		"negative offset":     {[]*entry{sound("f", func(e *entry) { e.Offset = -1 })}, "", "offset -1 is outside"},
		"negative inner":      {[]*entry{sound("f", func(e *entry) { e.InnerOffset = -1 })}, "", "inner offset -1"},
		"overflowing inner":   {[]*entry{sound("f", func(e *entry) { e.InnerOffset = math.MaxInt64 - 50 })}, "", "inner offset"},
		"unreachable inner":   {[]*entry{sound("f", func(e *entry) { e.InnerOffset = 1 << 40 })}, "", "chunk ends at 1099511627876 of a stream"},
		"begins late":         {[]*entry{sound("f", func(e *entry) { e.ChunkOffset = 10 })}, "", "begins at 10"},
		"gap": {[]*entry{sound("f", func(e *entry) { e.ChunkSize = 40 }), chunkAt(50, 50)}, "f",
			"chunk 1: begins at 50 of the file, the one before ends at 40"},
		"overlap": {[]*entry{sound("f", func(e *entry) { e.ChunkSize = 40 }), chunkAt(30, 70)}, "f",
			"chunk 1: begins at 30 of the file, the one before ends at 40"},
		"too few":           {[]*entry{sound("f", func(e *entry) { e.ChunkSize = 40 }), chunkAt(40, 50)}, "f", "chunks end at 90, the file at 100"},
		"too many":          {[]*entry{sound("f"), chunkAt(100, 0)}, "f", "0 bytes at 100"},
		"chunks of nothing": {[]*entry{sound("f", func(e *entry) { e.Size = 0 }), chunkAt(0, 0)}, "f", "0 bytes at 0"},
		"others' chunk":     {[]*entry{sound("f", func(e *entry) { e.ChunkSize = 40 }), chunkAt(40, 60, func(e *entry) { e.Name = "g" })}, "f", `of another file, "g"`},
		"chunk first":       {[]*entry{chunkAt(0, 10)}, "f", "chunk of no file"},
		"chunk of a folder": {[]*entry{folder("f"), chunkAt(0, 10)}, "f", "chunk of no file"},
		"no digest":         {[]*entry{sound("f", func(e *entry) { e.ChunkDigest = "" })}, "", "no digest"},
		"no chunk digest": {[]*entry{sound("f", func(e *entry) { e.ChunkSize, e.ChunkDigest, e.Digest = 40, "", someDigest }), chunkAt(40, 60)},
			"f", "chunk 0: no digest"},
		"no digest of a chunk": {[]*entry{sound("f", func(e *entry) { e.ChunkSize = 40 }), chunkAt(40, 60, func(e *entry) { e.ChunkDigest = "" })},
			"f", "chunk 1: no digest"},
		"malformed digest":   {[]*entry{sound("f", func(e *entry) { e.ChunkDigest = "sha256:xyz" })}, "", "is no sha256"},
		"digest of non-hex":  {[]*entry{sound("f", func(e *entry) { e.ChunkDigest = "sha256:" + strings.Repeat("g", 64) })}, "", "is no sha256"},
		"digest in capitals": {[]*entry{sound("f", func(e *entry) { e.ChunkDigest = strings.ToUpper(someDigest) })}, "", "is no sha256"},
		"other algorithm":    {[]*entry{sound("f", func(e *entry) { e.ChunkDigest = "sha512:" + strings.Repeat("0", 128) })}, "", "is no sha256"},
		"two digests":        {[]*entry{sound("f", func(e *entry) { e.Digest = otherDigest })}, "", "of its only chunk"},

		"link to nowhere":    {[]*entry{hardlink("h", "nowhere")}, "", `hard link to "nowhere", which is not there`},
		"link without aim":   {[]*entry{hardlink("h", "")}, "", "empty name"},
		"link to the root":   {[]*entry{hardlink("h", ".")}, "", "a directory"},
		"link to a folder":   {[]*entry{folder("d"), hardlink("h", "d")}, "", `hard link to "d", a directory`},
		"link to late dir":   {[]*entry{hardlink("h", "d"), folder("d")}, "h", `hard link to "d", a directory`},
		"link to a parent":   {[]*entry{hardlink("d/h", "d")}, "", "a directory"},
		"link to itself":     {[]*entry{hardlink("h", "./h")}, "", "hard link to itself"},
		"links in a cycle":   {[]*entry{hardlink("a", "b"), hardlink("b", "c"), hardlink("c", "a")}, "a", "in a cycle"},
		"link out":           {[]*entry{hardlink("h", "../../etc/passwd")}, "", `path holds ".."`},
		"link via symlink":   {[]*entry{folder("d"), sound("d/f"), symlink("l", "d"), hardlink("h", "l/f")}, "", "is not there"},
		"link to a whiteout": {[]*entry{sound(".wh.x"), hardlink("h", "x")}, "", "is not there"},
		"link to a landmark": {[]*entry{sound(estargz.PrefetchLandmark), hardlink("h", estargz.PrefetchLandmark)}, "", "is not there"},
		"two late links":     {[]*entry{hardlink("h", "f"), hardlink("h", "f"), sound("f")}, "h", "twice"},
		"late link, file":    {[]*entry{hardlink("h", "f"), sound("f"), sound("h")}, "h", "twice"},
		"owner of late link": {[]*entry{{Name: "h", Type: "hardlink", LinkName: "f", UID: -1}, sound("f")}, "h", "owner -1:0"},

		"empty symlink":      {[]*entry{symlink("l", "")}, "", "without a target"},
		"long symlink":       {[]*entry{symlink("l", strings.Repeat("x", 4096))}, "", "target of 4096 bytes"},
		"NUL in symlink":     {[]*entry{symlink("l", "a\x00")}, "", "target holds a NUL"},
		"modtime of root":    {[]*entry{{Name: "./", Type: "dir", ModTime3339: "x"}}, "", `time "x"`},
		"mode of folder":     {[]*entry{{Name: "d", Type: "dir", Mode: 1 << 20}}, "", "mode"},
		"owner of whiteout":  {[]*entry{sound(".wh.f", func(e *entry) { e.UID = -1 })}, "", "owner -1:0"},
		"xattrs of a folder": {[]*entry{folderWith("d", manyXattrs("user.x", 3))}, "", "too many"},
		"folder over fifo":   {[]*entry{{Name: "p", Type: "fifo"}, folder("p")}, "", "twice, for a fifo and for a directory"},
		"modtime":            {[]*entry{sound("f", func(e *entry) { e.ModTime3339 = "yesterday" })}, "", `time "yesterday"`},
		"modtime of link":    {[]*entry{sound("f"), {Name: "h", Type: "hardlink", LinkName: "f", ModTime3339: "x"}}, "", `time "x"`},
		"negative owner":     {[]*entry{sound("f", func(e *entry) { e.UID = -1 })}, "", "owner -1:0"},
		"large group":        {[]*entry{sound("f", func(e *entry) { e.GID = math.MaxUint32 })}, "", "owner 0:4294967295"},
		"mode":               {[]*entry{sound("f", func(e *entry) { e.Mode = 0o1000644 })}, "", "mode 01000644"},
		"negative mode":      {[]*entry{sound("f", func(e *entry) { e.Mode = -1 })}, "", "mode"},
		"major":              {[]*entry{{Name: "c", Type: "char", DevMajor: 4096}}, "", "device 4096:0"},
		"minor":              {[]*entry{{Name: "b", Type: "block", DevMinor: 1 << 20}}, "", "device 0:1048576"},
		"negative major":     {[]*entry{{Name: "b", Type: "block", DevMajor: -1}}, "", "device -1:0"},
		"xattr without name": {[]*entry{sound("f", xattr("", "x"))}, "", "name of xattr"},
		"long xattr name":    {[]*entry{sound("f", xattr("user."+strings.Repeat("x", 251), ""))}, "", "name of xattr"},
		"NUL in xattr":       {[]*entry{sound("f", xattr("user.\x00", ""))}, "", "name of xattr"},
		"long xattr":         {[]*entry{sound("f", xattr("user.x", strings.Repeat("x", 1<<16)))}, "", "65536 bytes"},
		"many xattrs":        {[]*entry{sound("f", manyXattrs("user.x", 3))}, "", "too many"},
		"many at a folder": {[]*entry{folderWith("d", manyXattrs("user.a", 1)), folderWith("d/", manyXattrs("user.b", 1)), folderWith("d", manyXattrs("user.c", 1))},
			"", "too many"},
		"many in a row": {[]*entry{sound("f", manyXattrs("user.a", 1)), linkWith("b", "f", manyXattrs("user.b", 1)), linkWith("c", "f", manyXattrs("user.c", 1))},
			"c", "too many"},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			blamed := tc.name
			if blamed == "" {
				blamed = tc.entries[len(tc.entries)-1].Name
			}
			l, err := tocOf(tc.entries...).Layout()
			var e *EntryError
			if !errors.As(err, &e) {
				t.Fatalf("layout %v, error %v", l, err)
			}
			if e.Name != blamed || !strings.Contains(e.Reason, tc.reason) {
				t.Errorf("%v\nwant %q about %q", err, tc.reason, blamed)
			}
			if len(err.Error()) > 400 || strings.ContainsAny(err.Error(), "\x00\n") {
				t.Errorf("error is not fit for a log: %v", err)
			}
		})
	}
}

func xattr(name, value string) func(e *entry) {
	return func(e *entry) { e.Xattrs = map[string][]byte{name: []byte(value)} }
}

// manyXattrs are n of 50,000 bytes.
func manyXattrs(prefix string, n int) func(e *entry) {
	return func(e *entry) {
		e.Xattrs = map[string][]byte{}
		for i := range n {
			e.Xattrs[fmt.Sprint(prefix, i)] = make([]byte, 50000)
		}
	}
}

func folderWith(name string, change func(e *entry)) *entry {
	e := folder(name)
	change(e)
	return e
}

func linkWith(name, target string, change func(e *entry)) *entry {
	e := hardlink(name, target)
	change(e)
	return e
}

// TestOddEntries are strange and harmless: each layer must be taken, and look as said.
func TestOddEntries(t *testing.T) {
	tests := map[string]struct {
		entries []*entry
		want    string // the names, sorted
	}{
		"nothing at all":        {nil, ""},
		"root only":             {[]*entry{folder("./")}, ""},
		"dots":                  {[]*entry{sound("././a/./b")}, "a a/b"},
		"trailing slash":        {[]*entry{sound("f/")}, "f"},
		"longest name":          {[]*entry{sound(strings.Repeat("n", 255))}, strings.Repeat("n", 255)},
		"implied parents":       {[]*entry{sound("a/b/c")}, "a a/b a/b/c"},
		"file twice":            {[]*entry{sound("f"), sound("f")}, "f"},
		"late link":             {[]*entry{hardlink("h", "f"), sound("f")}, "f h"},
		"late links to links":   {[]*entry{hardlink("a", "b"), hardlink("b", "c"), sound("c"), hardlink("d", "a")}, "a b c d"},
		"link twice":            {[]*entry{sound("f"), hardlink("h", "f"), hardlink("h", "f")}, "f h"},
		"links back":            {[]*entry{sound("f"), hardlink("h", "f"), hardlink("f", "h")}, "f h"},
		"whiteouts twice":       {[]*entry{sound(".wh.f"), sound(".wh.f")}, "f"},
		"whiteout, file":        {[]*entry{sound(".wh.f"), sound("f")}, "f"},
		"file, whiteout":        {[]*entry{sound("f"), sound(".wh.f")}, "f"},
		"whiteout, beneath":     {[]*entry{sound(".wh.d"), sound("d/f")}, "d d/f"},
		"AUFS":                  {[]*entry{sound(".wh..wh.aufs"), folder(".wh..wh.plnk"), sound(".wh..wh.plnk/1.2"), sound("d/.wh..wh.orph")}, ""},
		"landmarks deep within": {[]*entry{sound("d/" + estargz.PrefetchLandmark), sound(estargz.TOCTarName)}, "d d/" + estargz.PrefetchLandmark},
		"no data, odd place":    {[]*entry{sound("f", func(e *entry) { e.Size, e.Offset, e.ChunkDigest = 0, -1, "x" })}, "f"},
		"offset 0":              {[]*entry{sound("f", func(e *entry) { e.Offset, e.InnerOffset = 0, 512 })}, "f"},
		"file digest":           {[]*entry{sound("f", func(e *entry) { e.Digest, e.ChunkDigest = e.ChunkDigest, "" })}, "f"},
		"last chunk of size 0":  {[]*entry{sound("f", func(e *entry) { e.ChunkSize = 40 }), chunkAt(40, 0)}, "f"},
		"unnamed chunk":         {[]*entry{sound("f", func(e *entry) { e.ChunkSize = 40 }), chunkAt(40, 0, func(e *entry) { e.Name = "" })}, "f"},
		"a file's bytes twice":  {[]*entry{sound("f"), sound("g")}, "f g"},
		"docker's mode":         {[]*entry{sound("f", func(e *entry) { e.Mode = 0o100644 })}, "f"},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			toc := tocOf(tc.entries...)
			l, err := toc.Layout()
			if err != nil {
				t.Fatal(err)
			}
			checkShape(t, toc, l)
			got := strings.TrimSpace(strings.Join(slices.Sorted(maps.Keys(flatten(l.Root))), " "))
			if got != tc.want {
				t.Errorf("tree has %s, want %s", got, tc.want)
			}
			if err := l.WriteMetadata(io.Discard); err != nil {
				t.Error(err)
			}
		})
	}
}

func TestWhiteoutsAndOpaque(t *testing.T) {
	l, err := tocOf(sound("d/.wh.x", func(e *entry) { e.UID, e.Mode = 7, 0o755 }), sound("d/.wh..wh..opq"), sound(".wh..wh..opq")).Layout()
	if err != nil {
		t.Fatal(err)
	}
	if x := find(l.Root, "d/x"); x.Mode != unix.S_IFCHR || x.Rdev != 0 || x.UID != 7 {
		t.Errorf("whiteout is %+v", x)
	}
	for _, name := range []string{"", "d"} {
		if got := showXattrs(find(l.Root, name).Xattrs); got != `trusted.overlay.opaque="y" ` {
			t.Errorf("%q has xattrs %s", name, got)
		}
	}
	if len(l.Chunks) != 0 || l.DataSize != 0 {
		t.Errorf("whiteouts have %d chunks in %d bytes", len(l.Chunks), l.DataSize)
	}
}

func TestLayersOverlayXattrsAreDropped(t *testing.T) {
	xattrs := func(e *entry) {
		e.Xattrs = map[string][]byte{"user.kept": []byte("1"), "trusted.overlay.redirect": []byte("/"), "trusted.overlay.metacopy": nil,
			"trusted.overlay.opaque": []byte("y"), "trusted.x": nil, "user.overlay.redirect": []byte("/"), "user.overlay.opaque": []byte("y"),
			"com.apple.x": nil, "system.nfs4_acl": nil}
	}
	d := folder("d")
	xattrs(d)
	h := hardlink("h", "f")
	xattrs(h)
	l, err := tocOf(d, sound("f", xattrs), h, sound("d/g", xattrs)).Layout()
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"d", "f", "h", "d/g"} {
		if got := showXattrs(find(l.Root, name).Xattrs); got != `user.kept="1" ` {
			t.Errorf("%s has %s", name, got)
		}
	}
}

func TestKeepsXattr(t *testing.T) {
	for name, modes := range map[string][]uint32{
		"user.x":                   {unix.S_IFREG, unix.S_IFDIR},
		"security.capability":      {unix.S_IFREG, unix.S_IFDIR, unix.S_IFLNK, unix.S_IFCHR},
		"system.posix_acl_access":  {unix.S_IFREG, unix.S_IFDIR, unix.S_IFCHR},
		"system.posix_acl_default": {unix.S_IFDIR},
		"system.x":                 nil,
		"user.":                    nil,
		"other":                    nil,
	} {
		for _, mode := range []uint32{unix.S_IFREG, unix.S_IFDIR, unix.S_IFLNK, unix.S_IFCHR} {
			if got, want := keepsXattr(mode|0o644, name), slices.Contains(modes, mode); got != want {
				t.Errorf("%s on a %s: %v", name, typeName(mode), got)
			}
		}
	}
}

func TestReplacedFiles(t *testing.T) {
	at := func(offset, size int64) func(e *entry) { return func(e *entry) { e.Offset, e.Size = offset, size } }
	toc := tocOf(sound("gone", at(100, 1)), sound("linked", at(200, 2)), hardlink("h", "linked"),
		sound("linked", at(300, 3)), sound("gone", at(400, 4)))
	l, err := toc.Layout()
	if err != nil {
		t.Fatal(err)
	}
	checkShape(t, toc, l)
	sizes := []int64{find(l.Root, "gone").Size, find(l.Root, "linked").Size, find(l.Root, "h").Size, int64(l.Files), int64(len(l.Chunks))}
	if want := []int64{4, 3, 2, 3, 3}; !slices.Equal(sizes, want) {
		t.Errorf("got %v, want %v", sizes, want)
	}
	if l.Chunks[0].BlobSize != 100 {
		t.Errorf("stream of %d bytes, the next one is a replaced file's", l.Chunks[0].BlobSize)
	}
}

func TestAddressSpaceIsBounded(t *testing.T) {
	var entries []*entry
	for i := range int64(MaxDataSize/MaxChunkSize) + 1 {
		entries = append(entries, sound(fmt.Sprint(i), func(e *entry) { e.Size = MaxChunkSize }))
	}
	toc := tocOf(entries...)
	toc.PayloadSize = 1 << 30
	if _, err := toc.Layout(); !isEntryError(err, "bytes of files") {
		t.Error(err)
	}
}

func TestImpliedDirectoriesAreBounded(t *testing.T) {
	var entries []*entry
	for i := range MaxEntries / 2000 {
		entries = append(entries, sound(fmt.Sprint(i, strings.Repeat("/d", 2040))))
	}
	if _, err := tocOf(entries...).Layout(); !isEntryError(err, "implied directories") {
		t.Error(err)
	}
	full := newTree()
	full.nodes = MaxEntries
	if _, err := full.add(sound(".wh.x")); err != nil {
		t.Fatal(err)
	}
	if err := full.finish(); !isEntryError(err, "whiteout: layer has more") {
		t.Error(err)
	}
}

func isEntryError(err error, reason string) bool {
	var e *EntryError
	return errors.As(err, &e) && strings.Contains(e.Reason, reason)
}

// TestNothingIsQuadratic lays out many entries of each kind that could take forever together, hours if it did.
func TestNothingIsQuadratic(t *testing.T) {
	const n = 200_000
	tests := map[string]func(i int) *entry{
		"chain of late links":    func(i int) *entry { return hardlink(fmt.Sprint(i), fmt.Sprint(i+1)) },
		"whiteouts":              func(i int) *entry { return folder(fmt.Sprint(".wh.", i)) },
		"one directory":          func(i int) *entry { return folder("d/" + fmt.Sprint(i)) },
		"repeated xattrs":        func(i int) *entry { return folderWith("d", xattr(fmt.Sprint("user.", i%9000), "x")) },
		"one file over and over": func(i int) *entry { return sound("f") },
		"jumping about":          func(i int) *entry { return folder(fmt.Sprint(i%1000, "/", i)) },
	}
	for name, entryAt := range tests {
		t.Run(name, func(t *testing.T) {
			var entries []*entry
			for i := range n {
				entries = append(entries, entryAt(i))
			}
			entries = append(entries, sound(fmt.Sprint(n)))
			if _, err := tocOf(entries...).Layout(); err != nil && !isEntryError(err, "too many or too long xattrs") {
				t.Error(err)
			}
		})
	}
}

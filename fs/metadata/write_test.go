package metadata

import (
	"bytes"
	"errors"
	"io"
	"math"
	"math/rand/v2"
	"runtime"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// What the format cannot hold is an error that says where and what, and nothing is written.
func TestWriteRefuses(t *testing.T) {
	x := func(name string, size int) map[string][]byte { return map[string][]byte{name: make([]byte, size)} }
	five := map[string][]byte{}
	for _, n := range []string{"1", "2", "3", "4", "5"} {
		five["user."+n] = make([]byte, 60_000)
	}
	cycle := dir(0o755, map[string]*Node{})
	cycle.Children["back"] = dir(0o755, map[string]*Node{"again": cycle})
	self := dir(0o755, map[string]*Node{})
	self.Children["self"] = self
	twice := dir(0o755, nil)

	in := func(name string, n *Node) *Node {
		return dir(0o755, map[string]*Node{"d": dir(0o755, map[string]*Node{name: n})})
	}
	at := func(offset, size int64) *Node { return in("f", file(offset, size)) }
	tests := map[string]struct {
		root *Node
		want []string // parts of the error
	}{
		"no tree":                  {nil, []string{"/: root"}},
		"root is a file":           {file(0, 0), []string{"/: root"}},
		"no node":                  {in("n", nil), []string{"/d/n: no node"}},
		"empty name":               {in("", file(0, 0)), []string{"/d", "empty name"}},
		"dot":                      {in(".", file(0, 0)), []string{"/d", `"."`}},
		"dot dot":                  {in("..", dir(0, nil)), []string{"/d", `".."`}},
		"slash":                    {in("a/b", file(0, 0)), []string{"/d", `"a/b"`, "slash"}},
		"nul":                      {in("a\x00", file(0, 0)), []string{"/d", `"a\x00"`, "NUL"}},
		"long name":                {in(strings.Repeat("n", 256), file(0, 0)), []string{"/d", "256 bytes"}},
		"no type":                  {in("f", &Node{Mode: 0o644}), []string{"/d/f", "mode"}},
		"unknown type":             {in("f", &Node{Mode: 0o170000}), []string{"/d/f", "mode"}},
		"mode beyond 16 bits":      {in("f", &Node{Mode: 1<<16 | unix.S_IFREG}), []string{"/d/f", "mode"}},
		"children of a file":       {in("f", &Node{Mode: unix.S_IFREG, Children: map[string]*Node{"x": file(0, 0)}}), []string{"/d/f", "children"}},
		"negative size":            {at(0, -1), []string{"/d/f", "-1"}},
		"unaligned offset":         {at(100, 1), []string{"/d/f", "100"}},
		"negative offset":          {at(-4096, 1), []string{"/d/f", "-4096"}},
		"beyond the end":           {at(1<<20, 1), []string{"/d/f", "address space"}},
		"over the end":             {at(1<<20-4096, 4097), []string{"/d/f", "address space"}},
		"overflow":                 {at(1<<12, math.MaxInt64), []string{"/d/f", "address space"}},
		"empty target":             {in("l", symlink("")), []string{"/d/l", "empty symlink target"}},
		"long target":              {in("l", symlink(strings.Repeat("t", 4096))), []string{"/d/l", "4096 bytes"}},
		"nul in target":            {in("l", symlink("a\x00b")), []string{"/d/l", "NUL"}},
		"large device":             {in("c", device(unix.S_IFCHR, 4096, 0)), []string{"/d/c", "4096:0"}},
		"large minor":              {in("c", device(unix.S_IFBLK, 1, 1<<20)), []string{"/d/c", "1:1048576"}},
		"large xattr":              {in("f", &Node{Mode: unix.S_IFREG, Xattrs: x("user.a", 65536)}), []string{"/d/f", "user.a", "65536"}},
		"many large xattrs":        {in("f", &Node{Mode: unix.S_IFREG, Xattrs: five}), []string{"/d/f", "xattrs take"}},
		"xattr name space":         {in("f", &Node{Mode: unix.S_IFREG, Xattrs: x("com.apple.x", 1)}), []string{"/d/f", "com.apple.x"}},
		"xattr without a name":     {in("f", &Node{Mode: unix.S_IFREG, Xattrs: x("user.", 1)}), []string{"/d/f", "user."}},
		"nearly an acl":            {in("f", &Node{Mode: unix.S_IFREG, Xattrs: x("system.posix_acl_access2", 1)}), []string{"/d/f"}},
		"long xattr name":          {in("f", &Node{Mode: unix.S_IFREG, Xattrs: x("user."+strings.Repeat("x", 251), 1)}), []string{"/d/f"}},
		"bad xattr on the root":    {&Node{Mode: unix.S_IFDIR, Xattrs: x("x", 1)}, []string{"/: xattr"}},
		"cycle":                    {in("c", cycle), []string{"/d/c/back/again", "is the directory /d/c again"}},
		"directory in itself":      {self, []string{"/self", "is the directory / again"}},
		"directory with two names": {dir(0, map[string]*Node{"a": twice, "b": twice}), []string{"/b", "is the directory /a again"}},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			var b bytes.Buffer
			err := Write(&b, tt.root, Options{DataSize: 1 << 20})
			if err == nil || b.Len() != 0 {
				t.Fatalf("%v, %d bytes written", err, b.Len())
			}
			for _, part := range tt.want {
				if !strings.Contains(err.Error(), part) {
					t.Errorf("%q is not in %q", part, err)
				}
			}
		})
	}
}

func TestWriteRefusesDataSize(t *testing.T) {
	for _, size := range []int64{-4096, 1, 4095, (maxBlocks + 1) << 12, math.MaxInt64} {
		if err := Write(io.Discard, dir(0, nil), Options{DataSize: size}); err == nil {
			t.Errorf("%d bytes are accepted", size)
		}
	}
}

// The same tree gives the same bytes, whatever the order of its maps; another tree another UUID.
func TestWriteIsDeterministic(t *testing.T) {
	uuids := map[string]uint64{}
	for seed := range uint64(20) {
		tree := func() []byte {
			root, size := randomTree(rand.New(rand.NewPCG(seed, 1)), 300)
			return image(t, root, size)
		}
		first := tree()
		if !bytes.Equal(first, tree()) {
			t.Errorf("seed %d: two images of one tree differ", seed)
		}
		uuid := string(first[superOffset+48:][:16])
		if other, ok := uuids[uuid]; ok {
			t.Errorf("seeds %d and %d give one UUID", seed, other)
		}
		uuids[uuid] = seed
	}
}

// failing is a Writer with room for n bytes.
type failing struct{ n int }

var errFull = errors.New("no space")

func (f *failing) Write(b []byte) (int, error) {
	n := min(len(b), f.n)
	if f.n -= n; n < len(b) {
		return n, errFull
	}
	return n, nil
}

func TestWriteReportsTheWriter(t *testing.T) {
	root := wideTree(10_000)
	size := len(image(t, root, 10_000<<12))
	for _, room := range []int{0, 1, 4096, size / 2, size - 1} {
		if err := Write(&failing{room}, root, Options{DataSize: 10_000 << 12}); !errors.Is(err, errFull) {
			t.Errorf("room for %d of %d bytes: %v", room, size, err)
		}
	}
	if err := Write(&failing{size}, root, Options{DataSize: 10_000 << 12}); err != nil {
		t.Error(err)
	}
}

func TestWriteMemory(t *testing.T) {
	const nodes = 126_000
	root, size := benchTree(nodes)
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	if err := Write(io.Discard, root, Options{DataSize: size}); err != nil {
		t.Fatal(err)
	}
	runtime.ReadMemStats(&after)
	per := (after.TotalAlloc - before.TotalAlloc) / nodes
	t.Logf("%d bytes per node", per)
	if per > 200 {
		t.Errorf("%d bytes per node, 200 are the limit", per)
	}
}

func TestHoldsXattr(t *testing.T) {
	for name, want := range map[string]bool{
		"user.a": true, "trusted.overlay.opaque": true, "security.capability": true,
		"system.posix_acl_access": true, "system.posix_acl_default": true, "user." + strings.Repeat("n", 250): true,
		"": false, "user.": false, "user": false, "system.x": false, "system.posix_acl_access.": false,
		"com.apple.quarantine": false, "lustre.lov": false, "user.a\x00": false, "user." + strings.Repeat("n", 251): false,
	} {
		if got := HoldsXattr(name); got != want {
			t.Errorf("%q: %v", name, got)
		}
	}
}

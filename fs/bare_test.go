package fs

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/opencontainers/go-digest"
	"golang.org/x/sys/unix"
)

// onFUSE reports whether FUSE serves path.
func onFUSE(t *testing.T, path string) bool {
	t.Helper()
	var st unix.Statfs_t
	if err := unix.Statfs(filepath.Dir(path), &st); err != nil {
		t.Fatal(err)
	}
	return st.Type == unix.FUSE_SUPER_MAGIC
}

// xattrOf is the value of an xattr, or the error.
func xattrOf(path, name string) string {
	p := make([]byte, 100)
	n, err := unix.Lgetxattr(path, name, p)
	if err != nil {
		return err.Error()
	}
	return string(p[:n])
}

// bareNode has two layers: the tree of the lower one needs no xattrs, that of the upper one does.
func bareNode(t *testing.T) (n *node, overlay string) {
	t.Helper()
	tagged := regular("both/tagged", []byte("top"))
	tagged.PAXRecords = map[string]string{"SCHILY.xattr.user.tag": "red"}
	top := buildBlob(t, []file{dir("both"), tagged, regular("both/untagged", nil), dir("hidden"), regular("hidden/.wh..wh..opq", nil)})
	bottom := buildBlob(t, []file{dir("both"), regular("both/below", []byte("below")), dir("hidden"), regular("hidden/file", nil)})
	r := newRegistry(t, top, bottom)
	n = newNode(t, Options{Mode: FUSE})
	n.mountLayer(t, r.source(top))
	n.mountLayer(t, r.source(bottom))
	tops, bottoms := n.pathAbove(t, top.digest, bottom.digest), n.pathAbove(t, bottom.digest)
	if filepath.Dir(tops) != n.server.full.dir || filepath.Dir(bottoms) != n.server.bare.dir {
		t.Fatalf("the layers are at %s and %s", tops, bottoms)
	}
	overlay = filepath.Join(t.TempDir(), "overlay")
	mountAt(t, overlay, "overlay", "overlay", 0, "index=off,xino=on,lowerdir="+tops+":"+bottoms+",upperdir="+t.TempDir()+",workdir="+t.TempDir())
	return n, overlay
}

// pathAbove is what an overlay of a layer on others is made of.
func (n *node) pathAbove(t *testing.T, d digest.Digest, below ...digest.Digest) string {
	t.Helper()
	show := n.Path
	if n.Bare(d, below) {
		show = n.BarePath
	}
	path, err := show(d, "holder")
	if err != nil {
		t.Fatal(err)
	}
	return path
}

// TestBare: an overlay of both kinds of trees is as others are, but for the error that says that there is no xattr.
func TestBare(t *testing.T) {
	_, overlay := bareNode(t)
	in := func(name string) string { return filepath.Join(overlay, name) }
	if _, err := os.Lstat(in("hidden/file")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("below an opaque directory: %v", err)
	}
	none, never := unix.ENODATA.Error(), unix.EOPNOTSUPP.Error()
	for _, c := range []struct{ name, xattr, want string }{
		{"both/tagged", "user.tag", "red"}, {"both/tagged", "user.none", none}, {"both/untagged", "user.tag", none}, {"both", "user.tag", none},
		{"both/below", "user.tag", never}, {"both/below", "security.capability", never}, {"both/below", "system.posix_acl_access", none},
	} {
		if got := xattrOf(in(c.name), c.xattr); got != c.want {
			t.Errorf("xattr %s of %s: %s, want %s", c.xattr, c.name, got, c.want)
		}
	}
	if size, err := unix.Llistxattr(in("both/below"), nil); size != 0 || err != nil {
		t.Errorf("list of xattrs: %d bytes, %v", size, err)
	}
	if one, err := sameDevice(in("both/tagged"), in("both/below")); !one || err != nil {
		t.Errorf("both layers are on one device: %v, %v", one, err)
	}
	// In the upper directory there are xattrs.
	if err := unix.Lsetxattr(in("both/below"), "user.tag", []byte("blue"), 0); err != nil {
		t.Fatal(err)
	}
	if got := xattrOf(in("both/below"), "user.tag") + ", " + xattrOf(in("both/below"), "user.none"); got != "blue, "+none {
		t.Errorf("after it was set: %s", got)
	}
}

// TestBareAbove: a tree needs opaque directories only above layers that have something there.
func TestBareAbove(t *testing.T) {
	opaque := buildBlob(t, []file{dir("a"), dir("a/new"), regular("a/new/.wh..wh..opq", nil), regular("a/new/file", nil)})
	other := buildBlob(t, []file{dir("a"), regular("a/file", nil), dir("new")})
	hidden := buildBlob(t, []file{dir("a"), dir("a/new"), regular("a/new/below", nil)})
	r := newRegistry(t, opaque, other, hidden)
	for _, c := range []struct {
		name  string
		mode  Mode
		below []digest.Digest
		bare  bool
	}{
		{"nothing", FUSE, nil, true},
		{"another", FUSE, []digest.Digest{other.digest}, true},
		{"one with the directory", FUSE, []digest.Digest{other.digest, hidden.digest}, false},
		{"itself", FUSE, []digest.Digest{opaque.digest}, false},
		{"unknown", FUSE, []digest.Digest{other.digest, ""}, false},
		{"EROFS", EROFS, nil, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			n := newNode(t, Options{Mode: c.mode})
			for _, l := range []blob{other, hidden, opaque} {
				n.mountLayer(t, r.source(l))
			}
			path := n.pathAbove(t, opaque.digest, c.below...)
			if bare := filepath.Dir(path) == served(filepath.Join(n.root, "state"))[1]; bare != c.bare {
				t.Errorf("%s, want without xattrs: %v", path, c.bare)
			}
			want, size := map[bool]string{true: unix.EOPNOTSUPP.Error(), false: "y"}[c.bare], map[bool]int{false: len(opaqueXattr) + 1}[c.bare]
			if got := xattrOf(filepath.Join(path, "a/new"), opaqueXattr); got != want {
				t.Errorf("the opaque directory says %q, want %q", got, want)
			}
			if got, err := unix.Llistxattr(filepath.Join(path, "a/new"), nil); got != size || err != nil {
				t.Errorf("its list of xattrs has %d bytes, %v, want %d", got, err, size)
			}
		})
	}
}

// TestBareBounds: what takes long to find out is not, and the tree has its xattrs.
func TestBareBounds(t *testing.T) {
	const depth, long = 10, 2000 // names and bytes of a path
	parent := strings.Repeat(strings.Repeat("d", long/depth-1)+"/", depth-1)
	opaque := func(dirs int) (files []file) {
		for i := range dirs {
			name := fmt.Sprintf("%s%0*d", parent, long/depth-1, i)
			files = append(files, dir(name), regular(name+"/.wh..wh..opq", nil))
		}
		return files
	}
	most := buildBlob(t, opaque(maxOpaque/long))
	more := buildBlob(t, opaque(maxOpaque/long+1))
	other := buildBlob(t, []file{dir("a")})
	r := newRegistry(t, most, more, other)
	n := newNode(t, Options{Mode: FUSE})
	for _, l := range []blob{most, more, other} {
		n.mountLayer(t, r.source(l))
	}
	layers := maxLookups / (maxOpaque / long * depth)
	for _, c := range []struct {
		name  string
		layer blob
		below int
		bare  bool
	}{
		{"most directories", most, 1, true},
		{"more directories", more, 1, false},
		{"more directories above nothing", more, 0, false},
		{"most lookups", most, layers, true},
		{"more lookups", most, layers + 1, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			if bare := n.Bare(c.layer.digest, slices.Repeat([]digest.Digest{other.digest}, c.below)); bare != c.bare {
				t.Errorf("needs no xattrs: %v, want %v", bare, c.bare)
			}
		})
	}
}

func sameDevice(a, b string) (bool, error) {
	var sa, sb unix.Stat_t
	err := errors.Join(unix.Lstat(a, &sa), unix.Lstat(b, &sb))
	return sa.Dev == sb.Dev, err
}

package metadata

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// Nodes of every type, and the trees that the tests write.

func dir(perm uint32, children map[string]*Node) *Node {
	return &Node{Mode: unix.S_IFDIR | perm, Mtime: time.Unix(1700000000, 1), Children: children}
}

func file(offset, size int64) *Node {
	return &Node{Mode: unix.S_IFREG | 0o644, Offset: offset, Size: size, Mtime: time.Unix(1600000000, 999999999)}
}

func symlink(target string) *Node { return &Node{Mode: unix.S_IFLNK | 0o777, Target: target} }

func device(mode uint32, major, minor uint32) *Node {
	return &Node{Mode: mode, Rdev: unix.Mkdev(major, minor)}
}

// acl is a valid POSIX ACL as the kernel wants it: version 2, then tag, permission and id of each entry.
func acl() []byte {
	b := le.AppendUint32(nil, 2)
	for _, e := range [...][3]uint32{{0x01, 7, 1<<32 - 1}, {0x02, 5, 1000}, {0x04, 5, 1<<32 - 1}, {0x10, 5, 1<<32 - 1}, {0x20, 4, 1<<32 - 1}} {
		b = le.AppendUint16(b, uint16(e[0]))
		b = le.AppendUint16(b, uint16(e[1]))
		b = le.AppendUint32(b, e[2])
	}
	return b
}

const gib = 1 << 30

// sampleSize is the address space of sampleTree.
const sampleSize = 6 * gib

// sampleTree has one of everything that the format holds, at its limits.
func sampleTree() *Node {
	linked := file(8<<12, 5000)
	linked.Xattrs = map[string][]byte{"user.linked": []byte("yes")}
	setuid := file(16<<12, 1)
	setuid.Mode |= unix.S_ISUID | unix.S_ISGID
	setuid.UID, setuid.GID = 1<<32-2, 70000
	setuid.Xattrs = map[string][]byte{"security.capability": []byte("\x01\x00\x00\x02\x00\x04\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00")}
	sticky := dir(0o777|unix.S_ISVTX, nil)
	sticky.Xattrs = map[string][]byte{"trusted.overlay.opaque": []byte("y"), "system.posix_acl_default": acl()}
	return dir(0o755, map[string]*Node{
		"bin":      dir(0o755, map[string]*Node{"a": linked, "suid": setuid}),
		"linked":   linked,
		"linked-2": linked,
		"dev": dir(0o700, map[string]*Node{
			"null": device(unix.S_IFCHR|0o666, 1, 3),
			"last": device(unix.S_IFCHR|0o600, 4095, 1<<20-1),
			"loop": device(unix.S_IFBLK|0o660, 7, 300),
			"fifo": {Mode: unix.S_IFIFO | 0o600},
			"sock": {Mode: unix.S_IFSOCK | 0o755},
		}),
		"whiteout":       device(unix.S_IFCHR, 0, 0),
		"empty":          file(0, 0),
		"exact":          file(32<<12, 4096),
		"big":            file(1*gib, 4*gib+12345),
		"link":           symlink("bin/a"),
		"long":           symlink(strings.Repeat("t/", 2047) + "t"),
		"longest-inline": symlink(strings.Repeat("i", blockSize-inodeLen)),
		"shortest-block": symlink(strings.Repeat("b", blockSize-inodeLen+1)),
		"sticky":         sticky,
		"xattrs":         sampleXattrs(),
		"times":          sampleTimes(),
		"names":          sampleNames(),
		"deep":           deepTree(300),
	})
}

func sampleXattrs() *Node {
	large := file(40<<12, 100)
	large.Xattrs = map[string][]byte{
		"user.large":                             bytes.Repeat([]byte("0123456789abcdef"), 4096)[:maxXattrValue],
		"user.second":                            bytes.Repeat([]byte("x"), 5000),
		"user.empty":                             {},
		"trusted.t":                              []byte("t"),
		"security.selinux":                       []byte("system_u:object_r:bin_t:s0\x00"),
		"system.posix_acl_access":                acl(),
		"user." + strings.Repeat("n", maxName-5): []byte("long name"),
	}
	link := symlink("nowhere")
	link.Xattrs = map[string][]byte{"trusted.on.symlink": []byte("v")}
	longLink := symlink(strings.Repeat("l", 4000))
	longLink.Xattrs = map[string][]byte{"trusted.on.symlink": []byte("pushes the target out of the inode's block, when it is long enough")}
	null := device(unix.S_IFCHR|0o666, 1, 3)
	null.Xattrs = map[string][]byte{"security.x": []byte("v")}
	sub := dir(0o755, map[string]*Node{"f": file(48<<12, 3)})
	sub.Xattrs = map[string][]byte{"user.fills": bytes.Repeat([]byte("f"), 2*blockSize)}
	empty := file(0, 0)
	empty.Xattrs = map[string][]byte{"user.x": []byte("on an empty file")}
	return dir(0o755, map[string]*Node{"large": large, "link": link, "longlink": longLink, "null": null, "sub": sub, "empty": empty})
}

func sampleTimes() *Node {
	d := dir(0o755, map[string]*Node{})
	for name, at := range map[string]time.Time{
		"zero":   {},
		"epoch":  time.Unix(0, 0),
		"before": time.Unix(-1, 999999999),
		"1901":   time.Unix(-1<<31-1, 5),
		"2038":   time.Unix(1<<31, 5),
		"2106":   time.Unix(1<<32, 123456789),
		"far":    time.Unix(1<<40, 1),
		"past":   time.Unix(-1<<40, 1),
	} {
		d.Children[name] = &Node{Mode: unix.S_IFREG | 0o400, Mtime: at}
	}
	d.Mtime = time.Unix(-62135596800, 7)
	return d
}

// sampleNames has names of every length, around "." and "..", and with bytes above 127.
func sampleNames() *Node {
	d := dir(0o755, map[string]*Node{})
	for n := 1; n <= maxName; n++ {
		d.Children[strings.Repeat("n", n)] = file(0, 0)
		d.Children[strings.Repeat("é", n)[:n/2*2]+"~"[:n%2]] = symlink("x")
	}
	for _, name := range []string{"!", "-", "+", "...", "..a", ".a", "..!", ".\x01", " ", "\n", "*", "日本語"} {
		d.Children[name] = device(unix.S_IFCHR, 0, 0)
	}
	return d
}

func deepTree(depth int) *Node {
	d := dir(0o755, nil)
	for range depth {
		d = dir(0o755, map[string]*Node{"d": d})
	}
	return d
}

// wideTree is one directory of n files.
func wideTree(n int) *Node {
	d := dir(0o755, make(map[string]*Node, n))
	for i := range n {
		d.Children[fmt.Sprintf("file-%d", i)] = file(int64(i)<<12, int64(i%4096))
	}
	return dir(0o755, map[string]*Node{"wide": d})
}

// randomTree is a tree of about n nodes of all types, and the size of its address space.
func randomTree(r *rand.Rand, n int) (*Node, int64) {
	root := dir(0o755, map[string]*Node{})
	dirs, files := []*Node{root}, []*Node{file(0, 0)}
	size := int64(0)
	for range n {
		parent := dirs[r.IntN(len(dirs))]
		node := randomNode(r, files, &size)
		switch node.Mode & unix.S_IFMT {
		case unix.S_IFDIR:
			dirs = append(dirs, node)
		case unix.S_IFREG:
			files = append(files, node)
		}
		parent.Children[randomName(r)] = node
	}
	return root, size
}

func randomNode(r *rand.Rand, files []*Node, size *int64) *Node {
	n := &Node{}
	switch r.IntN(10) {
	case 0, 1:
		n = dir(0, map[string]*Node{})
	case 2:
		n = symlink(strings.Repeat("s", 1+r.IntN(maxTarget)))
	case 3:
		n = device(unix.S_IFCHR, r.Uint32N(4096), r.Uint32N(1<<20))
	case 4:
		n.Mode = []uint32{unix.S_IFIFO, unix.S_IFSOCK}[r.IntN(2)]
	case 5:
		return files[r.IntN(len(files))]
	default:
		n = file(*size, r.Int64N(20000))
		*size += roundUp(n.Size, blockSize)
	}
	if n.Mode&unix.S_IFMT != unix.S_IFLNK {
		n.Mode |= r.Uint32N(0o10000)
	}
	n.UID, n.GID = r.Uint32N(1<<32-1), r.Uint32N(1<<32-1)
	n.Mtime = time.Unix(r.Int64N(1<<34)-1<<33, r.Int64N(1e9))
	for range max(0, r.IntN(6)-3) {
		if n.Xattrs == nil {
			n.Xattrs = map[string][]byte{}
		}
		value := bytes.Repeat([]byte{byte(r.IntN(256))}, r.IntN(3000))
		n.Xattrs["trusted."+randomName(r)[:1]] = value
	}
	return n
}

func randomName(r *rand.Rand) string {
	const letters = "!+-.0AZ_az~"
	name := make([]byte, 1+r.IntN([]int{3, 20, maxName}[r.IntN(3)]))
	for i := range name {
		name[i] = letters[r.IntN(len(letters))]
	}
	if s := string(name); s != "." && s != ".." {
		return s
	}
	return "dots"
}

// image writes the image of a tree and returns its bytes.
func image(t testing.TB, root *Node, dataSize int64) []byte {
	t.Helper()
	var b bytes.Buffer
	if err := Write(&b, root, Options{DataSize: dataSize}); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// open opens an image through a file, as its users do.
func open(t testing.TB, data []byte) *Image {
	t.Helper()
	path := filepath.Join(t.TempDir(), "meta.erofs")
	if err := os.WriteFile(path, data, 0o600); err != nil {
		t.Fatal(err)
	}
	im, err := Open(path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := im.Close(); err != nil {
			t.Error(err)
		}
	})
	return im
}

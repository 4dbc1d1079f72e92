package fs

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/hanwen/go-fuse/v2/fuse"
	"github.com/opencontainers/go-digest"
	"golang.org/x/sys/unix"
)

// padding is what objects have between what a linker reads of them.
const padding = 900 << 10

// maker makes objects with the compiler that the race detector needs too.
type maker struct {
	t       *testing.T
	dir     string
	padding int // bytes of the next object
	count   uint64
}

// object is a library with padding that needs others, or with -pie a program.
func (m *maker) object(name string, args ...string) []byte {
	m.t.Helper()
	m.count++
	pad, source, out := filepath.Join(m.dir, "pad"), filepath.Join(m.dir, "pad.s"), filepath.Join(m.dir, name)
	code := fmt.Sprintf(".section .rodata\n.globl of_%d\nof_%d: .incbin %q\n.data\n.globl d_%d\nd_%d: .quad of_%d\n",
		m.count, m.count, pad, m.count, m.count, m.count)
	m.write(pad, noise(m.count, m.padding))
	m.write(source, []byte(code))
	kind := []string{"-shared", "-Wl,-soname," + name}
	if len(args) > 0 && args[0] == "-pie" {
		kind = []string{"-Wl,-e,0", "-Wl,--dynamic-linker=/lib64/ld-linux-x86-64.so.2"}
	}
	args = append(append(kind, "-nostdlib", "-Wl,--no-as-needed", "-Wl,--allow-shlib-undefined", "-L"+m.dir, "-o", out, source), args...)
	if output, err := exec.Command("gcc", args...).CombinedOutput(); err != nil {
		m.t.Fatalf("gcc %q: %v: %s", args, err, output)
	}
	p, err := os.ReadFile(out)
	if err != nil {
		m.t.Fatal(err)
	}
	return p
}

func (m *maker) write(name string, p []byte) {
	m.t.Helper()
	err := os.MkdirAll(filepath.Dir(name), 0o755)
	if err == nil {
		err = os.WriteFile(name, p, 0o600)
	}
	if err != nil {
		m.t.Fatal(err)
	}
}

// cache is /etc/ld.so.cache of an image that has a library in a folder that is not usual.
func (m *maker) cache(name string, p []byte) []byte {
	m.t.Helper()
	root := filepath.Join(m.dir, "image")
	m.write(filepath.Join(root, name), p)
	m.write(filepath.Join(root, "etc/ld.so.conf"), []byte(filepath.Dir("/"+name)+"\n"))
	if output, err := exec.Command("/sbin/ldconfig", "-r", root).CombinedOutput(); err != nil {
		m.t.Fatalf("ldconfig: %v: %s", err, output)
	}
	cache, err := os.ReadFile(filepath.Join(root, "etc/ld.so.cache"))
	if err != nil {
		m.t.Fatal(err)
	}
	return cache
}

// What programImage has that is needed by its program, by layers, and what is not though it lies in between.
var (
	neededAbove = []string{"usr/lib/app/libone.so", "usr/lib/app/libplugin.so"}
	neededBelow = []string{"usr/lib/libtwo.so", "opt/odd/libthree.so", "usr/lib/libfour.so.4.5", neededBig}
	neededBig   = "usr/lib/libbig.so"
	unneeded    = []string{"usr/lib/app/libother.so", "usr/lib/libfive.so", "usr/lib/libone.so"}
)

// programImage is two layers, the upper one first. Its program finds libone by its RUNPATH, that libplugin by an RPATH; libtwo is in a usual
// folder of the lower layer, libthree, which that needs, in the cache, and libfour, which all need, behind a symlink.
func programImage(t *testing.T) []blob {
	t.Helper()
	m := &maker{t: t, dir: t.TempDir(), padding: padding}
	four := m.object("libfour.so.4")
	m.padding = codeObject
	big := m.object("libbig.so")
	m.padding = padding
	three := m.object("libthree.so", "-l:libfour.so.4", "-l:libbig.so")
	two := m.object("libtwo.so", "-l:libthree.so")
	plugin := m.object("libplugin.so", "-l:libfour.so.4")
	one := m.object("libone.so", "-l:libplugin.so", "-l:libfour.so.4", "-Wl,--disable-new-dtags,-rpath,${ORIGIN}")
	program := m.object("program", "-pie", "-l:libone.so", "-l:libtwo.so", "-Wl,--enable-new-dtags,-rpath,$ORIGIN/../lib/app")
	above := buildBlob(t, []file{
		dir("usr"), dir("usr/bin"), dir("usr/lib"), dir("usr/lib/app"), regular("usr/lib/app/libplugin.so", plugin),
		regular("usr/lib/app/libother.so", m.object("libother.so")), regular("usr/lib/app/libone.so", one),
		regular("usr/bin/program", program), regular("usr/bin/zzz", noise(99, 4<<20)), // what is read ahead of the program's first read
	})
	below := buildBlob(t, []file{
		dir("etc"), dir("lib64"), dir("opt"), dir("opt/odd"), dir("usr"), dir("usr/lib"),
		text("etc/passwd", "root:x:0:0:root:/root:/bin/sh\n"), text("etc/group", strings.Repeat("root:x:0:\n", 10_000)), text("etc/shadow", "root:*:::::::\n"),
		regular("etc/ld.so.cache", m.cache("opt/odd/libthree.so", three)),
		regular("lib64/ld-linux-x86-64.so.2", m.object("ld-linux-x86-64.so.2")),
		regular(neededBig, big), regular("usr/lib/libtwo.so", two), regular("usr/lib/libfive.so", m.object("libfive.so")), regular("opt/odd/libthree.so", three),
		regular("usr/lib/libone.so", m.object("libone.so")), regular("usr/lib/libfour.so.4.5", four), symlink("usr/lib/libfour.so.4", "libfour.so.4.5"),
	})
	return []blob{above, below}
}

// programNode is a node with an image's layers mounted, and where its program is.
type programNode struct {
	*node
	registry *registry
	chain    []digest.Digest
	program  string
	content  string // folder of containerd's content store; "" if there is none
}

func newProgramNode(t *testing.T, mode Mode, layers []blob) *programNode {
	t.Helper()
	r := newRegistry(t, upward(layers)...)
	return mountProgram(t, Options{Mode: mode}, r, layers, r.source)
}

func mountProgram(t *testing.T, o Options, r *registry, layers []blob, source func(blob) Source) *programNode {
	t.Helper()
	p := &programNode{node: newNode(t, o), registry: r}
	for _, l := range upward(layers) {
		p.program = filepath.Join(p.mountLayer(t, source(l)), "usr/bin/program")
		p.chain = append([]digest.Digest{l.digest}, p.chain...)
	}
	return p
}

// upward returns layers as a manifest has them: the topmost last.
func upward(layers []blob) []blob {
	layers = slices.Clone(layers)
	slices.Reverse(layers)
	return layers
}

// wait is what the snapshotter does before a container starts.
func (p *programNode) wait(t *testing.T) {
	t.Helper()
	if err := p.Wait(t.Context(), p.chain); err != nil {
		t.Fatal(err)
	}
}

// has counts the chunks that the store has of bytes [from, to) of a file, of all that there are.
func (p *programNode) has(t *testing.T, name string, from, to int64) (n, all int) {
	t.Helper()
	p.withChain(p.chain, func(c chain) {
		e, ok := c.file(name, newLooks())
		if !ok {
			t.Fatalf("there is no %s", name)
		}
		if to <= 0 {
			to += e.size
		}
		if from < 0 {
			from += e.size
		}
		store := e.layer.Store()
		for i := store.Find(e.off + from); i < store.NumChunks() && store.Chunk(i).DataOffset < e.off+to; i++ {
			if all++; store.Has(i) {
				n++
			}
		}
	})
	return n, all
}

// arrives fails the test unless bytes of a file come into the store.
func (p *programNode) arrives(t *testing.T, name string, from, to int64) {
	t.Helper()
	eventually(t, fmt.Sprintf("bytes %d to %d of %s", from, to, name), func() bool {
		n, all := p.has(t, name, from, to)
		return n == all && all > 0
	})
}

// running counts the FS's tasks.
func (p *programNode) running() int {
	p.tasks.mu.Lock()
	defer p.tasks.mu.Unlock()
	return len(p.tasks.cancels)
}

// quiet waits until nothing is looked for or on its way: each layer has one task, which waits for all of it.
func (p *programNode) quiet(t *testing.T) {
	t.Helper()
	eventually(t, "end of what is looked for", func() bool { return p.running() <= len(p.chain) && p.opts.Scheduler.Inflight() == 0 })
}

// readFirst reads the first n bytes of the program, as much at a time as is asked for.
func (p *programNode) readFirst(t *testing.T, n, step int) {
	t.Helper()
	fd, err := unix.Open(p.program, unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fd)
	buf := make([]byte, step)
	for off := 0; off < n; off += step {
		if _, err := unix.Pread(fd, buf, int64(off)); err != nil {
			t.Fatal(err)
		}
	}
}

// TestProgram: when a program begins to be read, what a linker will read of all that it needs comes by itself, and nothing else.
func TestProgram(t *testing.T) {
	layers := programImage(t)
	inModes(t, func(t *testing.T, mode Mode) {
		p := newProgramNode(t, mode, layers)
		p.quiet(t)
		p.hasNone(t, "etc/passwd")
		p.wait(t)
		for _, name := range []string{"etc/passwd", "etc/group", "etc/ld.so.cache", "lib64/ld-linux-x86-64.so.2"} {
			p.arrives(t, name, 0, 0)
		}
		for _, name := range append([]string{"etc/shadow"}, append(neededAbove, neededBelow...)...) {
			if n, _ := p.has(t, name, 0, 0); n > 0 {
				t.Errorf("%d chunks of %s came before the program began", n, name)
			}
		}
		p.readFirst(t, 4096, 4096)
		for _, name := range append(neededAbove, neededBelow...) {
			if name != neededBig {
				p.arrives(t, name, 0, 0)
			}
		}
		p.arrives(t, neededBig, 0, headSize)
		p.arrives(t, neededBig, -tailSize, 0)
		p.quiet(t)
		for _, name := range unneeded {
			if n, _ := p.has(t, name, 0, 0); n > 0 {
				t.Errorf("%d chunks of %s, which is not needed, came", n, name)
			}
		}
		if n, _ := p.has(t, neededBig, 256<<10, 512<<10); n > 0 {
			t.Errorf("%d chunks of the middle of %s came", n, neededBig)
		}
		for i, l := range layers {
			compare(t, p.path(t, l, fmt.Sprint(i)), l.files)
		}
	})
}

// TestProgramCopied: who copies a program does not run it.
func TestProgramCopied(t *testing.T) {
	layers := programImage(t)
	inModes(t, func(t *testing.T, mode Mode) {
		p := newProgramNode(t, mode, layers)
		p.wait(t)
		p.readFirst(t, padding, 256<<10)
		p.withChain(p.chain, func(c chain) {
			for _, l := range c {
				l.begun.mu.Lock()
				defer l.begun.mu.Unlock()
				if len(l.begun.set) > 0 {
					t.Errorf("%v are taken for programs that begin", l.begun.set)
				}
			}
		})
		for _, name := range neededBelow {
			if n, _ := p.has(t, name, 0, 0); n > 0 {
				t.Errorf("%d chunks of %s came", n, name)
			}
		}
	})
}

// begin reads the program's first page without the kernel, which may have it.
func (p *programNode) begin(t *testing.T, layers []blob) {
	t.Helper()
	m, err := p.lookup(layers[0].digest)
	if err != nil {
		t.Fatal(err)
	}
	in := fuse.ReadIn{InHeader: fuse.InHeader{NodeId: treeNode(m.shown.id, p.nid(t, m.shown, "usr/bin/program"))}}
	result, code := p.server.Read(nil, &in, make([]byte, 4096))
	if !code.Ok() {
		t.Fatal(code)
	}
	result.Done()
}

func (p *programNode) nid(t *testing.T, l *shown, name string) uint64 {
	t.Helper()
	nid := l.image.Root()
	for part := range strings.SplitSeq(name, "/") {
		var err error
		if nid, err = l.image.Lookup(nid, part); err != nil {
			t.Fatal(name, err)
		}
	}
	return nid
}

// TestProgramUnmounted: a layer that goes while what a program needs is on its way leaves nothing behind.
func TestProgramUnmounted(t *testing.T) {
	layers := programImage(t)
	for i, name := range []string{"upper", "lower"} {
		t.Run(name, func(t *testing.T) {
			p := newProgramNode(t, FUSE, layers)
			p.wait(t)
			p.quiet(t)
			p.readFirst(t, len(layers[0].files[7].data), 256<<10)
			before := len(goroutines())
			p.registry.stall()
			p.begin(t, layers)
			await(t, "request", p.registry.waiting)
			ended := make(chan struct{})
			go func() {
				defer close(ended)
				if err := p.Unmount(t.Context(), layers[i].digest); err != nil {
					t.Error(err)
				}
			}()
			await(t, "end of the layer", ended)
			p.registry.release()
			eventually(t, "goroutines", func() bool { return len(goroutines()) <= before })
			p.close(t) // which looks for mounts
		})
	}
}

// TestProgramWithoutRegistry: what could not be fetched ahead is fetched by who reads it, once the registry is back.
func TestProgramWithoutRegistry(t *testing.T) {
	layers := programImage(t)
	inModes(t, func(t *testing.T, mode Mode) {
		p := newProgramNode(t, mode, layers)
		p.wait(t)
		p.quiet(t)
		p.readFirst(t, len(layers[0].files[7].data), 256<<10)
		requests := p.registry.blobs.Load()
		p.registry.fail.Store(503)
		p.begin(t, layers)
		eventually(t, "requests that fail", func() bool { return p.registry.blobs.Load() > requests })
		p.quiet(t)
		p.registry.fail.Store(0)
		for i, l := range layers {
			compare(t, p.path(t, l, fmt.Sprint(i)), l.files)
		}
	})
}

// TestProgramHostile: objects that need each other, or what there is not, end.
func TestProgramHostile(t *testing.T) {
	m := &maker{t: t, dir: t.TempDir(), padding: padding}
	m.object("libloop.so") // for the other to be linked with
	second := m.object("libback.so", "-l:libloop.so")
	first := m.object("libloop.so", "-l:libback.so", "-Wl,-rpath,/usr/lib:/loop:/nowhere")
	program := m.object("program", "-pie", "-l:libloop.so", "-l:libback.so")
	broken := bytes.Clone(first)
	clear(broken[padding:])
	l := buildBlob(t, []file{
		dir("usr"), dir("usr/bin"), dir("usr/lib"), dir("lib"), symlink("loop", "loop"), regular("usr/bin/program", program),
		regular("usr/lib/libloop.so", first), regular("usr/lib/libback.so", second), regular("lib/libback.so", broken),
	})
	p := newProgramNode(t, FUSE, []blob{l})
	p.wait(t)
	p.readFirst(t, 4096, 4096)
	p.arrives(t, "usr/lib/libloop.so", -tailSize, 0)
	p.arrives(t, "lib/libback.so", -tailSize, 0)
	p.quiet(t)
	compare(t, p.path(t, l, "x"), l.files)
}

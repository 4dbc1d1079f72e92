package fs

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"
	"unsafe"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"
)

const stalledSize = 4 << 20

// TestStallOthers: however much of a layer is read ahead from a registry that hangs, layers that are on disk are read.
func TestStallOthers(t *testing.T) {
	slowLayer := buildBlob(t, []file{regular("file", make([]byte, stalledSize))})
	other := buildBlob(t, []file{regular("other", noise(1, 3<<20))})
	for _, mode := range []Mode{EROFS, FUSE} { // a loop device has 128 READs under way, and whoever wants more waits in the kernel
		t.Run(string(mode), func(t *testing.T) { testStallOthers(t, mode, slowLayer, other) })
	}
}

func testStallOthers(t *testing.T, mode Mode, slowLayer, other blob) {
	hanging, answering := newRegistry(t, slowLayer), newRegistry(t, other)
	n := newNode(t, Options{Mode: mode, NoNative: true})
	path, otherPath := n.mountLayer(t, hanging.source(slowLayer)), n.mountLayer(t, answering.source(other))
	compare(t, otherPath, other.files)
	fd, otherFD := openFile(t, filepath.Join(path, "file")), openFile(t, filepath.Join(otherPath, "other"))
	if err := unix.Fadvise(otherFD, 0, 0, unix.FADV_DONTNEED); err != nil {
		t.Fatal(err)
	}
	hanging.stall()
	var ahead sync.WaitGroup
	defer ahead.Wait()
	defer hanging.release()
	ahead.Go(func() { // which is stuck itself if the kernel takes no more
		for off := int64(0); off < stalledSize; off += 4096 { // each a request of its own, for which nobody waits
			if err := unix.Fadvise(fd, off, 4096, unix.FADV_WILLNEED); err != nil {
				t.Error(err)
			}
		}
	})
	eventually(t, "waiting reads", func() bool { return n.server.waiting.Load() >= 512 })
	read := make(chan struct{})
	go func() {
		defer close(read)
		got := make([]byte, 3<<20)
		if k, err := unix.Pread(otherFD, got, 0); err != nil || k != len(got) {
			t.Errorf("the other layer: %d bytes, %v", k, err)
		}
	}()
	select {
	case <-read:
	case <-time.After(slow):
		t.Error("a layer that is on disk cannot be read")
	}
	hanging.release()
	<-read
	ahead.Wait()
	eventually(t, "end of the waiting reads", func() bool { return n.server.waiting.Load() == 0 })
}

func openFile(t *testing.T, path string) int {
	t.Helper()
	fd, err := unix.Open(path, unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = unix.Close(fd) })
	return fd
}

// TestWaitingMemory: beyond a number of them, READs that wait have no memory, get the right bytes all the same, and give back what
// these took.
func TestWaitingMemory(t *testing.T) {
	want := noise(1, 1<<20)
	l := buildBlob(t, []file{regular("file", want)})
	for _, c := range []struct {
		name    string
		waiting int64
		keeps   bool
	}{{"few", 0, true}, {"many", maxBuffered, false}} {
		t.Run(c.name, func(t *testing.T) {
			r := newRegistry(t, l)
			n := newNode(t, Options{Mode: FUSE})
			read := n.reader(t, r, l, "file")
			n.server.waiting.Add(c.waiting)
			r.stall()
			whole := dirty(t, len(want)+8192)
			buf := whole[100 : 100+len(want)]
			answers := make(chan answer)
			go func() { answers <- read(buf) }()
			await(t, "request", r.waiting)
			eventually(t, "the wait", func() bool { return n.server.waiting.Load() > c.waiting })
			if c.keeps {
				if got := resident(t, whole); got != len(whole) {
					t.Errorf("%d bytes of the buffer are in memory, want %d", got, len(whole))
				}
			} else {
				eventually(t, "the buffer's end", func() bool { return resident(t, whole) <= 4*os.Getpagesize() })
			}
			r.release()
			got := <-answers
			if !got.code.Ok() || !bytes.Equal(buf, want) {
				t.Fatalf("read: %v, or other bytes", got.code)
			}
			got.result.Done()
			if got := resident(t, whole); !c.keeps && got > 4*os.Getpagesize() {
				t.Errorf("%d bytes of the buffer are in memory when it was sent", got)
			}
			if got := n.server.waiting.Load(); got != c.waiting {
				t.Errorf("%d wait afterwards, want %d", got, c.waiting)
			}
			if around := bytes.Count(whole[:100], []byte{1}) + bytes.Count(whole[100+len(want):], []byte{1}); around != 8192 {
				t.Errorf("%d bytes around the buffer are as before, want 8192", around)
			}
		})
	}
}

// TestArrivedMemory: when a registry answers again, few of the READs that it kept waiting have memory at a time, and those of what is
// on disk do not queue behind them.
func TestArrivedMemory(t *testing.T) {
	const count, size = maxBuffered + maxFilling + 16, 1 << 20
	want, onDisk := noise(1, size), noise(2, size)
	l := buildBlob(t, []file{regular("file", want), regular("on disk", onDisk)})
	r := newRegistry(t, l)
	n := newNode(t, Options{Mode: FUSE})
	read, other := n.reader(t, r, l, "file"), n.reader(t, r, l, "on disk")
	check := func(got answer, buf, want []byte) {
		t.Helper()
		if !got.code.Ok() || !bytes.Equal(buf, want) {
			t.Fatalf("read: %v, or other bytes", got.code)
		}
		got.result.Done()
	}
	buf := make([]byte, size)
	check(other(buf), buf, onDisk)

	r.stall()
	whole := dirty(t, count*size)
	part := func(i int) []byte { return whole[i*size:][:size:size] }
	answers := make(chan answer, count)
	for i := range count {
		go func() {
			got := read(part(i))
			got.reader = i
			answers <- got
		}()
	}
	eventually(t, "waiting reads", func() bool { return n.server.waiting.Load() == count })
	r.release()
	var unsent []answer
	for range maxBuffered + maxFilling {
		unsent = append(unsent, <-answers)
	}
	check(other(buf), buf, onDisk)
	if more := len(answers); more > 0 {
		t.Errorf("%d READs more have their bytes", more)
	}
	if got := resident(t, whole); got > (maxBuffered+maxFilling)*size {
		t.Errorf("%d MiB in memory", got>>20)
	}
	for _, got := range unsent {
		check(got, part(got.reader), want)
	}
	for range count - len(unsent) {
		got := <-answers
		check(got, part(got.reader), want)
	}
	if got := resident(t, whole); got > maxBuffered*size {
		t.Errorf("%d MiB in memory when all was sent", got>>20)
	}
	if got := n.server.waiting.Load(); got != 0 {
		t.Errorf("%d wait in the end", got)
	}
}

// answer is that to a READ, which is not sent.
type answer struct {
	result fuse.ReadResult
	code   fuse.Status
	reader int
}

// reader mounts a layer, and returns what serves a READ of one of its files without the kernel.
func (n *node) reader(t *testing.T, r *registry, l blob, name string) func(buf []byte) answer {
	t.Helper()
	n.mountLayer(t, r.source(l))
	m, err := n.lookup(l.digest)
	if err != nil {
		t.Fatal(err)
	}
	nid, err := m.shown.image.Lookup(m.shown.image.Root(), name)
	if err != nil {
		t.Fatal(err)
	}
	in := fuse.ReadIn{InHeader: fuse.InHeader{NodeId: treeNode(m.shown.id, nid)}}
	return func(buf []byte) (got answer) {
		got.result, got.code = n.server.Read(nil, &in, buf)
		return got
	}
}

// dirty is memory that was written to.
func dirty(t *testing.T, size int) []byte {
	t.Helper()
	p, err := unix.Mmap(-1, 0, size, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANON)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = unix.Munmap(p) })
	for i := range p {
		p[i] = 1
	}
	return p
}

// resident is how many bytes of a mapping have memory.
func resident(t *testing.T, p []byte) int {
	t.Helper()
	page := os.Getpagesize()
	pages := make([]byte, (len(p)+page-1)/page)
	_, _, errno := unix.Syscall(unix.SYS_MINCORE, uintptr(unsafe.Pointer(&p[0])), uintptr(len(p)), uintptr(unsafe.Pointer(&pages[0])))
	if errno != 0 {
		t.Fatal(errno)
	}
	return bytes.Count(pages, []byte{1}) * page
}

// TestNoPipes: what is read is written to the kernel as it is, and not by a pipe.
func TestNoPipes(t *testing.T) {
	l := buildBlob(t, []file{regular("file", noise(1, 300_000))})
	r := newRegistry(t, l)
	for _, mode := range []Mode{EROFS, FUSE} {
		n := newNode(t, Options{Mode: mode})
		before := pipes(t)
		compare(t, n.mountLayer(t, r.source(l)), l.files)
		if after := pipes(t); after != before {
			t.Errorf("%s: %d pipes, %d before", mode, after, before)
		}
	}
}

// pipes counts the descriptors of this process that are pipes.
func pipes(t *testing.T) (n int) {
	t.Helper()
	const dir = "/proc/self/fd"
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		if to, err := os.Readlink(filepath.Join(dir, e.Name())); err == nil && strings.HasPrefix(to, "pipe:") {
			n++
		}
	}
	return n
}

package cache

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"testing"

	"github.com/opencontainers/go-digest"
	"golang.org/x/sys/unix"
)

// copyAll copies what there is of l in other layers, and returns which chunks that were.
func copyAll(t *testing.T, l *Layer, share bool) (got []int) {
	t.Helper()
	from := l.Sources()
	defer closeAll(t, from)
	buf := make([]byte, 1<<20)
	for i := range l.NumChunks() {
		has, err := from.Has(i), from.Copy(i, buf, share)
		switch {
		case err == nil:
			got = append(got, i)
		case !errors.Is(err, ErrNoCopy):
			t.Errorf("chunk %d: %v", i, err)
		}
		if err == nil && !has {
			t.Errorf("chunk %d was copied, and nobody has it", i)
		}
	}
	return got
}

// TestCopyFromOthers has chunks of a layer in two others, in one more that lacks them, and in a plain one.
func TestCopyFromOthers(t *testing.T) {
	root := t.TempDir()
	store := openStore(t, root, bootA)
	defer closeAll(t, store)
	a, b, c, d := noise(1, 5000), noise(2, 100), noise(3, 70_000), noise(4, 4096)
	first := layerOf("first", c, a)
	second := layerOf("second", b)
	lacks := layerOf("lacks", d)
	before := first.create(t, store)
	first.put(t, before, 0, 1)
	closeAll(t, before)
	want := layerOf("new", a, b, c, d)
	l := want.create(t, store)
	defer closeAll(t, l)
	if got := copyAll(t, l, false); len(got) != 2 {
		t.Errorf("copied chunks %v of the first layer, want 0 and 2", got)
	}
	want.check(t, l, 0, 2)

	after, empty := second.create(t, store), lacks.create(t, store) // which come later
	defer closeAll(t, after, empty)
	second.put(t, after, 0)
	filled, err := store.Fill(digest.FromString("plain"), func(f *Filling) (Info, error) {
		_, err := f.WriteAt(d, 0)
		return Info{Format: "tar", BlobSize: 1, DataSize: 4096}, err
	})
	if err != nil {
		t.Fatal(err)
	}
	defer closeAll(t, filled)
	copyAll(t, l, false)
	want.check(t, l, 0, 1, 2)
	lacks.put(t, empty, 0)
	copyAll(t, l, false)
	want.check(t, l, 0, 1, 2, 3)
}

// TestCopyOfEarlierBoot has the source's chunks be claims: what the disk has lost of them is not copied.
func TestCopyOfEarlierBoot(t *testing.T) {
	root := t.TempDir()
	store := openStore(t, root, bootA)
	old := layerOf("old", noise(1, 5000), noise(2, 5000))
	l := old.create(t, store)
	old.put(t, l, 0, 1)
	closeAll(t, l, store)
	store = openStore(t, root, bootB)
	defer closeAll(t, store)
	change(t, filepath.Join(store.layerDir(old.digest), dataName), old.chunks[1].DataOffset)
	fresh := layerOf("new", old.data...)
	n := fresh.create(t, store)
	defer closeAll(t, n)
	copyAll(t, n, true)
	fresh.check(t, n, 0)
}

// change changes a byte of a file.
func change(t *testing.T, name string, off int64) {
	t.Helper()
	f, err := os.OpenFile(name, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	b := []byte{0}
	if _, err := f.ReadAt(b, off); err != nil {
		t.Fatal(err)
	}
	b[0]++
	if _, err := f.WriteAt(b, off); err != nil {
		t.Fatal(err)
	}
}

// TestCopyFromDamaged copies from layers whose data file or index is not what it was: the right bytes come, or none.
func TestCopyFromDamaged(t *testing.T) {
	contents := [][]byte{noise(1, 5000), noise(2, 5000), noise(3, 5000)}
	index := func(damage func(b []byte) []byte) func(t *testing.T, dir string) {
		return func(t *testing.T, dir string) {
			name := filepath.Join(dir, indexName)
			b, err := os.ReadFile(name)
			if err == nil {
				err = os.WriteFile(name, damage(b), 0o600)
			}
			if err != nil {
				t.Fatal(err)
			}
		}
	}
	misplace := func(how string) func(t *testing.T, dir string) {
		return func(t *testing.T, dir string) {
			if err := tamperings[how](filepath.Join(dir, indexName)); err != nil {
				t.Fatal(err)
			}
		}
	}
	numbers := func(change func(k int) uint32) func(b []byte) []byte {
		return func(b []byte) []byte {
			for k := range contents {
				at := recordsHeader + k*indexRecords.size + 8
				n := change(k)
				b[at], b[at+1], b[at+2], b[at+3] = byte(n), byte(n>>8), byte(n>>16), byte(n>>24)
			}
			return b
		}
	}
	for name, c := range map[string]struct {
		damage func(t *testing.T, dir string)
		want   int
	}{
		"nothing":   {func(*testing.T, string) {}, 3},
		"data":      {func(t *testing.T, dir string) { change(t, filepath.Join(dir, dataName), 8192) }, 2},
		"no index":  {func(t *testing.T, dir string) { _ = os.Remove(filepath.Join(dir, indexName)) }, 0},
		"zeros":     {index(func(b []byte) []byte { return make([]byte, len(b)) }), 0},
		"empty":     {index(func([]byte) []byte { return nil }), 0},
		"cut":       {index(func(b []byte) []byte { return b[:len(b)-5] }), 0},
		"version":   {index(func(b []byte) []byte { b[8]++; return b }), 0},
		"too far":   {index(numbers(func(k int) uint32 { return uint32(k) + 1<<31 })), 0},
		"others":    {index(numbers(func(int) uint32 { return 1 })), 1},
		"no record": {index(func(b []byte) []byte { clear(b[recordsHeader:]); return b }), 0},
		"FIFO":      {misplace("fifo"), 0},
		"folder":    {misplace("directory"), 0},
		"symlink":   {misplace("symlink"), 0},
	} {
		t.Run(name, func(t *testing.T) {
			store := openStore(t, t.TempDir(), bootA)
			defer closeAll(t, store)
			old, fresh := layerOf("old", contents...), layerOf("new", contents...)
			o := old.create(t, store)
			defer closeAll(t, o)
			old.put(t, o, 0, 1, 2)
			c.damage(t, store.layerDir(old.digest))
			l := fresh.create(t, store)
			defer closeAll(t, l)
			got := copyAll(t, l, false)
			fresh.check(t, l, got...)
			if len(got) != c.want {
				t.Errorf("copied %v, want %d chunks", got, c.want)
			}
		})
	}
}

// TestCopyWhileRemoved copies from layers that others remove and make again meanwhile.
func TestCopyWhileRemoved(t *testing.T) {
	store := openStore(t, t.TempDir(), bootA)
	defer closeAll(t, store)
	contents := [][]byte{noise(1, 5000), noise(2, 5000), noise(3, 5000)}
	old := layerOf("old", contents...)
	stop := make(chan struct{})
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			select {
			case <-stop:
				return
			default:
			}
			l, err := store.Create(old.digest, old.info(), old.build)
			if err != nil {
				t.Error(err)
				return
			}
			for i, p := range old.data {
				if err := l.Put(i, p); err != nil {
					t.Error(err)
				}
			}
			if err := errors.Join(store.Remove(old.digest), l.Close()); err != nil {
				t.Error(err)
			}
		}
	})
	for i := range 100 {
		fresh := layerOf(fmt.Sprint("new ", i), contents...)
		l := fresh.create(t, store)
		fresh.check(t, l, copyAll(t, l, false)...)
		if err := errors.Join(store.Remove(fresh.digest), l.Close()); err != nil {
			t.Error(err)
		}
	}
	close(stop)
	wg.Wait()
}

// TestCopyShares has a file system share what is copied, and copies what it cannot share.
func TestCopyShares(t *testing.T) {
	if _, err := exec.LookPath("mkfs.xfs"); err != nil || os.Geteuid() != 0 {
		t.Skip("needs root and mkfs.xfs")
	}
	dir := t.TempDir()
	image, root := filepath.Join(dir, "image"), filepath.Join(dir, "root")
	if err := errors.Join(os.Mkdir(root, 0o755), os.WriteFile(image, nil, 0o600), os.Truncate(image, 400<<20)); err != nil {
		t.Fatal(err)
	}
	runTool(t, "mkfs.xfs", "-q", "-m", "reflink=1", image)
	mountDisk(t, root, "-o", "loop", image)
	store := openStore(t, root, bootA)
	defer closeAll(t, store)
	a, b, c := noise(1, 3<<20), noise(2, 100_001), noise(3, 4096)
	old := layerOf("old", a, b, c)
	o := old.create(t, store)
	defer closeAll(t, o)
	old.put(t, o, 0, 1, 2)
	if err := o.data.Sync(); err != nil {
		t.Fatal(err)
	}
	fresh := layerOf("new", noise(4, 10), b, a, c)
	l := fresh.create(t, store)
	defer closeAll(t, l)
	free := func() int64 {
		var st unix.Statfs_t
		unix.Sync()
		if err := unix.Statfs(root, &st); err != nil {
			t.Fatal(err)
		}
		return int64(st.Bfree) * st.Bsize
	}
	had := free()
	copyLarge := func(l *Layer) {
		from := l.Sources()
		defer closeAll(t, from)
		buf := make([]byte, 4<<20)
		for i := 1; i < 4; i++ {
			if err := from.Copy(i, buf, true); err != nil {
				t.Error(err)
			}
		}
	}
	copyLarge(l)
	fresh.check(t, l, 1, 2, 3)
	if took := had - free(); took > 1<<20 {
		t.Errorf("copying took %d bytes of the disk", took)
	}
	// What the page cache has is right, and what the disk has, which would be shared, is not: the right bytes are written.
	tampered := layerOf("tampered", noise(5, 10), b, a, c)
	l2 := tampered.create(t, store)
	defer closeAll(t, l2)
	if !l2.cloneChunk(2, o, 0, a) || l2.cloneChunk(1, o, 1, append(bytes.Clone(b[:len(b)-1]), b[len(b)-1]+1)) || l2.cloneChunk(1, o, 2, b[:4096]) {
		t.Error("a clone is not compared with what it is to be")
	}
	tampered.check(t, l2, 2)
	if store.noClone.Load() {
		t.Error("the file system counts as one that cannot share")
	}
}

// TestManyLayersOpenNothing looks for chunks in many layers: nothing stays open or mapped but what has some.
func TestManyLayersOpenNothing(t *testing.T) {
	store := openStore(t, t.TempDir(), bootA)
	defer closeAll(t, store)
	const layers = 1000
	common := noise(0, 5000)
	for i := range layers {
		s := layerOf(fmt.Sprint("layer ", i), noise(uint64(i)+1, 100), noise(uint64(i)+1000, 100))
		if i%5 == 0 {
			s = layerOf(fmt.Sprint("layer ", i), noise(uint64(i)+1, 100), common)
		}
		l := s.create(t, store)
		if i == 0 {
			s.put(t, l, 1)
		}
		closeAll(t, l)
	}
	fresh := layerOf("new", common, noise(7777, 10))
	l := fresh.create(t, store)
	defer closeAll(t, l)
	files, maps := opened(t)
	from := l.Sources()
	if len(from.layers) != maxOrigins {
		t.Errorf("%d layers are looked at, want %d", len(from.layers), maxOrigins)
	}
	closeAll(t, from)
	if f, m := opened(t); f != files || m > maps+1 { // its own index
		t.Errorf("%d files are open and %d mapped, before %d and %d", f, m, files, maps)
	}
	if n := len(store.open); n != 1 {
		t.Errorf("%d layers are open", n)
	}
}

// opened counts the files of the process that are open, and those that are mapped.
func opened(t *testing.T) (files, maps int) {
	t.Helper()
	fds, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	b, err := os.ReadFile("/proc/self/maps")
	if err != nil {
		t.Fatal(err)
	}
	return len(fds), bytes.Count(b, []byte(indexName+"\n")) + bytes.Count(b, []byte(chunksName+"\n"))
}

package cache

import (
	"bufio"
	"crypto/sha256"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"unsafe"
)

// tableOf is a layer of n chunks of the sizes 1, 2, 3 and so on, without their bytes.
func tableOf(n int) sample {
	s := newSample(fmt.Sprint("table of ", n))
	for i := range int64(n) {
		s.chunks = append(s.chunks, Chunk{DataOffset: s.size, Size: i + 1, BlobOffset: i, BlobSize: 1, Digest: sha256.Sum256(nil)})
		s.size += (i + 4096) &^ 4095
	}
	return s
}

// TestSizes opens a layer again with none, some and all of its chunks present.
func TestSizes(t *testing.T) {
	sizes := make([]int, 70)
	all := make([]int, len(sizes))
	for i := range sizes {
		sizes[i], all[i] = 100+i, i
	}
	for _, present := range [][]int{nil, {0}, {69}, {31, 32, 63, 64}, all[1:], all} {
		t.Run(fmt.Sprint(len(present)), func(t *testing.T) {
			root := t.TempDir()
			smp := newSample("layer", sizes...)
			store := openStore(t, root, bootA)
			l := smp.create(t, store)
			smp.put(t, l, present...)
			want := int64(0)
			for _, i := range present {
				want += int64(sizes[i])
			}
			for range 2 {
				if chunks, bytes := l.Present(); chunks != len(present) || bytes != want {
					t.Errorf("%d chunks of %d bytes are present, want %d of %d", chunks, bytes, len(present), want)
				}
				if got := l.Size(); got != 70*100+69*70/2 {
					t.Errorf("size is %d", got)
				}
				closeAll(t, l, store)
				store = openStore(t, root, bootA)
				var err error
				if l, err = store.Get(smp.digest); err != nil {
					t.Fatal(err)
				}
			}
			closeAll(t, l, store)
		})
	}
}

// TestRecordWithoutSize has a record as it was before sizes stood in it.
func TestRecordWithoutSize(t *testing.T) {
	store := openStore(t, t.TempDir(), bootA)
	smp := newSample("layer", 4096, 9000)
	closeAll(t, smp.create(t, store))
	name := filepath.Join(store.layerDir(smp.digest), recordName)
	b, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	old := strings.Replace(string(b), `"chunkBytes": 13096,`, "", 1)
	if old == string(b) {
		t.Fatalf("no size in %s", b)
	}
	if err := os.WriteFile(name, []byte(old), 0o600); err != nil {
		t.Fatal(err)
	}
	if l, err := store.Get(smp.digest); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("Get returned %v, %v, want fs.ErrNotExist", l, err)
	}
	closeAll(t, store)
}

// TestTableIsNotKeptInMemory looks at how much of the chunk table is resident.
func TestTableIsNotKeptInMemory(t *testing.T) {
	const chunks = 20_000
	store := openStore(t, t.TempDir(), bootA)
	smp := tableOf(chunks)
	l := smp.create(t, store)
	defer closeAll(t, l, store)
	if got := resident(t, l.table.mapping); got != 0 {
		t.Errorf("%d bytes of the table are resident after the opening", got)
	}
	for range 2 {
		for i := range chunks {
			if c := l.Chunk(i); c != smp.chunks[i] {
				t.Fatalf("chunk %d is %+v", i, c)
			}
		}
		if got := resident(t, l.table.mapping); got < chunks*tableRecords.size {
			t.Fatalf("only %d bytes of the table are resident after a walk: this test shows nothing", got)
		}
		l.Trim()
		if got := resident(t, l.table.mapping); got != 0 {
			t.Errorf("%d bytes of the table are resident after Trim", got)
		}
	}
}

// resident returns how many bytes of a mapping count as this process's memory: proc_pid_smaps(5).
func resident(t *testing.T, m mapping) int {
	t.Helper()
	f, err := os.Open("/proc/self/smaps")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	start := fmt.Sprintf("%x-", uintptr(unsafe.Pointer(&m[0])))
	found := false
	for lines := bufio.NewScanner(f); lines.Scan(); {
		found = found || strings.HasPrefix(lines.Text(), start)
		kib := 0
		if n, _ := fmt.Sscanf(lines.Text(), "Rss: %d kB", &kib); found && n == 1 {
			return kib << 10
		}
	}
	t.Fatal("no such mapping")
	return 0
}

package metadata

import (
	"bufio"
	"fmt"
	"os"
	"strings"
	"testing"
	"unsafe"
)

// TestWalkLeavesLittleInMemory walks an image of 14 MB and looks at how much of it is resident: at most two of the largest folios.
func TestWalkLeavesLittleInMemory(t *testing.T) {
	const files, most = 120_000, 4 << 20
	root := dir(0o755, map[string]*Node{})
	for i := range files {
		root.Children[fmt.Sprintf("file-%06d", i)] = file(int64(i)<<12, 1)
	}
	im := open(t, image(t, root, files<<12))
	if got := resident(t, im.data); got != 0 {
		t.Errorf("%d bytes are resident after the opening", got)
	}
	for range 2 {
		var nids []uint64
		if err := im.ReadDir(im.Root(), 0, func(d Dirent) bool { nids = append(nids, d.NID); return true }); err != nil {
			t.Fatal(err)
		}
		for _, nid := range nids {
			if _, err := im.Inode(nid); err != nil {
				t.Fatal(err)
			}
		}
		if len(nids) != files+2 {
			t.Fatalf("%d entries", len(nids))
		}
		if got := resident(t, im.data); got > most || len(im.data) < 3*most {
			t.Errorf("%d bytes of %d are resident after a walk, want at most %d", got, len(im.data), most)
		}
	}
}

// resident returns how many bytes of a mapping count as this process's memory: proc_pid_smaps(5).
func resident(t *testing.T, mapping []byte) int {
	t.Helper()
	f, err := os.Open("/proc/self/smaps")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	start := fmt.Sprintf("%x-", uintptr(unsafe.Pointer(&mapping[0])))
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

package fs

import (
	"fmt"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// TestHungRegistry: however many readers wait for a registry that hangs, a layer of another one is mounted and read.
func TestHungRegistry(t *testing.T) {
	const places, readers = 16, 24
	var files []file
	for i := range readers {
		files = append(files, regular(fmt.Sprintf("file%d", i), noise(uint64(i), 512<<10)))
	}
	slowLayer, other := buildBlob(t, files), buildBlob(t, []file{regular("other", noise(99, 3<<20))})
	hanging, answering := newRegistry(t, slowLayer), newRegistry(t, other)
	n := newNode(t, Options{Mode: EROFS, NoNative: true})
	path := n.mountLayer(t, hanging.source(slowLayer))
	hanging.stall()
	var waiting sync.WaitGroup
	defer waiting.Wait()
	defer hanging.release()
	for i := readers - 1; i >= 0; i-- { // from back to front, so that none reads ahead what comes next
		fd := openFile(t, filepath.Join(path, fmt.Sprintf("file%d", i)))
		waiting.Go(func() {
			if _, err := unix.Pread(fd, make([]byte, 4096), 0); err != nil {
				t.Error(err)
			}
		})
		eventually(t, "waiting reads", func() bool { return n.server.waiting.Load() >= int64(readers-i) })
	}
	eventually(t, "requests", func() bool { return len(hanging.waiting) >= places })
	start := time.Now()
	compare(t, n.mountLayer(t, answering.source(other)), other.files)
	if d := time.Since(start); d > slow {
		t.Errorf("the layer of another registry took %v", d)
	}
}

package fs

import (
	"os"
	"runtime"
	"strings"
	"testing"
	"time"
)

// countFDs is how many descriptors this process has, but for sockets and pipes: connections to the registry come and go.
func countFDs(t *testing.T) int {
	t.Helper()
	entries, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	n := 0
	for _, e := range entries {
		to, err := os.Readlink("/proc/self/fd/" + e.Name())
		if err == nil && strings.HasPrefix(to, "/") {
			n++
		}
	}
	return n
}

// goroutines are those that run code of this module, but for tests and for go-fuse's, whose number depends on the load.
func goroutines() []string {
	p := make([]byte, 1<<20)
	p = p[:runtime.Stack(p, true)]
	var out []string
	for g := range strings.SplitSeq(string(p), "\n\n") {
		if strings.Contains(g, "sluice-snapshotter/sluice/") && !strings.Contains(g, "testing.") && !strings.Contains(g, "fuse.(*Server)") {
			out = append(out, g)
		}
	}
	return out
}

// eventually fails the test if what others do in the background does not become true.
func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	deadline := time.Now().Add(slow)
	for !ok() {
		if time.Now().After(deadline) {
			t.Errorf("%s: not in %v", what, slow)
			return
		}
		time.Sleep(5 * time.Millisecond)
	}
}

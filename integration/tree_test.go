package integration

import (
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/sluice-snapshotter/sluice/integration/images"
	"github.com/sluice-snapshotter/sluice/integration/stack"
)

// entry is a line of "probe walk", which documents its fields.
type entry struct {
	Path, Type, Target, Link, SHA256 string
	Mode, UID, GID                   uint32
	Mtime, Size                      int64
	Dev, Nlink, Rdev                 uint64
	Xattrs                           map[string]string
}

// TestTree compares what a container sees on Sluice with what it sees on overlayfs, where containerd unpacked the ordinary image.
func TestTree(t *testing.T) {
	for _, c := range []struct {
		name string
		subject
		dirs []string
		min  int // paths
	}{
		{"odd", odd, []string{images.OddDir, "/etc", "/probe", "/tmp"}, 290},
		{"goroot", goroot, []string{"/usr", "/hello", "/probe"}, 10_000},
	} {
		t.Run(c.name, func(t *testing.T) {
			eachState(t, c.subject, func(t *testing.T, n *stack.Node, lazy stack.Container) {
				plain := stack.Container{Ref: upload(t, registry(t), plainImage(t, c.subject), "test/image:plain")}
				if err := n.Pull(t.Context(), plain); err != nil {
					t.Fatal(err)
				}
				want := walk(t, n, plain, c.dirs...)
				got := walk(t, n, lazily(lazy), c.dirs...)
				if len(want) < c.min {
					t.Errorf("only %d paths on overlayfs", len(want))
				}
				sameTree(t, got, want)
			})
		})
	}
}

// walk lists every path below dirs of an image, contents included, as a privileged container sees them.
func walk(t *testing.T, n *stack.Node, c stack.Container, dirs ...string) map[string]entry {
	t.Helper()
	c.Args = append(slices.Clone(walkArgs), dirs...)
	return walked(t, n, c)
}

// walkArgs make a list where walked reads it. It comes out of the container through a file: on a loaded machine a shim gives up on
// megabytes of output (10 s, "failed to drain init process") and they end early.
var walkArgs = []string{"/probe", "walk", "-data", "-out", "/run/out/tree"}

// walkAs does what walk does as whoever the container is.
func walkAs(t *testing.T, n *stack.Node, c stack.Container, dirs ...string) map[string]entry {
	t.Helper()
	c.Args = append(slices.Clone(walkArgs), dirs...)
	return walkedAs(t, n, c)
}

// walked runs a privileged container that ends with walkArgs, and returns the list.
func walked(t *testing.T, n *stack.Node, c stack.Container) map[string]entry {
	t.Helper()
	c.Flags = append(slices.Clone(c.Flags), "--privileged") // so that trusted xattrs are seen
	return walkedAs(t, n, c)
}

func walkedAs(t *testing.T, n *stack.Node, c stack.Container) map[string]entry {
	t.Helper()
	out := t.TempDir()
	if err := os.Chmod(out, 0o777); err != nil { // its root may be anybody here
		t.Fatal(err)
	}
	c.Flags = append(slices.Clone(c.Flags), "--mount", "type=bind,src="+out+",dst=/run/out,options=rbind:rw")
	if _, err := n.Run(t.Context(), c); err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile(filepath.Join(out, "tree"))
	if err != nil {
		t.Fatal(err)
	}
	return parseTree(t, string(text))
}

// parseTree reads the output of "probe walk".
func parseTree(t *testing.T, text string) map[string]entry {
	t.Helper()
	tree := make(map[string]entry)
	for line := range strings.Lines(text) {
		var e entry
		if err := json.Unmarshal([]byte(line), &e); err != nil {
			t.Fatalf("%q: %v", line, err)
		}
		tree[e.Path] = e
	}
	return tree
}

// sameTree compares all but st_dev, which has to be the same throughout a tree.
func sameTree(t *testing.T, got, want map[string]entry) {
	t.Helper()
	devices := make(map[uint64]int)
	var wrong []string
	for _, path := range slices.Sorted(maps.Keys(want)) {
		g, ok := got[path]
		if !ok {
			wrong = append(wrong, fmt.Sprintf("%q is missing", path))
			continue
		}
		devices[g.Dev]++
		w := want[path]
		w.Dev = g.Dev
		if !reflect.DeepEqual(g, w) {
			wrong = append(wrong, fmt.Sprintf("got  %+v\nwant %+v", g, w))
		}
	}
	for path := range got {
		if _, ok := want[path]; !ok {
			wrong = append(wrong, fmt.Sprintf("%q should not be there", path))
		}
	}
	if len(devices) != 1 {
		wrong = append(wrong, fmt.Sprintf("st_dev is not uniform: %v", devices))
	}
	if len(wrong) > 0 {
		t.Errorf("%d of %d paths differ:\n%s", len(wrong), len(want), strings.Join(wrong[:min(20, len(wrong))], "\n"))
	}
}

package fs

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/opencontainers/go-digest"
)

// TestManyTags: a layer was mounted for more tags of a repository than it has places. That repository loses it, and another one has it.
func TestManyTags(t *testing.T) {
	content := noise(1, 300_000)
	l := buildBlob(t, []file{regular("file", content)})
	first, second := newRegistry(t, l), newRegistry(t, l)
	n := newNode(t, Options{Mode: FUSE})
	for i := range maxSources + 1 {
		src := first.source(l)
		src.Ref = strings.Replace(src.Ref, ":latest", fmt.Sprint(":", i), 1)
		n.mountLayer(t, src)
	}
	first.fail.Store(404)
	path := n.mountLayer(t, second.source(l))
	before := first.blobs.Load()
	if got, err := os.ReadFile(filepath.Join(path, "file")); err != nil || !bytes.Equal(got, content) {
		t.Errorf("read %d bytes, %v", len(got), err)
	}
	if asked := first.blobs.Load() - before; asked > 3 {
		t.Errorf("the repository that has lost it was asked %d times", asked)
	}
}

// TestManyRepositories: more of them than are remembered have lost a layer. Who comes last has it.
func TestManyRepositories(t *testing.T) {
	content := noise(1, 300_000)
	l := buildBlob(t, []file{regular("file", content)})
	lost, has := newRegistry(t, l), newRegistry(t, l)
	n := newNode(t, Options{Mode: FUSE})
	for i := range maxSources + 1 {
		src := lost.source(l)
		src.Ref = strings.Replace(src.Ref, "/test/", fmt.Sprint("/", i, "/"), 1)
		n.mountLayer(t, src)
	}
	lost.fail.Store(404)
	path := n.mountLayer(t, has.source(l))
	if got, err := os.ReadFile(filepath.Join(path, "file")); err != nil || !bytes.Equal(got, content) {
		t.Errorf("read %d bytes, %v", len(got), err)
	}
}

// TestSourcesOrder: the last that came is asked after the best, and the one that failed last. Of too many the last goes.
func TestSourcesOrder(t *testing.T) {
	registry, s := testRegistry(), &sources{}
	add := func(repository string) {
		t.Helper()
		blob, err := registry.Blob("host/"+repository+":tag", digest.FromString("layer"), 1)
		if err != nil {
			t.Fatal(err)
		}
		s.add(repository, blob)
	}
	expect := func(want ...string) {
		t.Helper()
		var got []string
		for _, o := range s.list {
			got = append(got, o.repository)
		}
		if !slices.Equal(got, want) {
			t.Errorf("got %v, want %v", got, want)
		}
	}
	for _, repository := range []string{"a", "b", "c", "d", "a"} {
		add(repository)
	}
	expect("a", "d", "c", "b")
	blob := s.list[3].blob
	add("b")
	expect("a", "b", "d", "c")
	if s.list[1].blob != blob {
		t.Error("what was known of a place is forgotten")
	}
	s.prefer(s.list[2])
	expect("d", "c", "a", "b")
	s.prefer(s.list[0])
	expect("d", "c", "a", "b")
	for i := range maxSources - 3 {
		add(fmt.Sprint(i))
	}
	if len(s.list) != maxSources || s.list[0].repository != "d" || s.list[maxSources-1].repository != "a" {
		t.Errorf("got %+v", s.list)
	}
}

package main

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// TestChecks runs checks where they are right and where something is wrong, on what file system there is.
func TestChecks(t *testing.T) {
	for _, c := range []struct {
		name  string
		do    func(dir string) error
		wrong func(dir string) error
	}{
		{"mmap", seen(mapping), func(dir string) error { return os.Truncate(filepath.Join(dir, "map"), 8192) }},
		{"holes", seen(holes), func(dir string) error { return os.Remove(filepath.Join(dir, "holes")) }},
		{"links", seen(links), func(dir string) error { return os.Remove(filepath.Join(dir, "three")) }},
		{"times", seen(times), func(dir string) error {
			return os.Chtimes(filepath.Join(dir, "times/folder"), time.Unix(1, 0), time.Unix(1, 0))
		}},
		{"socket", seen(socket), func(dir string) error { return os.WriteFile(filepath.Join(dir, "folder/socket"), nil, 0o600) }},
		{"crowd, a name too many", crowdOf(20), func(dir string) error { return os.WriteFile(filepath.Join(dir, "crowd/more"), nil, 0o600) }},
		{"crowd, a name too few", crowdOf(20), func(dir string) error { return os.Remove(filepath.Join(dir, "crowd/entry-000019")) }},
		{"crowd, another time", crowdOf(20), func(dir string) error {
			return os.Chtimes(filepath.Join(dir, "crowd/entry-000007"), time.Unix(8, 0), time.Unix(8, 0))
		}},
		{"at", reads("at", "map", "4080"), func(dir string) error { return os.Truncate(filepath.Join(dir, "map"), 4090) }},
		{"second", reads("second", "lines"), func(dir string) error { return os.WriteFile(filepath.Join(dir, "lines"), nil, 0o600) }},
	} {
		t.Run(c.name, func(t *testing.T) {
			for _, spoilt := range []bool{false, true} {
				dir := t.TempDir()
				fill(t, dir)
				if spoilt {
					if err := c.wrong(dir); err != nil {
						t.Fatal(err)
					}
				}
				if err := c.do(dir); (err != nil) != spoilt {
					t.Errorf("spoilt: %t; got %v", spoilt, err)
				}
			}
		})
	}
}

func seen(check func(string) (string, error)) func(string) error {
	return func(dir string) error {
		_, err := check(dir)
		return err
	}
}

func crowdOf(n int) func(string) error {
	return func(dir string) error { return crowd(filepath.Join(dir, "crowd"), fmt.Sprint(n)) }
}

func reads(command, name string, args ...string) func(string) error {
	return func(dir string) error { return run(append([]string{command, filepath.Join(dir, name)}, args...)) }
}

// fill makes what the Posix image has, as far as TestChecks needs it.
func fill(t *testing.T, dir string) {
	t.Helper()
	in := func(name string) string { return filepath.Join(dir, name) }
	for _, name := range []string{"links/elsewhere", "times/folder", "folder", "crowd"} {
		if err := os.MkdirAll(in(name), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	content := make([]byte, 10_000)
	for i := range content {
		content[i] = byte(i % 251)
	}
	precise := time.Unix(1, 5)
	for _, err := range []error{
		os.WriteFile(in("map"), content, 0o644),
		os.WriteFile(in("holes"), content, 0o644),
		os.Truncate(in("holes"), 1<<20),
		os.WriteFile(in("links/one"), content, 0o644),
		os.Link(in("links/one"), in("links/elsewhere/two")),
		os.Link(in("links/one"), in("three")),
		os.WriteFile(in("times/file"), nil, 0o644),
		os.Chtimes(in("times/file"), precise, precise),
		os.Chtimes(in("times/folder"), precise, precise),
		os.Symlink("file", in("times/symlink")),
		unix.Lutimes(in("times/symlink"), []unix.Timeval{{Sec: 1, Usec: 5}, {Sec: 1, Usec: 5}}),
		os.WriteFile(in("lines"), []byte("one\ntwo\n"), 0o644),
	} {
		if err != nil {
			t.Fatal(err)
		}
	}
	for i := range 20 {
		name, when := in(fmt.Sprintf("crowd/entry-%06d", i)), time.Unix(int64(i), 0)
		if err := os.WriteFile(name, nil, 0o644); err != nil {
			t.Fatal(err)
		}
		if err := os.Chtimes(name, when, when); err != nil {
			t.Fatal(err)
		}
	}
}

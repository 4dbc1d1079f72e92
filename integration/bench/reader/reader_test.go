package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"hash/crc32"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
)

// asReader makes this program the reader itself.
const asReader = "READER_TEST_MAIN"

func TestMain(m *testing.M) {
	if os.Getenv(asReader) != "" {
		main()
		os.Exit(0)
	}
	os.Exit(m.Run())
}

// tree makes a folder of files: name, content, name, content.
func tree(t *testing.T, pairs ...string) string {
	t.Helper()
	dir := t.TempDir()
	for i := 0; i < len(pairs); i += 2 {
		path := filepath.Join(dir, pairs[i])
		if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o755), os.WriteFile(path, []byte(pairs[i+1]), 0o644)); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

// noise is n bytes, the same each time.
func noise(n int) string {
	p, r := make([]byte, n), rand.New(rand.NewPCG(3, 4))
	for i := range p {
		p[i] = byte(r.Uint32())
	}
	return string(p)
}

func sumOf(s string) string {
	return fmt.Sprintf("%d bytes, crc32c %08x", len(s), crc32.Checksum([]byte(s), castagnoli))
}

func do(t *testing.T, o operation, args ...string) reading {
	t.Helper()
	r, err := o(t.Context(), args)
	if err != nil {
		t.Fatal(err)
	}
	if r.Seconds <= 0 {
		t.Errorf("took %v seconds", r.Seconds)
	}
	return r
}

func TestOneFile(t *testing.T) {
	for _, size := range []int{1, page, page + 1, buffer, 3*buffer + 123} {
		content := noise(size)
		file := filepath.Join(tree(t, "f", content), "f")
		for name, o := range map[string]operation{"sequential": sequential, "map": mapped} {
			if r := do(t, o, file); r.Amount != int64(size) || r.Check != sumOf(content) {
				t.Errorf("%s of %d bytes: %+v, want %s", name, size, r, sumOf(content))
			}
		}
	}
}

func TestRandom(t *testing.T) {
	content := noise(100*page + 7)
	file := filepath.Join(tree(t, "f", content), "f")
	first, second := do(t, random, file, "1000"), do(t, random, file, "1000")
	if first.Amount != 1000 || first.Check != second.Check || !strings.HasPrefix(first.Check, fmt.Sprint(1000*page, " bytes")) {
		t.Errorf("%+v and %+v", first, second)
	}
	// The last page that is whole is read too, and a change anywhere is seen.
	changed := []byte(content)
	changed[99*page] ^= 1
	other := do(t, random, filepath.Join(tree(t, "f", string(changed)), "f"), "1000")
	if other.Check == first.Check {
		t.Error("a change is not seen")
	}
}

func TestTree(t *testing.T) {
	big, small1, small2 := noise(smallest+1), noise(smallest), "two"
	dir := tree(t, "usr/a/big", big, "usr/b/one", small1, "usr/c/two", small2, "usr/d/three", "3", "zero", "")
	if err := os.Symlink("one", filepath.Join(dir, "usr/b/link")); err != nil {
		t.Fatal(err)
	}
	list := filepath.Join(t.TempDir(), "survey")
	if r, err := survey(t.Context(), []string{dir + "/usr", list, "2"}); err != nil || r.Amount != 2 {
		t.Fatal(r, err)
	}
	var s found
	if text, err := os.ReadFile(list); err != nil || json.Unmarshal(text, &s) != nil {
		t.Fatal(err)
	}
	if want := []string{dir + "/usr/b/one", dir + "/usr/c/two"}; s.Large != dir+"/usr/a/big" || s.LargeSize != smallest+1 || !slices.Equal(s.Small, want) {
		t.Errorf("survey: %+v", s)
	}
	if r := do(t, small, list); r.Amount != 2 || r.Check != "2 files, "+sumOf(small1+small2) {
		t.Errorf("small: %+v", r)
	}
	if r := do(t, all, dir); r.Amount != 5 || r.Check != "5 files, "+sumOf(big+small1+small2+"3") {
		t.Errorf("all: %+v", r)
	}
	// Shorter by one file and one name.
	if r := do(t, find, dir); r.Amount != 12 {
		t.Errorf("find: %+v, want 6 folders, 5 files and a link", r)
	}
	looked := do(t, stat, dir)
	if looked.Amount != 12 {
		t.Errorf("stat: %+v, want as many", looked)
	}
	if err := os.Chmod(dir+"/usr/d/three", 0o600); err != nil {
		t.Fatal(err)
	}
	if r := do(t, stat, dir); r.Check == looked.Check {
		t.Error("stat: a change of a mode is not seen")
	}
	archived := do(t, archive, dir)
	if want := int64(len(big) + len(small1) + len(small2) + 1); archived.Amount != want {
		t.Errorf("tar: %+v, want %d bytes", archived, want)
	}
	if err := os.WriteFile(dir+"/usr/d/three", []byte("4"), 0o644); err != nil {
		t.Fatal(err)
	}
	if r := do(t, archive, dir); r.Check == archived.Check {
		t.Error("tar: a change is not seen")
	}
	if err := os.Remove(dir + "/zero"); err != nil {
		t.Fatal(err)
	}
	if r := do(t, find, dir); r.Amount != 11 {
		t.Errorf("find: %+v after one was removed", r)
	}
}

func TestTarHardLinks(t *testing.T) {
	dirs := [2]string{}
	for i, names := range [][2]string{{"a", "b"}, {"b", "a"}} { // either may come first in its folder
		dirs[i] = tree(t, names[0], "content")
		if err := os.Link(filepath.Join(dirs[i], names[0]), filepath.Join(dirs[i], names[1])); err != nil {
			t.Fatal(err)
		}
	}
	if a, b := do(t, archive, dirs[0]), do(t, archive, dirs[1]); a.Check != b.Check || a.Amount != 7 {
		t.Errorf("%+v and %+v", a, b)
	}
}

func TestProgram(t *testing.T) {
	if r := do(t, program, "echo", "hello"); r.Check != sumOf("hello\n") {
		t.Errorf("%+v", r)
	}
}

func TestErrors(t *testing.T) {
	dir := tree(t, "f", "short", "empty", "", "survey", `{"small":["/nonexistent"]}`)
	for _, c := range []struct {
		name string
		do   operation
		args []string
		want string
	}{
		{"sequential", sequential, []string{"/nonexistent"}, "/nonexistent"},
		{"sequential of a folder", sequential, []string{dir}, "want a file"},
		{"map of nothing", mapped, []string{dir + "/empty"}, "0 bytes"},
		{"random of less than a page", random, []string{dir + "/f", "1"}, "found 5 bytes"},
		{"random without a number", random, []string{dir + "/f"}, "1 arguments, want 2"},
		{"short read", func(context.Context, []string) (reading, error) {
			f, err := os.Open(dir + "/f")
			if err != nil {
				return reading{}, err
			}
			defer f.Close()
			return reading{}, readPage(int(f.Fd()), make([]byte, page), 0)
		}, nil, "read at 0: 5 bytes, want 4096"},
		{"small", small, []string{dir + "/survey"}, "/nonexistent"},
		{"small without a survey", small, []string{dir + "/f"}, "invalid character"},
		{"survey", survey, []string{"/nonexistent", dir + "/s", "1"}, "/nonexistent"},
		{"all", all, []string{"/nonexistent"}, "/nonexistent"},
		{"find", find, []string{"/nonexistent"}, "exit status 1"},
		{"tar", archive, []string{"/nonexistent"}, "exit status 2"},
		{"a program that fails", program, []string{"sh", "-c", "echo why >&2; exit 3"}, "exit status 3\nwhy"},
		{"no program", program, []string{"/nonexistent"}, "/nonexistent"},
	} {
		t.Run(c.name, func(t *testing.T) {
			if _, err := c.do(t.Context(), c.args); err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("got %v, want an error with %q", err, c.want)
			}
		})
	}
}

func TestRun(t *testing.T) {
	dir := tree(t, "f", "content")
	out := filepath.Join(dir, "out")
	if err := run([]string{"-out", out, "-times", "2", "sequential", dir + "/f"}); err != nil {
		t.Fatal(err)
	}
	if err := run([]string{"-out", out, "-times", "2", "sequential", "/nonexistent"}); err == nil {
		t.Error("no error")
	}
	text, err := os.ReadFile(out)
	if err != nil {
		t.Fatal(err)
	}
	lines := bytes.Split(bytes.TrimSpace(text), []byte("\n"))
	if len(lines) != 4 {
		t.Fatalf("%d lines:\n%s", len(lines), text)
	}
	for i, line := range lines {
		var r reading
		if err := json.Unmarshal(line, &r); err != nil || (r.Error == "") != (i < 2) || (r.Check == sumOf("content")) != (i < 2) {
			t.Errorf("line %d: %s, %v", i, line, err)
		}
	}
	for _, args := range [][]string{{"-out", out}, {"-out", out, "unheard"}, {"sequential", dir + "/f"}} {
		if err := run(args); err == nil {
			t.Errorf("%q: no error", args)
		}
	}
}

func TestLimit(t *testing.T) {
	out := filepath.Join(t.TempDir(), "out")
	cmd := exec.Command(os.Args[0], "-out", out, "-limit", "100ms", "run", "sleep", "5")
	cmd.Env = append(os.Environ(), asReader+"=1")
	var diagnostics bytes.Buffer
	cmd.Stderr = &diagnostics
	start := time.Now()
	if err := cmd.Run(); err == nil || !strings.Contains(diagnostics.String(), "run: not done after 100ms") {
		t.Errorf("%v, %s", err, &diagnostics)
	}
	if d := time.Since(start); d > 4*time.Second {
		t.Errorf("took %s", d)
	}
}

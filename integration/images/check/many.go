package main

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"

	"golang.org/x/sys/unix"
)

// lookups is how many names crowd looks up before it has seen them in a list: each costs a FUSE tree a question.
const lookups = 10_000

// crowd checks names, types and attributes in a folder of many: the time of entry-000123 is 123 seconds.
func crowd(dir, count string) error {
	n, err := strconv.Atoi(count)
	if err != nil {
		return fmt.Errorf("crowd: %w", err)
	}
	name := func(i int) string { return fmt.Sprintf("entry-%06d", i) }
	want := make(map[string]bool, n)
	for i := range n {
		want[name(i)] = true
	}
	for i := 0; i < n; i += max(1, n/lookups) {
		if err := attributes(filepath.Join(dir, name(i)), int64(i)); err != nil {
			return err
		}
	}
	if err := listed(dir, want); err != nil {
		return err
	}
	gone, come := name(n/2), name(n)
	if err := missing(filepath.Join(dir, come)); err != nil {
		return err
	}
	if err := errors.Join(os.Remove(filepath.Join(dir, gone)), os.WriteFile(filepath.Join(dir, come), nil, 0o600)); err != nil {
		return err
	}
	delete(want, gone)
	want[come] = true
	if err := errors.Join(missing(filepath.Join(dir, gone)), listed(dir, want)); err != nil {
		return err
	}
	_, err = fmt.Println(n, "entries are right")
	return err
}

func attributes(path string, seconds int64) error {
	var st unix.Stat_t
	if err := unix.Lstat(path, &st); err != nil {
		return fmt.Errorf("lstat %s: %w", path, err)
	}
	if st.Mode != unix.S_IFREG|0o644 || st.Mtim.Nano() != seconds*1e9 || st.Size != 0 || st.Nlink != 1 {
		return fmt.Errorf("%s: %+v", path, st)
	}
	return nil
}

func missing(path string) error {
	if _, err := os.Lstat(path); !errors.Is(err, fs.ErrNotExist) {
		return errors.Join(fmt.Errorf("%s should not exist", path), err)
	}
	return nil
}

// listed checks that a folder lists each name once, and no other.
func listed(dir string, want map[string]bool) error {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return err
	}
	for i, e := range entries {
		if !want[e.Name()] || !e.Type().IsRegular() || i > 0 && entries[i-1].Name() == e.Name() {
			return fmt.Errorf("%s lists %s", dir, e)
		}
	}
	if len(entries) != len(want) {
		return fmt.Errorf("%s lists %d entries, want %d", dir, len(entries), len(want))
	}
	return nil
}

// window is how many bytes at prints.
const window = 32

// at prints a file's size, and what it has at some offsets, read in both ways.
func at(name string, offsets []string) error {
	f, err := os.Open(name)
	if err != nil {
		return err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return err
	}
	fmt.Println(info.Size(), "bytes")
	for _, text := range offsets {
		off, err := strconv.ParseInt(text, 10, 64)
		if err != nil {
			return fmt.Errorf("at: %w", err)
		}
		p := make([]byte, window)
		if _, err := f.ReadAt(p, off); err != nil {
			return err
		}
		page := int64(os.Getpagesize())
		start := off / page * page
		m, err := unix.Mmap(int(f.Fd()), start, int(off-start)+window, unix.PROT_READ, unix.MAP_SHARED)
		if err != nil {
			return fmt.Errorf("mmap %s at %d: %w", name, start, err)
		}
		if q := m[off-start:]; !bytes.Equal(p, q) {
			return fmt.Errorf("%s at %d is %q, mapped %q", name, off, p, q)
		}
		fmt.Printf("%d %q\n", off, p)
		if err := unix.Munmap(m); err != nil {
			return err
		}
	}
	return nil
}

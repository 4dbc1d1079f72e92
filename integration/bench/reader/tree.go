package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"syscall"

	"golang.org/x/sys/unix"
)

// smallest is how many bytes a small file has at most.
const smallest = 32 << 10

// found is the content of a survey.
type found struct {
	Large     string   `json:"large"`      // path of the largest file
	LargeSize int64    `json:"large_size"` // its bytes
	Small     []string `json:"small"`      // paths of the small ones, in the order of the walk
}

// survey is for another container to use, so that what it lists is not in memory there already. The walk is in lexical order.
func survey(_ context.Context, args []string) (reading, error) {
	if len(args) != 3 {
		return reading{}, fmt.Errorf("%d arguments, want 3", len(args))
	}
	limit, err := strconv.Atoi(args[2])
	if err != nil {
		return reading{}, err
	}
	s := found{LargeSize: -1}
	err = files(args[0], func(path string, size int64) error {
		if size > s.LargeSize {
			s.Large, s.LargeSize = path, size
		}
		if size <= smallest && len(s.Small) < limit {
			s.Small = append(s.Small, path)
		}
		return nil
	})
	if err != nil {
		return reading{}, err
	}
	text, err := json.Marshal(s)
	if err != nil {
		return reading{}, err
	}
	return reading{Amount: int64(len(s.Small))}, os.WriteFile(args[1], text, 0o644)
}

// files calls then for each regular file of the file system of dir, in lexical order.
func files(dir string, then func(path string, size int64) error) error {
	root, err := os.Lstat(dir)
	if err != nil {
		return err
	}
	return filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || !d.IsDir() && !d.Type().IsRegular() {
			return err
		}
		info, err := d.Info()
		switch {
		case err != nil:
			return err
		case !d.IsDir():
			return then(path, info.Size())
		case device(info) != device(root):
			return fs.SkipDir
		}
		return nil
	})
}

func device(info fs.FileInfo) uint64 { return info.Sys().(*syscall.Stat_t).Dev }

func small(_ context.Context, args []string) (reading, error) {
	if len(args) != 1 {
		return reading{}, fmt.Errorf("%d arguments, want 1", len(args))
	}
	text, err := os.ReadFile(args[0])
	if err != nil {
		return reading{}, err
	}
	var s found
	if err := json.Unmarshal(text, &s); err != nil {
		return reading{}, fmt.Errorf("%s: %w", args[0], err)
	}
	return read(s.Small)
}

// all reads what is there and needs no list: it is for filling caches.
func all(_ context.Context, args []string) (reading, error) {
	if len(args) != 1 {
		return reading{}, fmt.Errorf("%d arguments, want 1", len(args))
	}
	var paths []string
	err := files(args[0], func(path string, _ int64) error {
		paths = append(paths, path)
		return nil
	})
	if err != nil {
		return reading{}, err
	}
	return read(paths)
}

// read opens, reads and closes files.
func read(paths []string) (reading, error) {
	var clock stopwatch
	var sum checksum
	p := make([]byte, buffer)
	for _, path := range paths {
		if err := readFile(path, p, &clock, &sum); err != nil {
			return reading{}, &os.PathError{Op: "read", Path: path, Err: err}
		}
	}
	check := fmt.Sprintf("%d files, %s", len(paths), &sum)
	return reading{Seconds: clock.total.Seconds(), Amount: int64(len(paths)), Check: check}, nil
}

// readFile makes the system calls of a plain program; package os makes more.
func readFile(path string, p []byte, clock *stopwatch, sum *checksum) error {
	clock.start()
	fd, err := again(func() (int, error) { return unix.Open(path, unix.O_RDONLY|unix.O_CLOEXEC, 0) })
	if err != nil {
		return err
	}
	for {
		n, err := again(func() (int, error) { return unix.Read(fd, p) })
		if err != nil || n == 0 {
			err2 := unix.Close(fd)
			clock.stop()
			if err == nil {
				err = err2
			}
			return err
		}
		clock.stop()
		sum.Write(p[:n]) //nolint:errcheck // it cannot fail
		clock.start()
	}
}

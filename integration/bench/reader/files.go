package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"strconv"

	"golang.org/x/sys/unix"
)

const (
	buffer = 1 << 20 // of sequential reads
	page   = 4 << 10 // of random reads
	batch  = 64      // random reads between two looks at what they brought, few enough to stay in the processor's cache
)

// open opens the file args[0] of want arguments and returns its size, which is not 0.
func open(args []string, want int) (_ *os.File, size int64, err error) {
	if len(args) != want {
		return nil, 0, fmt.Errorf("%d arguments, want %d", len(args), want)
	}
	f, err := os.Open(args[0])
	if err != nil {
		return nil, 0, err
	}
	info, err := f.Stat()
	if err == nil && (!info.Mode().IsRegular() || info.Size() == 0) {
		err = fmt.Errorf("%s: want a file that is not empty, found %s of %d bytes", args[0], info.Mode(), info.Size())
	}
	if err != nil {
		return nil, 0, errors.Join(err, f.Close())
	}
	return f, info.Size(), nil
}

func sequential(_ context.Context, args []string) (reading, error) {
	f, size, err := open(args, 1)
	if err != nil {
		return reading{}, err
	}
	defer f.Close()
	var clock stopwatch
	var sum checksum
	p := make([]byte, buffer)
	for {
		clock.start()
		n, err := f.Read(p)
		clock.stop()
		sum.Write(p[:n]) //nolint:errcheck // it cannot fail
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return reading{}, err
		}
	}
	if sum.bytes != size {
		return reading{}, fmt.Errorf("%s: read %d of %d bytes", args[0], sum.bytes, size)
	}
	return reading{Seconds: clock.total.Seconds(), Amount: size, Check: sum.String()}, nil
}

func random(_ context.Context, args []string) (reading, error) {
	f, size, err := open(args, 2)
	if err != nil {
		return reading{}, err
	}
	defer f.Close()
	reads, err := strconv.Atoi(args[1])
	if err != nil || reads < 1 || size < page {
		return reading{}, fmt.Errorf("%s: want a number of reads from 1, found %q, and a file of at least a page, found %d bytes", args[0], args[1], size)
	}
	var clock stopwatch
	var sum checksum
	p := make([]byte, batch*page)
	places := rand.New(rand.NewPCG(1, 2))
	for done := 0; done < reads; {
		n := min(batch, reads-done)
		clock.start()
		for i := range n {
			if err := readPage(int(f.Fd()), p[i*page:][:page], places.Int64N(size/page)*page); err != nil {
				return reading{}, fmt.Errorf("%s: %w", args[0], err)
			}
		}
		clock.stop()
		sum.Write(p[:n*page]) //nolint:errcheck // it cannot fail
		done += n
	}
	return reading{Seconds: clock.total.Seconds(), Amount: int64(reads), Check: sum.String()}, nil
}

func readPage(fd int, p []byte, off int64) error {
	n, err := again(func() (int, error) { return unix.Pread(fd, p, off) })
	if err == nil && n != len(p) {
		err = fmt.Errorf("%d bytes, want %d", n, len(p))
	}
	if err != nil {
		return fmt.Errorf("read at %d: %w", off, err)
	}
	return nil
}

// again repeats a system call that a signal has interrupted.
func again(call func() (int, error)) (int, error) {
	for {
		n, err := call()
		if !errors.Is(err, unix.EINTR) {
			return n, err
		}
	}
}

// mapped touches pages as a program's loader does: in order, without advice to the kernel. A page that cannot be read kills the process.
func mapped(_ context.Context, args []string) (_ reading, err error) {
	f, size, err := open(args, 1)
	if err != nil {
		return reading{}, err
	}
	defer f.Close()
	var clock stopwatch
	clock.start()
	p, err := unix.Mmap(int(f.Fd()), 0, int(size), unix.PROT_READ, unix.MAP_PRIVATE)
	if err != nil {
		return reading{}, fmt.Errorf("map %s: %w", args[0], err)
	}
	defer func() { err = errors.Join(err, unix.Munmap(p)) }()
	touch(p)
	clock.stop()
	var sum checksum
	sum.Write(p) //nolint:errcheck // it cannot fail
	return reading{Seconds: clock.total.Seconds(), Amount: size, Check: sum.String()}, nil
}

// touch reads a byte of each page. A compiler that saw its caller would leave that out.
//
//go:noinline
func touch(p []byte) (sum byte) {
	for i := 0; i < len(p); i += page {
		sum += p[i]
	}
	return sum
}

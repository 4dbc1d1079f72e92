package main

import (
	"archive/tar"
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os/exec"
	"strings"
)

// program's check is what it printed.
func program(ctx context.Context, args []string) (reading, error) {
	if len(args) == 0 {
		return reading{}, errors.New("run what?")
	}
	var sum checksum
	seconds, err := consume(ctx, args, func(r io.Reader) error {
		_, err := io.Copy(&sum, r)
		return err
	})
	return reading{Seconds: seconds, Amount: 1, Check: sum.String()}, err
}

func find(ctx context.Context, args []string) (reading, error) {
	return list(ctx, args, "-print0")
}

// stat has find look at each file. Sizes and links of folders are a file system's own.
func stat(ctx context.Context, args []string) (reading, error) {
	return list(ctx, args, "-printf", `%m %U %G %p\0`)
}

// list runs find with something that prints a text for each file, and a NUL.
func list(ctx context.Context, args []string, printing ...string) (reading, error) {
	if len(args) != 1 {
		return reading{}, fmt.Errorf("%d arguments, want 1", len(args))
	}
	var out bytes.Buffer
	seconds, err := consume(ctx, append([]string{"find", args[0], "-xdev"}, printing...), func(r io.Reader) error {
		_, err := out.ReadFrom(r)
		return err
	})
	var names tally
	for name := range bytes.SplitSeq(bytes.TrimSuffix(out.Bytes(), []byte{0}), []byte{0}) {
		names.add(name)
	}
	return reading{Seconds: seconds, Amount: names.things, Check: "names: " + names.String()}, err
}

// archive runs tar twice: first with the clock, when what it writes is only taken from it, since tar opens no files when it sees that it
// writes to /dev/null; and then to check what it reads from the page cache. Folders list their entries in an order of their
// own, and that decides which name of a file with several holds the content; so names and contents are checked apart.
func archive(ctx context.Context, args []string) (reading, error) {
	if len(args) != 1 {
		return reading{}, fmt.Errorf("%d arguments, want 1", len(args))
	}
	var names, contents tally
	var size int64
	var unreadable error
	tar := []string{"tar", "-C", args[0], "-c", "--one-file-system", "."}
	seconds, err := consume(ctx, tar, func(r io.Reader) error {
		_, err := io.Copy(io.Discard, r)
		return err
	})
	if err = changed(err); err != nil {
		return reading{}, err
	}
	_, err = consume(ctx, tar, func(r io.Reader) error {
		size, unreadable = entries(r, &names, &contents)
		return unreadable
	})
	if unreadable == nil {
		err = changed(err)
	}
	check := fmt.Sprintf("names: %s; contents: %s; %d bytes", &names, &contents, size)
	return reading{Seconds: seconds, Amount: size, Check: check}, err
}

// changed makes good tar's exit status for "some files differ": one changed while it was read, which the check will show (GNU tar's manual,
// "Synopsis").
func changed(err error) error {
	if exit := (*exec.ExitError)(nil); errors.As(err, &exit) && exit.ExitCode() == 1 {
		return nil
	}
	return err
}

// entries reads an archive to its end and returns how many bytes its files have.
func entries(r io.Reader, names, contents *tally) (size int64, err error) {
	b, p := bufio.NewReaderSize(r, buffer), make([]byte, buffer)
	t := tar.NewReader(b)
	for {
		h, err := t.Next()
		if errors.Is(err, io.EOF) {
			_, err = b.WriteTo(io.Discard) // tar fills its last record
			return size, err
		}
		if err != nil {
			return size, err
		}
		names.add([]byte(h.Name))
		if h.Typeflag != tar.TypeReg {
			continue
		}
		var sum checksum
		if _, err := io.CopyBuffer(&sum, struct{ io.Reader }{t}, p); err != nil {
			return size, err
		}
		contents.add([]byte(sum.String()))
		size += sum.bytes
	}
}

// consume runs a program to its end, and returns how many seconds that took, with read taking what it prints.
func consume(ctx context.Context, args []string, read func(io.Reader) error) (seconds float64, err error) {
	cmd := exec.CommandContext(ctx, args[0], args[1:]...)
	var diagnostics bytes.Buffer
	cmd.Stderr = &diagnostics
	out, err := cmd.StdoutPipe()
	if err != nil {
		return 0, err
	}
	var clock stopwatch
	clock.start()
	if err := cmd.Start(); err != nil {
		return 0, err
	}
	err = read(out)
	if err != nil {
		err = errors.Join(err, out.Close()) // or it would wait for a reader
	}
	err = errors.Join(err, cmd.Wait())
	clock.stop()
	if err != nil {
		err = fmt.Errorf("%s: %w\n%s", strings.Join(args, " "), err, bytes.TrimSpace(diagnostics.Bytes()))
	}
	return clock.total.Seconds(), err
}

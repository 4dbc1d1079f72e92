// Command probe is the program inside the test images: small, static, and without needs.
//
//	probe hello               print a line
//	probe pause               wait for SIGTERM or SIGINT, as a pod's sandbox does
//	probe walk [-data] [-out FILE] DIR...
//	                          print one JSON object for each path under each DIR, sorted
//	probe read FILE...        write the files to standard output
//	probe sum [-want SUM] FILE...
//	                          read the files one after another and print their checksum, or that they are right
//	probe model read FILE     read the file from front to back and print its checksum
//	probe model map FILE SEED N
//	                          map the file, touch N random pages and print their checksum
//
// Checksums are CRC-32C, which processors compute faster than a file system reads, in eight hexadecimal digits.
package main

import (
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"

	"golang.org/x/sys/unix"
)

func main() {
	if err := run(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "probe:", err)
		os.Exit(1)
	}
}

func run(args []string) error {
	if len(args) == 0 {
		return errors.New("want hello, pause, walk, read, sum or model")
	}
	switch args[0] {
	case "hello":
		_, err := fmt.Println("hello from probe")
		return err
	case "pause":
		return pause()
	case "walk":
		return walk(args[1:])
	case "read":
		return read(args[1:])
	case "sum":
		return sumFiles(args[1:])
	case "model":
		return model(args[1:])
	}
	return fmt.Errorf("unknown command %q", args[0])
}

// pause ends on a signal; as the first process of a PID namespace it also takes leave of every orphan.
func pause() error {
	signals := make(chan os.Signal, 16)
	signal.Notify(signals, unix.SIGINT, unix.SIGTERM, unix.SIGCHLD)
	for s := range signals {
		if s != unix.SIGCHLD {
			return nil
		}
		for {
			pid, err := unix.Wait4(-1, nil, unix.WNOHANG, nil)
			if pid <= 0 || err != nil {
				break
			}
		}
	}
	return nil
}

func read(files []string) error {
	for _, name := range files {
		f, err := os.Open(name)
		if err != nil {
			return err
		}
		_, err = io.Copy(os.Stdout, f)
		if err = errors.Join(err, f.Close()); err != nil {
			return err
		}
	}
	return nil
}

// Command reader runs inside a container and times operations on the container's files.
//
//	reader -out FILE [-times N] [-limit DURATION] OPERATION ARGUMENT...
//
// It appends to FILE one JSON object, a reading, for each time. Operations:
//
//	sequential FILE      read the file from front to back, a mebibyte at a time
//	random FILE N        read N pages of 4 KiB at random places of the file, the same each time
//	map FILE             map the file and touch its pages in order
//	find DIR             run find on the file system of DIR
//	stat DIR             run find on the file system of DIR and have it look at each file
//	tar DIR              run tar on the file system of DIR and read what it writes
//	small SURVEY         open, read and close the small files that a survey found
//	run PROGRAM ARG...   run a program to its end
//	all DIR              read every file of the file system of DIR
//	survey DIR SURVEY N  find the largest file and the first N small ones below DIR, and write that to the file SURVEY
//
// The check of a reading says what was read, not how: it is the same for the same files, in whatever order a folder lists them.
// The clock stands still while the program itself computes it.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"time"
)

// reading is what one operation did.
type reading struct {
	Seconds float64 `json:"seconds"`
	Amount  int64   `json:"amount"` // of bytes, reads, names or files
	Check   string  `json:"check"`
	Error   string  `json:"error,omitempty"` // then the rest means nothing
}

// operation does its work once. It checks the number of its arguments.
type operation func(ctx context.Context, args []string) (reading, error)

var operations = map[string]operation{
	"sequential": sequential,
	"random":     random,
	"map":        mapped,
	"find":       find,
	"stat":       stat,
	"tar":        archive,
	"small":      small,
	"run":        program,
	"all":        all,
	"survey":     survey,
}

func main() {
	if err := run(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "reader:", err)
		os.Exit(1)
	}
}

func run(args []string) error {
	flags := flag.NewFlagSet("reader", flag.ContinueOnError)
	out := flags.String("out", "", "append the readings to `FILE`")
	times := flags.Int("times", 1, "do it `N` times")
	limit := flags.Duration("limit", 2*time.Minute, "give up when one time takes longer than `DURATION`")
	if err := flags.Parse(args); err != nil {
		return err
	}
	do, ok := operations[flags.Arg(0)]
	if !ok || *out == "" {
		return fmt.Errorf("want -out and an operation, found %q", args)
	}
	if err := loadSelf(); err != nil {
		return err
	}
	return repeat(*out, *times, func() (reading, error) {
		// Nothing that has to be waited for can hold this up: it is the first process of its container.
		watchdog := time.AfterFunc(*limit, func() {
			fmt.Fprintf(os.Stderr, "reader: %s: not done after %s\n", flags.Arg(0), *limit)
			os.Exit(1)
		})
		defer watchdog.Stop()
		return do(context.Background(), flags.Args()[1:])
	})
}

// repeat writes each reading as soon as it is there, and goes on after one that failed.
func repeat(out string, times int, do func() (reading, error)) (err error) {
	f, err := os.OpenFile(out, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	var failed []error
	for range times {
		r, err := do()
		if err != nil {
			r = reading{Error: err.Error()}
			failed = append(failed, err)
		}
		if err := json.NewEncoder(f).Encode(r); err != nil {
			return errors.Join(append(failed, err)...)
		}
	}
	return errors.Join(failed...)
}

// loadSelf reads the program, so that it need not be fetched from the disk while the clock runs.
func loadSelf() error {
	f, err := os.Open("/proc/self/exe")
	if err != nil {
		return err
	}
	defer f.Close()
	_, err = io.Copy(io.Discard, f)
	return err
}

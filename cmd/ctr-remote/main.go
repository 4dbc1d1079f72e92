// Ctr-remote is Sluice's command line: it converts images into the lazy format, looks at them, pulls them, and asks
// the daemon what it serves. Flags that stargz-snapshotter's tool of the same name has mean what they mean there.
//
// Results go to standard output, whole or not at all; progress and errors go to standard error. The exit status is
// 0 for done, 1 for failed, 2 for wrong usage, and 3 when the image is not what the command needs.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"syscall"

	"github.com/sirupsen/logrus"

	"github.com/sluice-snapshotter/sluice/converter/image"
)

func main() {
	os.Exit(run(os.Args, os.Stdout, os.Stderr))
}

// run is main, for tests.
func run(args []string, stdout, stderr io.Writer) int {
	// containerd's client logs what it also returns.
	logrus.SetOutput(io.Discard)
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	context.AfterFunc(ctx, stop) // a second signal ends the process at once
	err := newApp(stdout, stderr).RunContext(ctx, args)
	if err == nil {
		return 0
	}
	if ctx.Err() != nil {
		err = fmt.Errorf("interrupted: %w", err)
	}
	fmt.Fprintf(stderr, "ctr-remote: %v\n", err)
	return status(err)
}

// usageError is an error in how the command was called.
type usageError struct{ error }

func (e usageError) Unwrap() error { return e.error }

func usagef(format string, args ...any) error {
	return usageError{fmt.Errorf(format, args...)}
}

func status(err error) int {
	var usage usageError
	switch {
	case errors.As(err, &usage):
		return 2
	case errors.Is(err, image.ErrUnsuitable):
		return 3
	}
	return 1
}

// Command containerd-sluice-grpc is Sluice's daemon: a containerd snapshotter,
// served over gRPC on a unix socket, that mounts layers before they have
// arrived.
//
// It is the only place that knows a configuration file. It builds the parts
// below it, the layer store, the registry, the scheduler, the mounts and the
// snapshotter, serves until it is told to end, and leaves mounts in place.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"syscall"

	"github.com/sluice-snapshotter/sluice/fs/toc"
)

// program names the daemon in messages and files.
const program = "containerd-sluice-grpc"

// Exit codes, as for the other commands of the contract.
const (
	exitFailed = 1
	exitUsage  = 2
)

// A usageError is a command line that makes no sense.
type usageError struct{ err error }

func (e *usageError) Error() string { return e.err.Error() + " (see --help)" }
func (e *usageError) Unwrap() error { return e.err }

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, os.Interrupt)
	context.AfterFunc(ctx, stop) // so that a second signal ends the process
	err := run(ctx, os.Args[1:], os.Stdout)
	stop()
	os.Exit(report(err, os.Stderr))
}

// report prints an error and returns the exit code for it.
func report(err error, w io.Writer) int {
	if err == nil {
		return 0
	}
	fmt.Fprintf(w, "%s: %v\n", program, err)
	var usage *usageError
	if errors.As(err, &usage) {
		return exitUsage
	}
	return exitFailed
}

// run is the program: it returns when the daemon has ended, ctx being done, or
// when what the arguments ask for is printed.
func run(ctx context.Context, args []string, stdout io.Writer) error {
	if len(args) > 0 && args[0] == "config" {
		return runConfig(args[1:], stdout)
	}
	line, err := parseFlags(args, stdout)
	if err != nil {
		return err
	}
	switch {
	case line.help:
		return nil
	case line.version:
		_, err := fmt.Fprintf(stdout, "%s %s (gzip: %s)\n", program, version(), toc.GzipDecoder())
		return err
	}
	c, err := line.config()
	if err != nil {
		return err
	}
	setLog(c.LogLevel)
	if line.drain {
		return drain(ctx, c, stdout)
	}
	return serve(ctx, c)
}

// runConfig is the subcommand config.
func runConfig(args []string, stdout io.Writer) error {
	switch {
	case len(args) == 1 && args[0] == "default":
		return writeConfig(stdout, newConfig())
	case len(args) == 2 && args[0] == "check":
		c, err := readConfig(args[1], true)
		if err != nil {
			return fmt.Errorf("configuration:\n%w", err)
		}
		if err := c.check(); err != nil {
			return fmt.Errorf("configuration:\n%s: %w", args[1], err)
		}
		_, err = fmt.Fprintf(stdout, "%s: ok\n", args[1])
		return err
	}
	return &usageError{errors.New("want: config default, or config check FILE")}
}

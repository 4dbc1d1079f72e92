// Command bench is the benchmark suite: what "make bench" and "make bench-quick" run.
//
// It starts containers from images that the node has never seen, with overlayfs, with Sluice and with whatever else is told, in turn, through
// links of several kinds; it reads files from mounts that are complete and from those that are not; and it lets layers, files and
// containers grow. out/bench then has report.json, report.md and the plots. docs/benchmarks.md says how to read them.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/sluice-snapshotter/sluice/integration/bench/result"
	"github.com/sluice-snapshotter/sluice/integration/stack"
)

func main() {
	s, err := parse(os.Args[1:])
	if errors.Is(err, flag.ErrHelp) {
		return
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(2)
	}
	if s.compare != "" {
		os.Exit(status(compare(s)))
	}
	os.Exit(stack.Isolate(func() int { return bench(s) }))
}

func status(err error) int {
	if err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		return 1
	}
	return 0
}

func bench(s settings) int {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	err := run(ctx, s)
	if ctx.Err() != nil {
		fmt.Fprintln(os.Stderr, "bench: interrupted; what was measured until then is in", s.out)
		return 130 // 128 and SIGINT, as shells have it
	}
	return status(err)
}

func run(ctx context.Context, s settings) (err error) {
	unlock, err := alone()
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, unlock()) }()
	b, err := newSuite(ctx, s)
	if err != nil {
		return err
	}
	for _, part := range b.plan() {
		if err := part(ctx); err != nil {
			return err
		}
	}
	if len(b.report.Rows) == 0 {
		return fmt.Errorf("-only %q and -systems %q leave nothing to measure", s.only.String(), s.systems.String())
	}
	b.report.Finished = time.Now().UTC()
	if err := b.save(); err != nil {
		return err
	}
	return failures(b.report)
}

// alone waits until no other run on this machine measures, of whichever checkout. The lock is on a folder, so that nothing is left.
func alone() (unlock func() error, err error) {
	dir, err := os.Open(os.TempDir())
	if err != nil {
		return nil, err
	}
	if err := unix.Flock(int(dir.Fd()), unix.LOCK_EX); err != nil {
		return nil, errors.Join(fmt.Errorf("lock %s: %w", dir.Name(), err), dir.Close())
	}
	return dir.Close, nil
}

// failures makes a run with failed rows a failed run.
func failures(p *result.Report) error {
	failed := 0
	for _, r := range p.Rows {
		if !r.OK() {
			failed++
		}
	}
	if failed > 0 {
		return fmt.Errorf("%d of %d rows failed; the report says why", failed, len(p.Rows))
	}
	return nil
}

func progress(format string, args ...any) {
	fmt.Fprintf(os.Stderr, "%s  %s\n", time.Now().Format(time.TimeOnly), fmt.Sprintf(format, args...))
}

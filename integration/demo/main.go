// Command demo starts a container from an image that has not arrived yet, next to the same start the ordinary way, and prints both.
//
// It is what "make demo" runs: a private containerd, a private registry behind a link with the latency and bandwidth of a real one,
// an ordinary image and the same image converted by ctr-remote. Each repetition starts from empty stores and dropped caches, the two
// systems in turn. The table goes to standard output and to out/demo.md, progress to standard error. Environment:
//
//	LATENCY=20ms    of each request at the link
//	BANDWIDTH=50MB  a second at the link
//	IMAGE=ref       another image, from its registry, instead of the Go toolchain's
//	RUNS=5          of each system
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"
	"time"

	"github.com/sluice-snapshotter/sluice/integration/checkout"
	"github.com/sluice-snapshotter/sluice/integration/link"
	"github.com/sluice-snapshotter/sluice/integration/stack"
)

func main() { os.Exit(stack.Isolate(demo)) }

func demo() int {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	if err := run(ctx); ctx.Err() != nil {
		fmt.Fprintln(os.Stderr, "demo: interrupted")
		return 130 // 128 and SIGINT, as shells have it
	} else if err != nil {
		fmt.Fprintf(os.Stderr, "demo: %v\n\n%s", err, stack.Tail(20))
		return 1
	}
	return 0
}

func run(ctx context.Context) (err error) {
	s, err := readSettings(os.Getenv)
	if err != nil {
		return err
	}
	progress("building containerd, ctr, runc and the registry, unless they are there (the first time takes minutes)")
	if _, err := stack.Parts(ctx, stack.Containerd2); err != nil {
		return err
	}
	progress("building Sluice")
	if _, err := stack.Program("ctr-remote"); err != nil {
		return err
	}
	reg, err := stack.StartRegistry(ctx, link.Options{})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, reg.Close()) }()
	p, err := prepare(ctx, reg, s)
	if err != nil {
		return err
	}
	reg.Link.Shape(s.latency, s.bandwidth)
	samples, err := repeat(ctx, reg, p, s.runs)
	if err != nil {
		return err
	}
	return report(s, p, samples)
}

// repeat measures both systems in turn and checks that they did the same.
func repeat(ctx context.Context, reg *stack.Registry, p pair, times int) (map[string][]sample, error) {
	samples := make(map[string][]sample)
	output := ""
	for i := range times {
		for _, sys := range p.systems() {
			got, err := measure(ctx, reg, sys)
			if err != nil {
				return nil, fmt.Errorf("%s: %w", sys.name, err)
			}
			progress("%d/%d %-9s pull %.2f s, run %.2f s, %.1f MB in %d requests", i+1, times, sys.name, got.pull, got.run, got.bytes, int(got.requests))
			if output == "" {
				output = got.output
			}
			if got.output == "" || got.output != output {
				return nil, fmt.Errorf("%s: the container printed %q, before it was %q", sys.name, got.output, output)
			}
			samples[sys.name] = append(samples[sys.name], got)
		}
	}
	return samples, nil
}

// report prints the table and keeps it.
func report(s settings, p pair, samples map[string][]sample) error {
	text := table(s, p, samples)
	fmt.Print(text)
	root, err := checkout.Root()
	if err != nil {
		return err
	}
	out := filepath.Join(root, "out")
	if err := os.MkdirAll(out, 0o755); err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(out, "demo.md"), []byte(text), 0o644)
}

func progress(format string, args ...any) {
	fmt.Fprintf(os.Stderr, "%s  %s\n", time.Now().Format(time.TimeOnly), fmt.Sprintf(format, args...))
}

package main

import (
	"context"
	"errors"
	"time"

	benchsystem "github.com/sluice-snapshotter/sluice/integration/bench/system"
	"github.com/sluice-snapshotter/sluice/integration/stack"
)

// sample is one start of one system.
type sample struct {
	pull, run float64 // seconds; run is from the start of the container to its exit
	bytes     float64 // MB at the link until the exit
	requests  float64 // at the link until the exit
	asked     float64 // MB that were fetched for demand and prefetch until the exit; all of them without Sluice
	output    string
}

func (s sample) total() float64 { return s.pull + s.run }

// measure starts a container on a new node with empty stores and caches.
func measure(ctx context.Context, reg *stack.Registry, sys system) (s sample, err error) {
	o := stack.NodeOptions{}
	if sys.name == "sluice" {
		o.Daemon = &stack.DaemonOptions{TOML: benchsystem.Settings}
	}
	n, err := stack.StartNode(ctx, o)
	if err != nil {
		return s, err
	}
	defer func() { err = errors.Join(err, n.Close()) }()
	if err := stack.DropCaches(); err != nil {
		return s, err
	}
	c := stack.Container{Ref: sys.ref, Snapshotter: sys.name}
	reg.Link.ResetCounts()
	start := time.Now()
	if err := n.Pull(ctx, c); err != nil {
		return s, err
	}
	pulled := time.Now()
	if s.output, err = n.Run(ctx, c); err != nil {
		return s, err
	}
	s.pull, s.run = pulled.Sub(start).Seconds(), time.Since(pulled).Seconds()
	count := reg.Link.Counts().Total()
	s.bytes, s.requests = mb(count.Bytes), float64(count.Requests)
	s.asked = s.bytes
	if o.Daemon != nil {
		s.asked, err = asked(ctx, n)
	}
	return s, err
}

// asked is how many MB the daemon fetched because something needed them, not in the background.
func asked(ctx context.Context, n *stack.Node) (float64, error) {
	m, err := n.Metrics(ctx)
	if err != nil {
		return 0, err
	}
	const name = "sluice_fetch_bytes_total"
	sum := 0.0
	for _, priority := range []string{"demand", "prefetch"} {
		sum += m.Sum(name, map[string]string{"priority": priority})
	}
	if sum == 0 {
		return 0, errors.New("the daemon fetched nothing: " + name + " is 0")
	}
	return sum / 1e6, nil
}

// Package meter measures what a node costs between two moments: bytes and requests at the link, processor time, memory and disk.
package meter

import (
	"context"
	"fmt"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/sluice-snapshotter/sluice/integration/bench/result"
	"github.com/sluice-snapshotter/sluice/integration/stack"
)

// Meter watches one node and its registry from its beginning on. It owns nothing that has to be closed.
type Meter struct {
	node  *stack.Node
	reg   *stack.Registry
	start time.Time
	then  state
	quiet time.Duration // see Quiet
}

// state is what the machine and the node's processes say at one moment.
type state struct {
	cpu         time.Duration // of containerd and the snapshotter
	containerd  int64         // bytes at most
	snapshotter int64         // bytes at most; 0 where containerd has the snapshotter in itself
	cache       int64         // bytes
}

// Begin drops the machine's caches, sets the link's counts to zero, and starts the clock.
func Begin(n *stack.Node, reg *stack.Registry) (*Meter, error) {
	m := &Meter{node: n, reg: reg, quiet: Quiet}
	if err := stack.DropCaches(); err != nil {
		return nil, err
	}
	var err error
	if m.then, err = m.state(); err != nil {
		return nil, err
	}
	reg.Link.ResetCounts()
	m.start = time.Now()
	return m, nil
}

// Elapsed is the seconds since Begin.
func (m *Meter) Elapsed() float64 { return time.Since(m.start).Seconds() }

// Ready returns what has been used since Begin.
func (m *Meter) Ready() (map[result.Measure]float64, error) {
	count := m.reg.Link.Counts().Total()
	now, err := m.state()
	if err != nil {
		return nil, err
	}
	values := map[result.Measure]float64{
		result.BytesReady:    float64(count.Bytes),
		result.RequestsReady: float64(count.Requests),
		result.CPU:           (now.cpu - m.then.cpu).Seconds(),
		result.ContainerdRSS: float64(now.containerd),
		result.PageCache:     float64(now.cache - m.then.cache),
	}
	if m.node.HasSnapshotter() {
		values[result.RSS] = float64(now.snapshotter)
	}
	return values, nil
}

// Quiet is how long nothing may come through the link for everything to have come. stargz-snapshotter pauses for five seconds before
// it fetches what nobody asked for; SOCI for half a minute, which is not waited for.
const Quiet = 6 * time.Second

// Rest waits until the link has been quiet, and returns what came through it since Begin and when the last of it came; the link may
// have been quiet before the call. After limit it gives up and returns nil: that a snapshotter goes on fetching for longer is no fault.
func (m *Meter) Rest(ctx context.Context, limit time.Duration) (map[result.Measure]float64, error) {
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for end := time.Now().Add(limit); ; {
		counts, last := m.reg.Link.Counts(), m.start
		if counts.Last.After(last) {
			last = counts.Last
		}
		if time.Since(last) >= m.quiet {
			return map[result.Measure]float64{
				result.All:         last.Sub(m.start).Seconds(),
				result.BytesAll:    float64(counts.Total().Bytes),
				result.RequestsAll: float64(counts.Total().Requests),
			}, nil
		}
		if time.Now().After(end) {
			return nil, nil
		}
		select {
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-tick.C:
		}
	}
}

func (m *Meter) state() (s state, err error) {
	u, err := m.node.ContainerdUsage()
	if err != nil {
		return s, err
	}
	s.cpu, s.containerd = u.CPU, u.Peak
	if m.node.HasSnapshotter() {
		if u, err = m.node.SnapshotterUsage(); err != nil {
			return s, err
		}
		s.cpu += u.CPU
		s.snapshotter = u.Peak
	}
	s.cache, err = pageCache()
	return s, err
}

// pageCache is the machine's, without what only looks like it: files in memory. The unit of /proc/meminfo is KiB (proc_meminfo(5)).
func pageCache() (int64, error) {
	text, err := os.ReadFile("/proc/meminfo")
	if err != nil {
		return 0, err
	}
	sum := int64(0)
	for line := range strings.Lines(string(text)) {
		name, value, _ := strings.Cut(line, ":")
		sign, ok := map[string]int64{"Cached": 1, "Buffers": 1, "Shmem": -1}[name]
		if !ok {
			continue
		}
		kib, err := strconv.ParseInt(strings.TrimSuffix(strings.TrimSpace(value), " kB"), 10, 64)
		if err != nil {
			return 0, fmt.Errorf("/proc/meminfo: %w", err)
		}
		sum += sign * kib << 10
	}
	return sum, nil
}

package stack

import (
	"fmt"
	"os"
	"strconv"
	"strings"
	"time"
)

// Usage is what a process and its descendants have used since it started.
type Usage struct {
	CPU  time.Duration // user and system, of descendants that have ended as well
	Peak int64         // bytes of resident memory at most: the sum of the peaks of those that live, which need not have been at the same moment
	RSS  int64         // bytes of resident memory now
}

// ContainerdUsage is what containerd has used. Shims and what they run are not part of it: a shim is the child of a first shim that ends at
// once, so that it has process 1 for its parent before containerd speaks to it. (Of the first shim, containerd has waited for it: what it
// used counts.)
func (n *Node) ContainerdUsage() (Usage, error) { return n.containerd.usage() }

// SnapshotterUsage is what the Sluice daemon, or the other snapshotter, has used. The node must have one: see HasSnapshotter.
func (n *Node) SnapshotterUsage() (Usage, error) {
	if n.proxy != nil {
		return n.proxy.usage()
	}
	return n.daemon.process.usage()
}

// HasSnapshotter says whether the node has a snapshotter that is a process of its own.
func (n *Node) HasSnapshotter() bool { return n.proxy != nil || n.daemon != nil }

func (p *process) pid() int { return p.cmd.Process.Pid }

// usage adds up the process's tree. Times of a child that has ended are in its parent's once that has waited for it, so that each
// process counts once: by itself or in its parent.
func (p *process) usage() (u Usage, err error) {
	all, err := tasks()
	if err != nil {
		return u, fmt.Errorf("usage of %s: %w", p.name, err)
	}
	// The process itself is there even if it has just ended, or else it has no peak.
	if u.Peak, u.RSS, err = resident(p.pid()); err != nil {
		return u, fmt.Errorf("usage of %s: %w", p.name, err)
	}
	for _, t := range trees(all, p.pid()) {
		u.CPU += t.cpu
		if t.pid == p.pid() {
			continue
		}
		if peak, rss, err := resident(t.pid); err == nil { // else it has ended
			u.Peak += peak
			u.RSS += rss
		}
	}
	return u, nil
}

// resident reads VmHWM and VmRSS, which are in KiB (proc_pid_status(5)).
func resident(pid int) (peak, rss int64, err error) {
	path := fmt.Sprintf("/proc/%d/status", pid)
	text, err := os.ReadFile(path)
	if err != nil {
		return 0, 0, err
	}
	for line := range strings.Lines(string(text)) {
		name, value, _ := strings.Cut(line, ":")
		bytes := &peak
		switch name {
		case "VmRSS":
			bytes = &rss
		case "VmHWM":
		default:
			continue
		}
		kib, err := strconv.ParseInt(strings.TrimSuffix(strings.TrimSpace(value), " kB"), 10, 64)
		if err != nil {
			return 0, 0, fmt.Errorf("%s: %w", path, err)
		}
		*bytes = kib << 10
	}
	if peak == 0 || rss == 0 {
		return 0, 0, fmt.Errorf("%s: no VmHWM and VmRSS: the process has ended", path)
	}
	return peak, rss, nil
}

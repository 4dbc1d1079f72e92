package stack

import (
	"bytes"
	"fmt"
	"os"
	"strconv"
	"strings"
	"time"
)

// Usage is what a process has used since it started.
type Usage struct {
	CPU  time.Duration // user and system, of children that have ended as well
	Peak int64         // bytes of resident memory at most
}

// clockTick is the unit of the times in /proc/PID/stat: USER_HZ, which is 100 on every architecture that Go knows (proc_pid_stat(5)).
const clockTick = time.Second / 100

// ContainerdUsage is what containerd has used; shims are not part of it.
func (n *Node) ContainerdUsage() (Usage, error) { return n.containerd.usage() }

// SnapshotterUsage is what the Sluice daemon, or the other snapshotter, has used; containerd's own usage where there is neither.
func (n *Node) SnapshotterUsage() (Usage, error) {
	switch {
	case n.proxy != nil:
		return n.proxy.usage()
	case n.daemon != nil:
		return n.daemon.process.usage()
	}
	return n.ContainerdUsage()
}

// HasSnapshotter says whether the node has a snapshotter that is a process of its own.
func (n *Node) HasSnapshotter() bool { return n.proxy != nil || n.daemon != nil }

func (p *process) usage() (u Usage, err error) {
	dir := fmt.Sprintf("/proc/%d/", p.cmd.Process.Pid)
	stat, err := os.ReadFile(dir + "stat")
	if err != nil {
		return u, fmt.Errorf("usage of %s: %w", p.name, err)
	}
	// The second field is the program's name in parentheses, with whatever is in it.
	fields := strings.Fields(string(stat[bytes.LastIndexByte(stat, ')')+1:]))
	if len(fields) < 15 {
		return u, fmt.Errorf("usage of %s: stat has %d fields", p.name, len(fields))
	}
	for _, f := range fields[11:15] { // utime, stime, cutime, cstime
		ticks, err := strconv.ParseInt(f, 10, 64)
		if err != nil {
			return u, fmt.Errorf("usage of %s: %w", p.name, err)
		}
		u.CPU += time.Duration(ticks) * clockTick
	}
	u.Peak, err = peak(dir + "status")
	return u, err
}

// peak reads VmHWM, which is in KiB (proc_pid_status(5)).
func peak(path string) (int64, error) {
	text, err := os.ReadFile(path)
	if err != nil {
		return 0, err
	}
	for line := range strings.Lines(string(text)) {
		if value, ok := strings.CutPrefix(line, "VmHWM:"); ok {
			kib, err := strconv.ParseInt(strings.TrimSuffix(strings.TrimSpace(value), " kB"), 10, 64)
			return kib << 10, err
		}
	}
	return 0, fmt.Errorf("%s: no VmHWM: the process has ended", path)
}

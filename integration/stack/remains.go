package stack

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"slices"

	"golang.org/x/sys/unix"
)

// What outlives containerd and the snapshotter belongs to nobody's tree: shims, which are meant to, with their containers, and helpers that a
// snapshotter detached. They are known by the node's folder in their arguments or in the environment that they inherited (Node.env).

// killShims kills the node's shims and what runs below them. Those who serve file systems are spared: they end on their own terms
// afterwards, and what a container waits for is theirs to give.
func (n *Node) killShims() ([]task, error) {
	var spared []int
	if n.daemon != nil && n.daemon.process != nil {
		spared = append(spared, n.daemon.process.pid())
	}
	if n.proxy != nil {
		spared = append(spared, n.proxy.pid())
	}
	address := []byte("\x00" + n.Socket() + "\x00")
	return kill(spared, func(pid int) bool { return contains(pid, "cmdline", address) })
}

// killRemains kills every process that names the node's folder, and what descends from it.
func (n *Node) killRemains() ([]task, error) {
	dir := []byte(n.dir + "/")
	return kill(nil, func(pid int) bool { return contains(pid, "cmdline", dir) || contains(pid, "environ", dir) })
}

// contains says whether a process's file in /proc has the text; one that has ended has none.
func contains(pid int, file string, text []byte) bool {
	content, err := os.ReadFile(fmt.Sprintf("/proc/%d/%s", pid, file))
	return err == nil && bytes.Contains(content, text)
}

// kill kills the processes that match and their descendants, except the trees of those that are spared, and returns them. All are stopped
// before the first is killed, so that nobody is orphaned who has not been seen.
func kill(spared []int, match func(pid int) bool) ([]task, error) {
	var held []task
	for {
		more, err := matching(spared, match)
		if err != nil {
			return held, fmt.Errorf("find what is left of a node: %w", err)
		}
		more = slices.DeleteFunc(more, func(t task) bool { return t.zombie || slices.ContainsFunc(held, t.same) })
		if len(more) == 0 {
			break
		}
		for _, t := range more {
			_ = unix.Kill(t.pid, unix.SIGSTOP) // it has ended
		}
		held = append(held, more...)
	}
	for _, t := range held {
		_ = unix.Kill(t.pid, unix.SIGKILL) // it has ended
	}
	return held, nil
}

func matching(spared []int, match func(pid int) bool) ([]task, error) {
	all, err := tasks()
	if err != nil {
		return nil, err
	}
	safe := append(trees(all, spared...), task{pid: 1}, task{pid: os.Getpid()})
	kept := func(t task) bool { return slices.ContainsFunc(safe, func(s task) bool { return s.pid == t.pid }) }
	var roots []int
	for _, t := range all {
		if !kept(t) && match(t.pid) {
			roots = append(roots, t.pid)
		}
	}
	return slices.DeleteFunc(trees(all, roots...), kept), nil
}

// same says that two descriptions are of one process.
func (t task) same(other task) bool { return t.pid == other.pid && t.started == other.started }

// await returns when processes that were killed have ended. One that waits for a file system ends when that does.
func await(killed []task) error {
	return poll(context.Background(), nil, func(context.Context) error {
		var errs []error
		for _, t := range killed {
			now, err := readTask(t.pid)
			if err == nil && now.same(t) && !now.zombie {
				errs = append(errs, fmt.Errorf("process %d was killed and has not ended", t.pid))
			}
		}
		return errors.Join(errs...)
	})
}

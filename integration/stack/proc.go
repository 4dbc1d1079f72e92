package stack

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// task is a process as /proc/PID/stat describes it (proc_pid_stat(5)).
type task struct {
	pid, parent int
	zombie      bool          // it has ended and has nothing left but its times
	cpu         time.Duration // user and system, its own and of its children that have ended and been waited for
	started     string        // tells it from a later process with the same pid
}

// clockTick is the unit of the times in /proc/PID/stat: USER_HZ, which is 100 on every architecture that Go knows (proc_pid_stat(5)).
const clockTick = time.Second / 100

// tasks are all processes of this PID namespace, in the order of their pids. Those that end meanwhile may be missing. Parents are read
// before the children that they started, so that one that ends meanwhile does not count twice: by itself and in its parent.
func tasks() ([]task, error) {
	names, err := filepath.Glob("/proc/[0-9]*")
	if err != nil {
		return nil, err
	}
	pids := make([]int, len(names))
	for i, name := range names {
		if pids[i], err = strconv.Atoi(filepath.Base(name)); err != nil {
			return nil, err
		}
	}
	slices.Sort(pids)
	var all []task
	for _, pid := range pids {
		t, err := readTask(pid)
		switch {
		case gone(err):
		case err != nil:
			return nil, err
		default:
			all = append(all, t)
		}
	}
	return all, nil
}

// gone says that a file of /proc cannot be read because the process has ended.
func gone(err error) bool { return errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ESRCH) }

func readTask(pid int) (task, error) {
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return task{}, err
	}
	t, err := parseTask(stat)
	if err != nil {
		return task{}, fmt.Errorf("/proc/%d/stat: %w", pid, err)
	}
	t.pid = pid
	return t, nil
}

// parseTask reads all but the pid.
func parseTask(stat []byte) (t task, err error) {
	// The second field is the program's name in parentheses, with whatever is in it.
	fields := strings.Fields(string(stat[bytes.LastIndexByte(stat, ')')+1:]))
	if len(fields) < 20 {
		return t, fmt.Errorf("%d fields after the name", len(fields))
	}
	t.zombie = fields[0] == "Z" || fields[0] == "X"
	if t.parent, err = strconv.Atoi(fields[1]); err != nil {
		return t, err
	}
	for _, f := range fields[11:15] { // utime, stime, cutime, cstime
		ticks, err := strconv.ParseInt(f, 10, 64)
		if err != nil {
			return t, err
		}
		t.cpu += time.Duration(ticks) * clockTick
	}
	t.started = fields[19]
	return t, nil
}

// trees are the roots that are among all, and what descends from them, each once.
func trees(all []task, roots ...int) []task {
	children := make(map[int][]task)
	var next, found []task
	for _, t := range all {
		children[t.parent] = append(children[t.parent], t)
	}
	seen := make(map[int]bool)
	for _, t := range all {
		for _, pid := range roots {
			if t.pid == pid {
				next = append(next, t)
			}
		}
	}
	for len(next) > 0 {
		t := next[0]
		next = next[1:]
		if !seen[t.pid] {
			seen[t.pid] = true
			found = append(found, t)
			next = append(next, children[t.pid]...)
		}
	}
	return found
}

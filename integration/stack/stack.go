// Package stack runs the real parts around Sluice: a registry behind a link, containerd, and the daemon, all in a private place.
//
// Isolate re-executes the program in mount, PID and cgroup namespaces of its own; everything else here wants to be called inside.
// A Registry is a distribution registry and the link in front of it; a Node is a containerd with, if wanted, a Sluice daemon.
// Several of each may run at once. Constructors return when what they start answers, and Close stops it; what a program does not
// close ends with its namespaces. The methods of a Registry and of a Node may be called from any goroutine, except
// that starting and stopping parts is one goroutine's business.
package stack

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"
)

// readyTimeout is how long a part may take to answer on a loaded machine before something must be wrong with it.
const readyTimeout = time.Minute

// poll asks condition until it returns nil, p has ended (nil p never ends) or the time is up.
func poll(ctx context.Context, p *process, condition func(ctx context.Context) error) error {
	ctx, cancel := context.WithTimeout(ctx, readyTimeout)
	defer cancel()
	ended := make(<-chan struct{})
	if p != nil {
		ended = p.ended
	}
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for {
		err := condition(ctx)
		if err == nil {
			return nil
		}
		select {
		case <-tick.C:
		case <-ended:
			return fmt.Errorf("%s ended: %w\n%s", p.name, p.err, p.tail())
		case <-ctx.Done():
			if p != nil {
				return fmt.Errorf("%s: %w: %w\n%s", p.name, ctx.Err(), err, p.tail())
			}
			return fmt.Errorf("%w: %w", ctx.Err(), err)
		}
	}
}

// root is the private folder of this program's isolation.
func root() (string, error) {
	dir := os.Getenv(rootVariable)
	if dir == "" {
		return "", errors.New("not isolated: call stack.Isolate first")
	}
	return dir, nil
}

// newDir makes a folder below root whose path is short enough for sockets in it.
func newDir(kind string) (string, error) {
	dir, err := root()
	if err != nil {
		return "", err
	}
	if dir, err = os.MkdirTemp(dir, kind); err != nil {
		return "", err
	}
	return dir, os.Chmod(dir, 0o711) // the users of containers go through it
}

// DropCaches writes what is dirty and empties the page, dentry and inode caches of the machine.
func DropCaches() error {
	unix.Sync()
	if err := os.WriteFile("/proc/sys/vm/drop_caches", []byte("3"), 0); err != nil {
		return fmt.Errorf("drop caches: %w", err)
	}
	return nil
}

// Tail is the end of every log of every node and registry: what a person wants to read when something has failed.
func Tail(lines int) string {
	dir, err := root()
	if err != nil {
		return err.Error()
	}
	return tails(filepath.Join(dir, "*"), lines)
}

// Tail is the end of the logs of containerd and of the daemon.
func (n *Node) Tail(lines int) string { return tails(n.dir, lines) }

func tails(dir string, lines int) string {
	logs, err := filepath.Glob(filepath.Join(dir, "*.log"))
	if err != nil {
		return err.Error()
	}
	text := ""
	for _, name := range logs {
		text += fmt.Sprintf("--- %s\n%s\n", name, tail(name, lines))
	}
	return text
}

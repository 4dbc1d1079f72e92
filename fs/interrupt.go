package fs

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"strconv"
	"sync"
	"time"
)

// dyingCheck is how often a reader that had a signal is looked at again. The kernel tells of the first signal only, and
// waits for the answer, unkillable, even when a later one is SIGKILL.
const dyingCheck = 50 * time.Millisecond

// interrupt is the context of a READ. It ends when the reader dies or the server closes: any signal makes the kernel ask
// for an early end, but a program that reads a file does not expect EINTR (in a page fault it would be SIGBUS), so that
// other signals have to wait as they do with a disk.
//
// Nothing is watched before something waits for Done: most reads find what they want on disk.
type interrupt struct {
	context.Context                 // for its values
	asked           <-chan struct{} // closed by go-fuse when the kernel asks for an early end
	closing         <-chan struct{} // closed when the server closes
	pid             uint32          // of the reading thread, 0 where it has none that we can see
	waits           func()          // told when the wait begins, by the goroutine that is to wait; may be nil

	watching sync.Once
	watcher  sync.WaitGroup
	quit     chan struct{}
	done     chan struct{}
}

func newInterrupt(ctx context.Context, asked, closing <-chan struct{}, pid uint32) *interrupt {
	return &interrupt{
		Context: ctx, asked: asked, closing: closing, pid: pid,
		quit: make(chan struct{}), done: make(chan struct{}),
	}
}

func (c *interrupt) Done() <-chan struct{} {
	c.watching.Do(func() {
		if c.waits != nil {
			c.waits()
		}
		c.watcher.Go(c.watch)
	})
	return c.done
}

func (c *interrupt) Err() error {
	select {
	case <-c.done:
		return context.Canceled
	default:
		return nil
	}
}

func (c *interrupt) watch() {
	select {
	case <-c.asked:
	case <-c.closing:
		close(c.done)
		return
	case <-c.quit:
		return
	}
	tick := time.NewTicker(dyingCheck)
	defer tick.Stop()
	for !dying(c.pid) {
		select {
		case <-tick.C:
		case <-c.closing:
			close(c.done)
			return
		case <-c.quit:
			return
		}
	}
	close(c.done)
}

// stop ends the watching. go-fuse uses asked for another request afterwards.
func (c *interrupt) stop() {
	c.watching.Do(func() {})
	close(c.quit)
	c.watcher.Wait()
}

// sigkill is SIGKILL's bit in SigPnd. The kernel adds it to every thread of a process that any signal is about to end.
const sigkill = 1 << 8

// dying reports whether thread pid is about to end, or gone.
func dying(pid uint32) bool {
	if pid == 0 {
		return true
	}
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return true
	}
	for line := range bytes.Lines(b) {
		for _, field := range []string{"SigPnd:", "ShdPnd:"} {
			if hex, ok := bytes.CutPrefix(line, []byte(field)); ok {
				pending, err := strconv.ParseUint(string(bytes.TrimSpace(hex)), 16, 64)
				if err != nil || pending&sigkill != 0 {
					return true
				}
			}
		}
	}
	return false
}

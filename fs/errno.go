package fs

import (
	"context"
	"errors"
	iofs "io/fs"
	"sync"
	"syscall"
	"time"

	"github.com/containerd/log"
	"github.com/hanwen/go-fuse/v2/fuse"

	"github.com/sluice-snapshotter/sluice/fs/layer"
	"github.com/sluice-snapshotter/sluice/fs/metadata"
)

// errno is what a program that reads from a mount is told of err. It is the only place where errors become numbers.
func errno(err error) syscall.Errno {
	var n syscall.Errno
	switch {
	case err == nil:
		return 0
	case errors.Is(err, context.Canceled):
		return syscall.EINTR
	case errors.Is(err, iofs.ErrNotExist):
		return syscall.ENOENT
	case errors.Is(err, metadata.ErrNoXattr):
		return syscall.ENODATA
	case errors.As(err, &n) && own(n):
		return n
	default:
		return syscall.EIO
	}
}

// own reports whether n is an answer that this package gives itself. Others, such as ECONNREFUSED of a registry or
// ENOSPC of the store, would mean something else to the reader.
func own(n syscall.Errno) bool {
	switch n {
	case syscall.ESTALE, syscall.ENXIO, syscall.ERANGE, syscall.EINVAL:
		return true
	}
	return false
}

// status turns an error of a request on l into the answer, and logs it if it is an I/O error.
func (l *shown) status(err error) fuse.Status {
	n := errno(err)
	if n == syscall.EIO && !errors.Is(err, layer.ErrClosed) {
		if entry := l.faults.entry(l.logger, err); entry != nil {
			entry.Error("read failed")
		}
	}
	return fuse.Status(n)
}

// quiet is how long a cause that was logged is not logged again.
const quiet = time.Minute

// maxCauses bounds what one layer's faults remembers; beyond it, it forgets.
const maxCauses = 64

// faults keeps the log short: it admits each cause once a minute, as a registry that is down would fail thousands of
// reads. The zero value has seen none.
type faults struct {
	mu   sync.Mutex
	last map[string]fault // by cause
}

type fault struct {
	at         time.Time
	suppressed int
}

// entry is what to log err by; nil if it is not to be logged.
func (f *faults) entry(logger *log.Entry, err error) *log.Entry {
	suppressed, ok := f.admit(rootCause(err), time.Now())
	if !ok {
		return nil
	}
	if suppressed > 0 {
		logger = logger.WithField("more", suppressed)
	}
	return logger.WithError(err)
}

// admit reports whether a cause is to be logged now, and how often it was not since the last time.
func (f *faults) admit(cause string, now time.Time) (suppressed int, ok bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	last, seen := f.last[cause]
	if seen && now.Sub(last.at) < quiet {
		last.suppressed++
		f.last[cause] = last
		return 0, false
	}
	if f.last == nil || len(f.last) >= maxCauses {
		f.last = make(map[string]fault)
	}
	f.last[cause] = fault{at: now}
	return last.suppressed, true
}

// rootCause is the text of the innermost error, the first one where there are several.
func rootCause(err error) string {
	for {
		var inner error
		switch e := err.(type) { //nolint:errorlint // it is the chain itself that is walked
		case interface{ Unwrap() error }:
			inner = e.Unwrap()
		case interface{ Unwrap() []error }:
			if errs := e.Unwrap(); len(errs) > 0 {
				inner = errs[0]
			}
		}
		if inner == nil {
			return err.Error()
		}
		err = inner
	}
}

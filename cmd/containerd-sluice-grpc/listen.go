package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"
)

// listen opens the unix socket, for root only, in place of one that nobody
// listens on any more.
func listen(ctx context.Context, name string) (net.Listener, error) {
	if owned(ctx, name) {
		return nil, fmt.Errorf("listen on %s: another process serves this socket", name)
	}
	if err := os.MkdirAll(filepath.Dir(name), 0o711); err != nil {
		return nil, fmt.Errorf("listen on %s: %w", name, err)
	}
	if err := removeSocket(name); err != nil {
		return nil, fmt.Errorf("listen on %s: %w", name, err)
	}
	l, err := new(net.ListenConfig).Listen(ctx, "unix", name)
	if err != nil {
		return nil, err
	}
	if err := os.Chmod(name, 0o600); err != nil {
		l.Close()
		return nil, err
	}
	return l, nil
}

// owned says whether somebody listens on a socket, and says so in doubt: a full
// backlog, a stopped process and one of another user are somebody.
func owned(ctx context.Context, name string) bool {
	dialer := net.Dialer{Timeout: time.Second}
	conn, err := dialer.DialContext(ctx, "unix", name)
	if err == nil {
		conn.Close()
		return true
	}
	// ENOTDIR is ENOENT where a directory of the path is a file.
	return !errors.Is(err, unix.ECONNREFUSED) && !errors.Is(err, unix.ENOENT) && !errors.Is(err, unix.ENOTDIR)
}

// removeSocket removes a stale socket, and nothing that is not one.
func removeSocket(name string) error {
	info, err := os.Lstat(name)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	if info.Mode().Type() != fs.ModeSocket {
		return errors.New("there is a file of that name that is not a socket")
	}
	return os.Remove(name)
}

// lockState makes the state directory this process's own until the file is
// closed: another daemon would take the mounts there for leftovers.
func lockState(dir string) (*os.File, error) {
	if err := os.MkdirAll(dir, 0o711); err != nil {
		return nil, fmt.Errorf("state directory: %w", err)
	}
	f, err := os.OpenFile(filepath.Join(dir, "lock"), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, fmt.Errorf("state directory: %w", err)
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		f.Close()
		if errors.Is(err, unix.EWOULDBLOCK) {
			return nil, fmt.Errorf("state directory %s is in use by another daemon", dir)
		}
		return nil, fmt.Errorf("lock state directory %s: %w", dir, err)
	}
	return f, nil
}

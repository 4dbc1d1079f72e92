package main

import (
	"net"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"
)

// shortDir is a directory for sockets: t.TempDir can be too long for one.
func shortDir(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "s")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	return dir
}

// TestFullBacklog checks that a daemon too busy to take a connection keeps its
// socket.
func TestFullBacklog(t *testing.T) {
	name := filepath.Join(shortDir(t), "full")
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fd)
	if err := unix.Bind(fd, &unix.SockaddrUnix{Name: name}); err != nil {
		t.Fatal(err)
	}
	if err := unix.Listen(fd, 0); err != nil {
		t.Fatal(err)
	}
	pending, err := net.Dial("unix", name)
	if err != nil {
		t.Fatal(err)
	}
	defer pending.Close()
	if !owned(t.Context(), name) {
		t.Error("a socket with a full backlog counts as nobody's")
	}
	if l, err := listen(t.Context(), name); err == nil {
		l.Close()
		t.Error("listen took it")
	}
	if _, err := os.Lstat(name); err != nil {
		t.Error(err)
	}
}

func TestNotOwned(t *testing.T) {
	dir := shortDir(t)
	stale, err := net.ListenUnix("unix", &net.UnixAddr{Name: filepath.Join(dir, "stale"), Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	stale.SetUnlinkOnClose(false)
	stale.Close()
	if err := os.WriteFile(filepath.Join(dir, "file"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"stale", "none", "none/none", "file", "file/none"} {
		if owned(t.Context(), filepath.Join(dir, name)) {
			t.Errorf("%s counts as owned", name)
		}
	}
}

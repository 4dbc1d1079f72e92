package stack

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"runtime"
	"syscall"

	"golang.org/x/sys/unix"
)

// The program runs three times. The outer process, which the caller started, makes a private folder and cgroups, waits, and
// cleans up. The first process of the new PID namespace reaps orphans. The inner process is its child and does the work. When any of
// them ends, however it ends, the kernel kills everything inside and takes the mounts away with the last of them.
const (
	stageVariable = "SLUICE_STAGE"
	stageFirst    = "first"
	stageInner    = "inner"
	rootVariable  = "SLUICE_ROOT"
)

// Isolate calls run in a copy of this program that has namespaces of its own, and returns what it returns, or 1 if that cannot be.
// For tests:
//
//	func TestMain(m *testing.M) { os.Exit(stack.Isolate(m.Run)) }
//
// Inside, mounts are private, /proc shows only processes from inside, /run is empty, all cgroups lie below one of this
// program's own, and os.TempDir is a folder that is removed afterwards. It needs root.
func Isolate(run func() int) int {
	stage := os.Getenv(stageVariable)
	code, err := 0, error(nil)
	switch stage {
	case stageFirst:
		code, err = first()
	case stageInner:
		if err = enter(); err == nil {
			code = run()
		}
	default:
		code, err = outer()
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "isolate:", err)
		return 1
	}
	return code
}

// outer starts the first process, passes signals on to it, and removes what it leaves.
func outer() (code int, err error) {
	if os.Geteuid() != 0 {
		return 0, errors.New("this starts containers and mounts file systems: run it as root")
	}
	place, err := newPlace()
	if err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, place.remove()) }()
	// Pdeathsig fires when the thread that started the child ends, so that thread has to stay.
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	cmd, err := again(stageFirst)
	if err != nil {
		return 0, err
	}
	cmd.Env = append(cmd.Env, rootVariable+"="+place.dir, "TMPDIR="+filepath.Join(place.dir, "t"))
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags: unix.CLONE_NEWNS | unix.CLONE_NEWPID,
		Pdeathsig:  syscall.SIGKILL,
		Setpgid:    true, // a terminal's Ctrl-C comes by way of us, once
	}
	return wait(cmd)
}

// first is process 1: it starts the inner process in a cgroup namespace, and reaps whatever is orphaned.
func first() (int, error) {
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return 0, fmt.Errorf("make mounts private: %w", err)
	}
	if err := unix.Mount("proc", "/proc", "proc", unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC, ""); err != nil {
		return 0, fmt.Errorf("mount /proc: %w", err)
	}
	if err := joinCgroups(filepath.Base(os.Getenv(rootVariable))); err != nil {
		return 0, err
	}
	cmd, err := again(stageInner)
	if err != nil {
		return 0, err
	}
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: unix.CLONE_NEWCGROUP}
	signals := make(chan os.Signal, 16)
	signal.Notify(signals, forwarded...)
	if err := cmd.Start(); err != nil {
		return 0, err
	}
	go func() {
		for s := range signals {
			_ = cmd.Process.Signal(s) // it has ended: so do we
		}
	}()
	for {
		var status unix.WaitStatus
		pid, err := unix.Wait4(-1, &status, 0, nil)
		switch {
		case errors.Is(err, unix.EINTR):
		case err != nil:
			return 0, fmt.Errorf("wait: %w", err)
		case pid == cmd.Process.Pid:
			return exitCode(status.Exited(), status.ExitStatus(), int(status.Signal())), nil
		}
	}
}

// enter makes the mounts that the inner process wants, before anything runs.
func enter() error {
	if err := freshRun(); err != nil {
		return err
	}
	if err := mountCgroups(); err != nil {
		return err
	}
	// Programs that this one starts are no stages of it.
	return os.Unsetenv(stageVariable)
}

// freshRun mounts an empty /run, but keeps the resolver's configuration where that lies below it.
func freshRun() error {
	const resolv = "/etc/resolv.conf"
	target, err := filepath.EvalSymlinks(resolv)
	var text []byte
	if err == nil {
		text, err = os.ReadFile(target)
	}
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	if err := unix.Mount("tmpfs", "/run", "tmpfs", unix.MS_NOSUID|unix.MS_NODEV, "mode=755"); err != nil {
		return fmt.Errorf("mount /run: %w", err)
	}
	if _, err := os.Stat(target); target == "" || err == nil {
		return nil
	}
	if err := os.MkdirAll(filepath.Dir(target), 0o755); err != nil {
		return err
	}
	return os.WriteFile(target, text, 0o644)
}

// forwarded are the signals by which people and programs end a run.
var forwarded = []os.Signal{syscall.SIGINT, syscall.SIGTERM, syscall.SIGHUP, syscall.SIGQUIT}

// again is this program once more, as another stage.
func again(stage string) (*exec.Cmd, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	cmd := exec.Command(self, os.Args[1:]...) //nolint:noctx // it lives as long as the caller
	cmd.Env = append(os.Environ(), stageVariable+"="+stage)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	return cmd, nil
}

// wait runs cmd to its end, passing signals on, and returns its exit code.
func wait(cmd *exec.Cmd) (int, error) {
	signals := make(chan os.Signal, 16)
	signal.Notify(signals, forwarded...)
	defer signal.Stop(signals)
	if err := cmd.Start(); err != nil {
		return 0, err
	}
	done := make(chan struct{})
	defer close(done)
	go func() {
		for {
			select {
			case s := <-signals:
				_ = cmd.Process.Signal(s) // it has ended: so do we
			case <-done:
				return
			}
		}
	}()
	err := cmd.Wait()
	if exit := (*exec.ExitError)(nil); err != nil && !errors.As(err, &exit) {
		return 0, err
	}
	status, ok := cmd.ProcessState.Sys().(syscall.WaitStatus)
	if !ok {
		return 0, fmt.Errorf("wait: no status")
	}
	return exitCode(status.Exited(), status.ExitStatus(), int(status.Signal())), nil
}

// exitCode is a process's exit status, or 128 and the signal that killed it, as shells have it.
func exitCode(exited bool, status, signal int) int {
	if exited {
		return status
	}
	return 128 + signal
}

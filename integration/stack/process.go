package stack

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"syscall"
	"time"
)

// process is a part that runs in the background with its output in a file.
type process struct {
	name  string
	log   string // path; appended to
	cmd   *exec.Cmd
	ended chan struct{} // closed when it has ended; err is valid then
	err   error
}

// command says what to run.
type command struct {
	name string
	log  string
	path string
	args []string
	env  []string // added to the process's own
}

func (c command) start() (*process, error) {
	f, err := os.OpenFile(c.log, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		return nil, fmt.Errorf("start %s: %w", c.name, err)
	}
	defer f.Close()
	cmd := exec.Command(c.path, c.args...) //nolint:noctx // it outlives the call; Close ends it
	cmd.Env = append(os.Environ(), c.env...)
	cmd.Stdout, cmd.Stderr = f, f
	if err := cmd.Start(); err != nil {
		return nil, fmt.Errorf("start %s: %w", c.name, err)
	}
	p := &process{name: c.name, log: c.log, cmd: cmd, ended: make(chan struct{})}
	go func() {
		defer close(p.ended)
		p.err = cmd.Wait()
	}()
	return p, nil
}

// kill ends the process at once and waits until it has gone.
func (p *process) kill() {
	_ = p.cmd.Process.Kill() // it has ended already
	<-p.ended
}

// stop asks the process to end, and kills it if it does not within the time that a part may take.
func (p *process) stop() error {
	if err := p.cmd.Process.Signal(syscall.SIGTERM); errors.Is(err, os.ErrProcessDone) {
		<-p.ended
		return fmt.Errorf("%s had ended: %w\n%s", p.name, p.err, p.tail())
	}
	t := time.NewTimer(readyTimeout)
	defer t.Stop()
	select {
	case <-p.ended:
		// It may have been dying already when the signal came.
		if status, ok := p.cmd.ProcessState.Sys().(syscall.WaitStatus); ok && crashed(status) {
			return fmt.Errorf("%s had ended: %w\n%s", p.name, p.err, p.tail())
		}
		return nil
	case <-t.C:
		text := p.tail()
		p.kill()
		return fmt.Errorf("%s ignored SIGTERM for %s\n%s", p.name, readyTimeout, text)
	}
}

// goPanic is the exit status of a Go program that panics.
const goPanic = 2

// crashed says that a program that was asked to end did not end because of that.
func crashed(s syscall.WaitStatus) bool {
	return s.Signaled() && s.Signal() != syscall.SIGTERM || s.Exited() && s.ExitStatus() == goPanic
}

// tail is the end of the log, for an error message.
func (p *process) tail() string { return tail(p.log, 20) }

// longestLine is what a person will read of one line of a log.
const longestLine = 600

func tail(path string, lines int) string {
	text, err := os.ReadFile(path)
	if err != nil {
		return err.Error()
	}
	all := bytes.Split(bytes.TrimRight(text, "\n"), []byte("\n"))
	all = all[max(0, len(all)-lines):]
	for i, line := range all {
		all[i] = line[:min(len(line), longestLine)]
	}
	return string(bytes.Join(all, []byte("\n")))
}

// output runs a command to its end and returns its standard output. The error carries its standard error.
func output(ctx context.Context, env []string, path string, args ...string) (string, error) {
	var out bytes.Buffer
	err := execute(ctx, &out, env, append([]string{path}, args...))
	return out.String(), err
}

// execute runs a command to its end with its standard output going to out.
func execute(ctx context.Context, out io.Writer, env, args []string) error {
	cmd := exec.CommandContext(ctx, args[0], args[1:]...)
	cmd.Env = append(os.Environ(), env...)
	var diagnostics bytes.Buffer
	cmd.Stdout, cmd.Stderr = out, &diagnostics
	// What the command leaves behind (a shim) may hold the pipes open; that is not waited for.
	cmd.WaitDelay = 5 * time.Second
	if err := cmd.Run(); err != nil && !errors.Is(err, exec.ErrWaitDelay) {
		return &CommandError{Args: args, Stderr: diagnostics.String(), Err: err}
	}
	return nil
}

// CommandError is a command that failed.
type CommandError struct {
	Args   []string
	Stderr string
	Err    error
}

func (e *CommandError) Error() string {
	return fmt.Sprintf("%v: %v\n%s", e.Args, e.Err, bytes.TrimSpace([]byte(e.Stderr)))
}

func (e *CommandError) Unwrap() error { return e.Err }

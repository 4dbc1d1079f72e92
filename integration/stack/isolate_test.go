package stack

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

func TestMain(m *testing.M) { os.Exit(Isolate(m.Run)) }

func TestInside(t *testing.T) {
	dir, err := root()
	if err != nil {
		t.Fatal(err)
	}
	if !strings.HasPrefix(os.TempDir(), dir) {
		t.Errorf("temporary folder %s is outside %s", os.TempDir(), dir)
	}
	if entries, err := os.ReadDir("/run"); err != nil || len(entries) > 1 {
		t.Errorf("/run: %v, %v; want it empty but for a resolver's configuration", entries, err)
	}
	if self, err := os.Readlink("/proc/self"); err != nil || self != fmt.Sprint(os.Getpid()) {
		t.Errorf("/proc/self is %s, %v; want %d", self, err, os.Getpid())
	}
	cgroups, err := os.ReadFile("/proc/self/cgroup")
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(cgroups)) {
		if !strings.HasSuffix(line, ":/\n") && !strings.HasSuffix(line, ":/harness\n") {
			t.Errorf("cgroup %q is outside the private one", line)
		}
	}
}

// TestNested is what TestEverythingGoes runs isolated within the isolation; on its own it has nothing to do.
func TestNested(t *testing.T) {
	how := os.Getenv("SLUICE_TEST_NESTED")
	if how == "" {
		return
	}
	dir, err := root()
	if err != nil {
		t.Fatal(err)
	}
	if err := unix.Mount("tmpfs", dir, "tmpfs", 0, ""); err != nil {
		t.Fatal(err)
	}
	if err := os.MkdirAll("/sys/fs/cgroup/unified/a/b", 0o755); err != nil {
		t.Fatal(err)
	}
	// An orphan in a session of its own, as a shim is; it holds standard output open.
	orphan := exec.Command("/bin/sleep", "1000")
	orphan.Stdout = os.Stdout
	orphan.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if err := orphan.Start(); err != nil {
		t.Fatal(err)
	}
	fmt.Println("root", dir)
	switch how {
	case "exit":
		os.Exit(42)
	case "panic":
		go panic("as told")
	case "signal":
		signal.Reset(syscall.SIGTERM)
	}
	<-make(chan struct{})
}

func TestEverythingGoes(t *testing.T) {
	for _, c := range []struct {
		how    string
		signal syscall.Signal
		want   int
		stays  bool // the folder, until the next run
	}{
		{"exit", 0, 42, false},
		{"panic", 0, 2, false},
		{"signal", syscall.SIGTERM, 128 + int(syscall.SIGTERM), false},
		{"kill", syscall.SIGKILL, 128 + int(syscall.SIGKILL), true},
	} {
		t.Run(c.how, func(t *testing.T) {
			out, place, code := nested(t, c.how, c.signal)
			if code != c.want {
				t.Errorf("exit code %d, want %d\n%s", code, c.want, out)
			}
			if _, err := os.Stat(place); c.stays != (err == nil) {
				t.Errorf("%s: %v", place, err)
			}
			if c.stays {
				nested(t, "exit", 0)
				if _, err := os.Stat(place); !errors.Is(err, os.ErrNotExist) {
					t.Errorf("%s is still there after the next run: %v", place, err)
				}
			}
			left, err := filepath.Glob("/sys/fs/cgroup/*/" + filepath.Base(place))
			if err != nil || len(left) > 0 {
				t.Errorf("cgroups are left: %v %v", left, err)
			}
		})
	}
}

// nested runs TestNested until it says where it is, sends it a signal, and returns when the last process inside has ended.
func nested(t *testing.T, how string, s syscall.Signal) (output, place string, code int) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, os.Args[0], "-test.run=^TestNested$")
	cmd.Env = append(os.Environ(), "SLUICE_TEST_NESTED="+how, stageVariable+"=", rootVariable+"=")
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	cmd.Stdout, cmd.Stderr = w, w
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	lines := bufio.NewReader(r)
	for place == "" {
		line, err := lines.ReadString('\n')
		if err != nil {
			t.Fatalf("%v after %q", err, output)
		}
		output += line
		if at, ok := strings.CutPrefix(line, "root "); ok {
			place = strings.TrimSpace(at)
		}
	}
	if s != 0 {
		if err := cmd.Process.Signal(s); err != nil {
			t.Fatal(err)
		}
	}
	// The pipe ends when nobody holds it any more: neither the nested test nor its orphan.
	rest, err := io.ReadAll(lines)
	if err != nil {
		t.Fatal(err)
	}
	output += string(rest)
	err = cmd.Wait()
	status, ok := cmd.ProcessState.Sys().(syscall.WaitStatus)
	if !ok {
		t.Fatal(err)
	}
	return output, place, exitCode(status.Exited(), status.ExitStatus(), int(status.Signal()))
}

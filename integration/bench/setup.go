package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"

	"github.com/moby/sys/mountinfo"
	"golang.org/x/sys/unix"

	"github.com/sluice-snapshotter/sluice/integration/bench/result"
	"github.com/sluice-snapshotter/sluice/integration/bench/system"
	"github.com/sluice-snapshotter/sluice/integration/checkout"
	"github.com/sluice-snapshotter/sluice/integration/stack"
)

// newSetup describes the machine, and every program by what it says of itself.
func newSetup(ctx context.Context, s settings, systems []system.System) (result.Setup, error) {
	p := result.Setup{CPUs: runtime.NumCPU(), Settings: s.list(), Versions: map[string]string{"go": runtime.Version()}}
	parts, err := stack.Parts(ctx, stack.Containerd2)
	if err != nil {
		return p, err
	}
	daemon, err := stack.Program("containerd-sluice-grpc")
	if err != nil {
		return p, err
	}
	commands := map[string][]string{"sluice": {daemon, "--version"}}
	if root, err := checkout.Root(); err == nil {
		commands["checkout"] = []string{"git", "-C", root, "describe", "--always", "--dirty"}
	}
	for _, name := range []string{"containerd", "runc", "registry"} {
		commands[name] = []string{filepath.Join(parts[0], name), "--version"}
	}
	for _, sys := range systems {
		if len(sys.Version) > 0 {
			commands[sys.Name] = sys.Version
		}
	}
	for name, command := range commands {
		v, err := version(ctx, command)
		if err != nil && name != "checkout" { // which may be an unpacked archive
			return p, fmt.Errorf("version of %s: %w", name, err)
		}
		p.Versions[name] = v
	}
	return p, errors.Join(kernel(&p), processor(&p), filesystem(&p))
}

// version is the first line that a command prints.
func version(ctx context.Context, command []string) (string, error) {
	out, err := exec.CommandContext(ctx, command[0], command[1:]...).Output()
	line, _, _ := strings.Cut(strings.TrimSpace(string(out)), "\n")
	return line, err
}

func kernel(p *result.Setup) error {
	var u unix.Utsname
	var i unix.Sysinfo_t
	if err := errors.Join(unix.Uname(&u), unix.Sysinfo(&i)); err != nil {
		return err
	}
	p.Kernel, p.Memory = unix.ByteSliceToString(u.Release[:]), int64(i.Totalram)*int64(i.Unit)
	return nil
}

// processor is the model as /proc/cpuinfo names it, which not every architecture does.
func processor(p *result.Setup) error {
	text, err := os.ReadFile("/proc/cpuinfo")
	for line := range strings.Lines(string(text)) {
		name, value, _ := strings.Cut(line, ":")
		if strings.TrimSpace(name) == "model name" {
			p.CPU = strings.TrimSpace(value)
			break
		}
	}
	return err
}

// filesystem is the type of what lies below all stores.
func filesystem(p *result.Setup) error {
	mounts, err := mountinfo.GetMounts(mountinfo.ParentsFilter(os.TempDir()))
	if err != nil {
		return err
	}
	longest := ""
	for _, m := range mounts {
		if len(m.Mountpoint) >= len(longest) {
			longest, p.Filesystem = m.Mountpoint, m.FSType
		}
	}
	return nil
}

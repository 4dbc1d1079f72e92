package main

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"

	"github.com/moby/sys/mountinfo"
	"golang.org/x/sys/unix"

	"github.com/sluice-snapshotter/sluice/integration/bench/result"
	"github.com/sluice-snapshotter/sluice/integration/bench/system"
	"github.com/sluice-snapshotter/sluice/integration/stack"
)

// newSetup describes the machine, and every program by what it says of itself.
func newSetup(ctx context.Context, s settings, systems []system.System) (result.Setup, error) {
	p := result.Setup{CPUs: runtime.NumCPU(), Settings: s.list(), Versions: map[string]string{"go": runtime.Version(), "gunzip of containerd": gunzip()}}
	parts, err := stack.Parts(ctx, stack.Containerd2)
	if err != nil {
		return p, err
	}
	daemon, err := stack.Program("containerd-sluice-grpc")
	if err != nil {
		return p, err
	}
	if p.Versions["sluice, SHA-256 of the daemon"], err = sum(daemon); err != nil {
		return p, err
	}
	commands := map[string][]string{"sluice": {daemon, "--version"}}
	for _, name := range []string{"containerd", "runc", "registry"} {
		commands[name] = []string{filepath.Join(parts[0], name), "--version"}
	}
	for _, sys := range systems {
		if len(sys.Version) > 0 {
			commands[sys.Name] = sys.Version
		}
	}
	for name, command := range commands {
		if p.Versions[name], err = version(ctx, command); err != nil {
			return p, fmt.Errorf("version of %s: %w", name, err)
		}
	}
	return p, errors.Join(kernel(&p), processor(&p), filesystem(&p))
}

// sum is the beginning of a file's checksum: programs that are built here have no other version.
func sum(path string) (string, error) {
	f, err := os.Open(path)
	if err != nil {
		return "", err
	}
	defer f.Close()
	h := sha256.New()
	_, err = io.Copy(h, f)
	return hex.EncodeToString(h.Sum(nil))[:16], err
}

// gunzip is what containerd decompresses ordinary layers with: it prefers these programs to its own code if it finds them.
func gunzip() string {
	for _, name := range []string{"unpigz", "igzip"} {
		if path, err := exec.LookPath(name); err == nil {
			return path
		}
	}
	return "Go's"
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
	if p.Filesystem == "tmpfs" {
		return fmt.Errorf("%s is in memory: set TMPDIR to a folder on a disk, or nothing would be cold", os.TempDir())
	}
	return nil
}

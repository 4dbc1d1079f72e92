package stack

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// hierarchy is one mounted cgroup tree: a v1 controller set, or v2.
type hierarchy struct {
	mountpoint string
	kind       string // "cgroup" or "cgroup2"
	options    string // of mount(2)
	own        string // this process's cgroup, as a path below mountpoint
}

// hierarchies lists what is mounted, from /proc/self/mountinfo and /proc/self/cgroup (cgroups(7), proc_pid_mountinfo(5)).
func hierarchies() ([]hierarchy, error) {
	own, err := ownCgroups()
	if err != nil {
		return nil, err
	}
	f, err := os.Open("/proc/self/mountinfo")
	if err != nil {
		return nil, err
	}
	defer f.Close()
	var all []hierarchy
	for lines := bufio.NewScanner(f); lines.Scan(); {
		before, after, _ := strings.Cut(lines.Text(), " - ")
		fields, super := strings.Fields(before), strings.Fields(after)
		if len(fields) < 5 || len(super) < 3 || (super[0] != "cgroup" && super[0] != "cgroup2") {
			continue
		}
		h := hierarchy{mountpoint: fields[4], kind: super[0]}
		if slices.ContainsFunc(all, func(other hierarchy) bool { return other.mountpoint == h.mountpoint }) {
			continue
		}
		if h.kind == "cgroup" {
			h.options = v1Options(super[2])
			path, ok := own[h.options]
			if !ok {
				continue
			}
			if h.own, err = filepath.Rel(fields[3], path); err != nil || strings.HasPrefix(h.own, "..") {
				h.own = "." // the mount shows another part of the tree than ours
			}
		}
		all = append(all, h)
	}
	return all, nil
}

// v1Options keeps of a superblock's options those that name the hierarchy.
func v1Options(super string) string {
	var keep []string
	for o := range strings.SplitSeq(super, ",") {
		switch {
		case strings.HasPrefix(o, "name="):
			keep = append(keep, o)
		case o == "rw" || o == "ro" || o == "xattr" || o == "noprefix" || o == "clone_children" || strings.Contains(o, "="):
		default:
			keep = append(keep, o)
		}
	}
	slices.Sort(keep)
	return strings.Join(keep, ",")
}

// ownCgroups maps a v1 hierarchy's controllers, sorted, to this process's path in it.
func ownCgroups() (map[string]string, error) {
	p, err := os.ReadFile("/proc/self/cgroup")
	if err != nil {
		return nil, err
	}
	own := make(map[string]string)
	for line := range strings.Lines(string(p)) {
		fields := strings.SplitN(strings.TrimSpace(line), ":", 3)
		if len(fields) == 3 {
			names := strings.Split(fields[1], ",")
			slices.Sort(names)
			own[strings.Join(names, ",")] = fields[2]
		}
	}
	return own, nil
}

// dir is where h's private cgroup lies: below this process's own, so that its limits go on to hold; in v2, where a cgroup with processes
// cannot hand controllers down, at the top.
func (h hierarchy) dir(name string) string { return filepath.Join(h.mountpoint, h.own, name) }

// makeCgroups makes a private cgroup in every hierarchy.
func makeCgroups(name string) error {
	all, err := hierarchies()
	if err != nil {
		return fmt.Errorf("make cgroups: %w", err)
	}
	for _, h := range all {
		dir := h.dir(name)
		if err := os.Mkdir(dir, 0o755); err != nil {
			return fmt.Errorf("make cgroups: %w", err)
		}
		if err := inheritCpuset(dir); err != nil {
			return fmt.Errorf("make cgroups: %w", err)
		}
		if h.kind == "cgroup2" {
			delegate(filepath.Dir(dir))
		}
	}
	return nil
}

// inheritCpuset fills in what a new v1 cpuset lacks: without processors and memory no process may join.
func inheritCpuset(dir string) error {
	for _, name := range []string{"cpuset.cpus", "cpuset.mems"} {
		to := filepath.Join(dir, name)
		if p, err := os.ReadFile(to); err != nil || len(strings.TrimSpace(string(p))) > 0 {
			continue // no v1 cpuset, or not empty
		}
		p, err := os.ReadFile(filepath.Join(filepath.Dir(dir), name))
		if err != nil {
			return err
		}
		if err := os.WriteFile(to, p, 0o644); err != nil {
			return err
		}
	}
	return nil
}

// delegate hands the v2 controllers of dir down, as far as dir lets them go: systemd has done it, elsewhere runc does without.
func delegate(dir string) {
	p, err := os.ReadFile(filepath.Join(dir, "cgroup.controllers"))
	if err != nil {
		return
	}
	for controller := range strings.FieldsSeq(string(p)) {
		_ = os.WriteFile(filepath.Join(dir, "cgroup.subtree_control"), []byte("+"+controller), 0o644)
	}
}

// joinCgroups moves this process, and what it will start, into the private cgroups.
func joinCgroups(name string) error {
	all, err := hierarchies()
	if err != nil {
		return fmt.Errorf("join cgroups: %w", err)
	}
	for _, h := range all {
		if err := os.WriteFile(filepath.Join(h.dir(name), "cgroup.procs"), []byte("0"), 0o644); err != nil {
			return fmt.Errorf("join cgroups: %w", err)
		}
	}
	return nil
}

// mountCgroups shows the hierarchies as they look from inside the cgroup namespace, where the private cgroups are the roots.
func mountCgroups() error {
	all, err := hierarchies()
	if err != nil {
		return fmt.Errorf("mount cgroups: %w", err)
	}
	links, err := v1Links()
	if err != nil {
		return fmt.Errorf("mount cgroups: %w", err)
	}
	const top = "/sys/fs/cgroup"
	pure := len(all) == 1 && all[0].mountpoint == top
	if !pure {
		if err := unix.Mount("tmpfs", top, "tmpfs", unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC, "mode=755"); err != nil {
			return fmt.Errorf("mount %s: %w", top, err)
		}
	}
	for _, h := range all {
		if err := os.MkdirAll(h.mountpoint, 0o755); err != nil {
			return err
		}
		options := h.options
		if strings.HasPrefix(options, "name=") {
			options = "none," + options
		}
		if err := unix.Mount(h.kind, h.mountpoint, h.kind, unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC, options); err != nil {
			return fmt.Errorf("mount %s (%s): %w", h.mountpoint, options, err)
		}
	}
	for name, target := range links {
		if err := os.Symlink(target, filepath.Join(top, name)); err != nil {
			return err
		}
	}
	if pure {
		return leaveRoot(top)
	}
	return nil
}

// v1Links are the symbolic links by which single controllers of a joint hierarchy are found: "cpu" to "cpu,cpuacct".
func v1Links() (map[string]string, error) {
	entries, err := os.ReadDir("/sys/fs/cgroup")
	if err != nil {
		return nil, err
	}
	links := make(map[string]string)
	for _, e := range entries {
		if e.Type() == fs.ModeSymlink {
			if links[e.Name()], err = os.Readlink(filepath.Join("/sys/fs/cgroup", e.Name())); err != nil {
				return nil, err
			}
		}
	}
	return links, nil
}

// leaveRoot moves the processes of a v2 root into a child, so that the root can hand its controllers down.
func leaveRoot(top string) error {
	dir := filepath.Join(top, "harness")
	if err := os.Mkdir(dir, 0o755); err != nil {
		return err
	}
	for _, pid := range []int{1, os.Getpid()} {
		if err := os.WriteFile(filepath.Join(dir, "cgroup.procs"), []byte(strconv.Itoa(pid)), 0o644); err != nil {
			return err
		}
	}
	delegate(top)
	return nil
}

// removeCgroups removes the private cgroups and all below. Their processes have ended, but the kernel may need a moment to notice.
func removeCgroups(name string) error {
	all, err := hierarchies()
	if err != nil {
		return fmt.Errorf("remove cgroups: %w", err)
	}
	for _, h := range all {
		err := poll(context.Background(), nil, func(context.Context) error { return removeTree(h.dir(name)) })
		if err != nil {
			return fmt.Errorf("remove cgroups: %w", err)
		}
	}
	return nil
}

// removeTree removes a folder of a cgroup hierarchy: only folders can be removed there, from the bottom up.
func removeTree(dir string) error {
	entries, err := os.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	for _, e := range entries {
		if e.IsDir() {
			if err := removeTree(filepath.Join(dir, e.Name())); err != nil {
				return err
			}
		}
	}
	if err := unix.Rmdir(dir); err != nil && !errors.Is(err, unix.ENOENT) {
		return fmt.Errorf("rmdir %s: %w", dir, err)
	}
	return nil
}

package images

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sys/unix"
)

// DebianOptions say what is in an image of Debian packages.
type DebianOptions struct {
	Name     string     // of the image in the cache
	Packages [][]string // each group becomes a layer above the base
	Script   string     // of /bin/sh, run inside as root after that; what it changes becomes one more layer
	Cmd      []string
}

// UnavailableError says why this machine cannot make Debian images; a test may skip on it.
type UnavailableError struct{ Reason string }

func (e *UnavailableError) Error() string { return "debian image: " + e.Reason }

// Debian makes an image of real packages: debootstrap's minbase variant, the same blob in all of them, a layer for each group of
// packages, and /probe. It needs root, a Debian machine and, the first time, the network; where one is missing the error is an
// *UnavailableError.
// It mounts below the cache and unmounts again; call it inside stack.Isolate so that a killed process leaves nothing mounted.
func Debian(ctx context.Context, o DebianOptions) (*Image, error) {
	program, err := probe(ctx)
	if err != nil {
		return nil, err
	}
	base, err := debianBase(ctx)
	if err != nil {
		return nil, err
	}
	d := debian{base: base, options: o}
	return recipe{
		name:    "debian-" + o.Name,
		key:     keyOf(debianSources, base.Target.Digest.String(), fmt.Sprintf("%q", o), string(program)),
		config:  ocispec.ImageConfig{Cmd: o.Cmd, Env: []string{"PATH=" + debianPath}},
		layers:  []layer{withProbe(program), reused{base}},
		prepare: d.prepare,
	}.make(ctx)
}

const debianPath = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

type debian struct {
	base    *Image
	options DebianOptions
}

// prepare unpacks the base and makes each further layer on an overlay above it: the upper folder.
func (d debian) prepare(ctx context.Context, scratch string) ([]layer, error) {
	base := filepath.Join(scratch, "base")
	if err := unpack(ctx, d.base, base); err != nil {
		return nil, err
	}
	changes := make([]change, 0, len(d.options.Packages)+1)
	for _, packages := range d.options.Packages {
		changes = append(changes, install(packages))
	}
	if d.options.Script != "" {
		changes = append(changes, script(d.options.Script))
	}
	var layers []layer
	lowers := []string{base}
	for i, c := range changes {
		upper, err := c.over(ctx, filepath.Join(scratch, fmt.Sprint(i)), lowers)
		if err != nil {
			return nil, err
		}
		layers, lowers = append(layers, fromTree(upper)), append([]string{upper}, lowers...)
	}
	return layers, nil
}

// change does something to the tree below root.
type change func(ctx context.Context, root string) error

// over makes the change on top of the folders lowers, topmost first, and returns the folder with what that changed.
func (c change) over(ctx context.Context, dir string, lowers []string) (upper string, err error) {
	upper, work, merged := filepath.Join(dir, "upper"), filepath.Join(dir, "work"), filepath.Join(dir, "merged")
	for _, d := range []string{upper, work, merged} {
		if err := os.MkdirAll(d, 0o755); err != nil {
			return "", err
		}
	}
	options := fmt.Sprintf("lowerdir=%s,upperdir=%s,workdir=%s,redirect_dir=off,metacopy=off", strings.Join(lowers, ":"), upper, work)
	if err := unix.Mount("overlay", merged, "overlay", 0, options); err != nil {
		return "", fmt.Errorf("mount overlay: %w", err)
	}
	defer func() { err = errors.Join(err, unix.Unmount(merged, unix.MNT_DETACH)) }()
	proc := filepath.Join(merged, "proc")
	if err := unix.Mount("proc", proc, "proc", 0, ""); err != nil {
		return "", fmt.Errorf("mount proc: %w", err)
	}
	defer func() { err = errors.Join(err, unix.Unmount(proc, unix.MNT_DETACH)) }()
	return upper, c(ctx, merged)
}

// install installs packages with what they need.
func install(packages []string) change {
	return func(ctx context.Context, root string) error {
		// Packages' services are not to be started here (/usr/share/doc/sysv-rc/README.policy-rc.d).
		policy := filepath.Join(root, "usr/sbin/policy-rc.d")
		if err := os.WriteFile(policy, []byte("#!/bin/sh\nexit 101\n"), 0o755); err != nil {
			return err
		}
		if err := command(ctx, root, "/usr/bin/apt-get", "update"); err != nil {
			return &UnavailableError{err.Error()}
		}
		// What a crash would lose is made again, so nothing has to reach the disk at once.
		args := append([]string{"install", "-y", "--no-install-recommends", "-o", "Dpkg::Options::=--force-unsafe-io"}, packages...)
		if err := command(ctx, root, "/usr/bin/apt-get", args...); err != nil {
			return &UnavailableError{err.Error()}
		}
		return errors.Join(os.Remove(policy), clean(root))
	}
}

func script(text string) change {
	return func(ctx context.Context, root string) error { return command(ctx, root, "/bin/sh", "-ec", text) }
}

// command runs a program, inside root if that is not "".
func command(ctx context.Context, root, name string, args ...string) error {
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Env = append(os.Environ(), "DEBIAN_FRONTEND=noninteractive", "LC_ALL=C", "TMPDIR=/tmp")
	if root != "" {
		cmd.SysProcAttr = &syscall.SysProcAttr{Chroot: root}
		cmd.Dir = "/"
		cmd.Env = append(cmd.Env, "PATH="+debianPath)
	}
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("%s %v: %w\n%s", name, args, err, out[max(0, len(out)-2000):])
	}
	return nil
}

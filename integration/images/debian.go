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
	Cmd      []string
}

// UnavailableError says why this machine cannot make Debian images; a test may skip on it.
type UnavailableError struct{ Reason string }

func (e *UnavailableError) Error() string { return "debian image: " + e.Reason }

// Debian makes an image of real packages with debootstrap: the minbase variant, a layer for each group of packages, and /probe. It
// needs root, a Debian machine and, the first time, the network; where one is missing the error is an *UnavailableError.
// It mounts below the cache and unmounts again; call it inside stack.Isolate so that a killed process leaves nothing mounted.
func Debian(ctx context.Context, o DebianOptions) (*Image, error) {
	suite, err := suite()
	if err != nil {
		return nil, err
	}
	program, err := probe(ctx)
	if err != nil {
		return nil, err
	}
	mirror, err := mirror()
	if err != nil {
		return nil, err
	}
	d := debian{suite: suite, mirror: mirror, options: o}
	return recipe{
		name:    "debian-" + o.Name,
		key:     keyOf(debianSources, suite, fmt.Sprint(o), string(program)),
		config:  ocispec.ImageConfig{Cmd: o.Cmd, Env: []string{"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"}},
		layers:  []layer{withProbe(program)},
		prepare: d.prepare,
	}.make(ctx)
}

type debian struct {
	suite, mirror string
	options       DebianOptions
}

// suite is this machine's own release, from os-release(5): the one whose archive its keys are good for.
func suite() (string, error) {
	text, err := os.ReadFile("/etc/os-release")
	if err != nil {
		return "", &UnavailableError{"not a Debian machine: " + err.Error()}
	}
	values := make(map[string]string)
	for line := range strings.Lines(string(text)) {
		k, v, _ := strings.Cut(strings.TrimSpace(line), "=")
		values[k] = strings.Trim(v, `"`)
	}
	if values["ID"] != "debian" || values["VERSION_CODENAME"] == "" {
		return "", &UnavailableError{"not a Debian machine but " + values["ID"]}
	}
	if os.Geteuid() != 0 {
		return "", &UnavailableError{"debootstrap needs root"}
	}
	return values["VERSION_CODENAME"], nil
}

// mirror is the archive that this machine uses, from sources.list(5) in either form.
func mirror() (string, error) {
	files, err := filepath.Glob("/etc/apt/sources.list.d/*")
	if err != nil {
		return "", err
	}
	for _, name := range append([]string{"/etc/apt/sources.list"}, files...) {
		text, err := os.ReadFile(name)
		if err != nil {
			continue
		}
		for field := range strings.FieldsSeq(string(text)) {
			if strings.HasPrefix(field, "http") && strings.HasSuffix(strings.TrimRight(field, "/"), "/debian") {
				return field, nil
			}
		}
	}
	return "", &UnavailableError{"no Debian archive in apt's sources"}
}

// prepare unpacks the base and installs each group on an overlay above it, whose upper folder is the layer.
func (d debian) prepare(ctx context.Context, scratch string) ([]layer, error) {
	if err := needDebootstrap(ctx); err != nil {
		return nil, err
	}
	base := filepath.Join(scratch, "base")
	err := command(ctx, "", "debootstrap", "--variant=minbase", d.suite, base, d.mirror)
	if err != nil {
		return nil, &UnavailableError{err.Error()}
	}
	if err := clean(base); err != nil {
		return nil, err
	}
	layers, lowers := []layer{fromTree(base)}, []string{base}
	for i, packages := range d.options.Packages {
		upper, err := installOver(ctx, filepath.Join(scratch, fmt.Sprint(i)), lowers, packages)
		if err != nil {
			return nil, err
		}
		layers, lowers = append(layers, fromTree(upper)), append([]string{upper}, lowers...)
	}
	return layers, nil
}

func needDebootstrap(ctx context.Context) error {
	if _, err := exec.LookPath("debootstrap"); err == nil {
		return nil
	}
	err := command(ctx, "", "apt-get", "update")
	if err == nil {
		err = command(ctx, "", "apt-get", "install", "-y", "--no-install-recommends", "debootstrap")
	}
	if err != nil {
		return &UnavailableError{"installing debootstrap: " + err.Error()}
	}
	return nil
}

// installOver installs packages on top of the folders lowers, topmost first, and returns the folder with what that changed.
func installOver(ctx context.Context, dir string, lowers, packages []string) (upper string, err error) {
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
	// Packages' services are not to be started here (/usr/share/doc/sysv-rc/README.policy-rc.d).
	policy := filepath.Join(merged, "usr/sbin/policy-rc.d")
	if err := os.WriteFile(policy, []byte("#!/bin/sh\nexit 101\n"), 0o755); err != nil {
		return "", err
	}
	if err := command(ctx, merged, "/usr/bin/apt-get", "update"); err != nil {
		return "", &UnavailableError{err.Error()}
	}
	install := append([]string{"install", "-y", "--no-install-recommends"}, packages...)
	if err := command(ctx, merged, "/usr/bin/apt-get", install...); err != nil {
		return "", &UnavailableError{err.Error()}
	}
	return upper, errors.Join(os.Remove(policy), clean(merged))
}

// clean removes what apt keeps, as images do.
func clean(root string) error {
	for _, pattern := range []string{"var/cache/apt/archives/*.deb", "var/cache/apt/*.bin", "var/lib/apt/lists/*", "var/log/*.log"} {
		names, err := filepath.Glob(filepath.Join(root, pattern))
		if err != nil {
			return err
		}
		for _, name := range names {
			if err := os.RemoveAll(name); err != nil {
				return err
			}
		}
	}
	return nil
}

// command runs a program, inside root if that is not "".
func command(ctx context.Context, root, name string, args ...string) error {
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Env = append(os.Environ(), "DEBIAN_FRONTEND=noninteractive", "LC_ALL=C", "TMPDIR=/tmp")
	if root != "" {
		cmd.SysProcAttr = &syscall.SysProcAttr{Chroot: root}
		cmd.Dir = "/"
	}
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("%s %v: %w\n%s", name, args, err, out[max(0, len(out)-2000):])
	}
	return nil
}

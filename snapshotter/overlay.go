package snapshotter

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/containerd/containerd/v2/core/mount"
	"github.com/containerd/containerd/v2/plugins/snapshots/overlay/overlayutils"
	"github.com/containerd/log"
	"golang.org/x/sys/unix"
)

// overlayOptions finds out which options every overlay mount is to have, by
// mounting one under o.Root:
//
//   - userxattr in a user namespace, where trusted.* cannot be written;
//   - index=off, as containerd's overlayfs has it: an upper directory may come
//     back on top of other lower ones;
//   - xino=on, so that files and directories report one device although their
//     layers are file systems of their own. Without, find -xdev and du -x stop
//     at the border of a layer.
//
// An error says that overlayfs cannot be mounted on o.Root at all, or not in
// the way that o asks for.
func overlayOptions(o Options) ([]string, error) {
	var base []string
	if userxattr, err := overlayutils.NeedsUserXAttr(o.Root); err != nil {
		return nil, err
	} else if userxattr {
		base = append(base, "userxattr")
	}
	options, err := tryOptions(trial{dir: o.Root, upper: true}, base, o.Volatile)
	if !noSpace(err) {
		return options, err
	}
	// A node has to start on a full disk too, if only to remove what fills it. Which options there are is up to the kernel, and
	// not to the disk: one that does not support what they ask for has them ignored. That the disk will do for upper
	// directories an earlier start has found out: there is none without the room for a database.
	log.G(context.Background()).WithError(err).Warn("the disk is full: options of overlayfs are tried elsewhere")
	return tryOptions(trial{dir: o.FS.MountDir()}, base, o.Volatile)
}

// tryOptions adds to base what works beside it.
func tryOptions(t trial, base []string, volatile bool) ([]string, error) {
	if err := t.mount(base); err != nil {
		return nil, fmt.Errorf("overlayfs does not work here: %w", err)
	}
	options := slices.Clone(base)
	for _, o := range []string{"index=off", "xino=on"} {
		with := append(slices.Clone(options), o)
		if err := t.mount(with); err == nil {
			options = with
		} else if noSpace(err) {
			return nil, err
		} else {
			log.G(context.Background()).WithError(err).Debugf("overlayfs without %s", o)
		}
	}
	if volatile {
		if err := t.mount(append(slices.Clone(options), "volatile")); err != nil {
			return nil, fmt.Errorf("overlayfs has no volatile mounts here (Linux 5.10 and later do): %w", err)
		}
	}
	return options, nil
}

func noSpace(err error) bool { return errors.Is(err, unix.ENOSPC) || errors.Is(err, unix.EDQUOT) }

// trial is an overlay of two empty lower directories that is mounted only to
// see whether it can be.
type trial struct {
	dir   string // all is made below it, and goes again
	upper bool   // with an upper directory, which is not possible everywhere
}

func (t trial) mount(options []string) (err error) {
	dir, err := os.MkdirTemp(t.dir, "probe-")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	path := func(name string) string { return filepath.Join(dir, name) }
	for _, name := range []string{"lower1", "lower2", "upper", "work", "merged"} {
		if err := os.Mkdir(path(name), 0o755); err != nil {
			return err
		}
	}
	m := mount.Mount{Type: "overlay", Source: "overlay", Options: append([]string{
		"lowerdir=" + strings.Join([]string{path("lower2"), path("lower1")}, ":"),
	}, options...)}
	if t.upper {
		m.Options = append(m.Options, "upperdir="+path("upper"), "workdir="+path("work"))
	}
	if err := m.Mount(path("merged")); err != nil {
		return err
	}
	return mount.UnmountAll(path("merged"), 0)
}

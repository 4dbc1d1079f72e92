package snapshotter

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/containerd/containerd/v2/core/mount"
	"github.com/containerd/containerd/v2/plugins/snapshots/overlay/overlayutils"
	"github.com/containerd/log"
)

// overlayOptions finds out which options every overlay mount is to have, by
// mounting one under root:
//
//   - userxattr in a user namespace, where trusted.* cannot be written;
//   - index=off, as containerd's overlayfs has it: an upper directory may come
//     back on top of other lower ones;
//   - xino=on, so that files and directories report one device although their
//     layers are file systems of their own. Without, find -xdev and du -x stop
//     at the border of a layer.
//
// An error says that overlayfs cannot be mounted on root at all.
func overlayOptions(root string) ([]string, error) {
	var options []string
	if userxattr, err := overlayutils.NeedsUserXAttr(root); err != nil {
		return nil, err
	} else if userxattr {
		options = append(options, "userxattr")
	}
	if err := tryOverlay(root, options); err != nil {
		return nil, fmt.Errorf("overlayfs does not work here: %w", err)
	}
	for _, o := range []string{"index=off", "xino=on"} {
		if err := tryOverlay(root, append(options, o)); err == nil {
			options = append(options, o)
		} else {
			log.G(context.Background()).WithError(err).Debugf("overlayfs without %s", o)
		}
	}
	return options, nil
}

// tryOverlay mounts and unmounts an overlay of two empty lower directories.
func tryOverlay(root string, options []string) (err error) {
	dir, err := os.MkdirTemp(root, "probe-")
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
		"upperdir=" + path("upper"),
		"workdir=" + path("work"),
	}, options...)}
	if err := m.Mount(path("merged")); err != nil {
		return err
	}
	return mount.UnmountAll(path("merged"), 0)
}

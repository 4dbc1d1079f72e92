package snapshotter

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
)

// formatVersion is the layout of the root that this program reads and writes:
// metadata.db of containerd's core/snapshots/storage, snapshots/<id>/{fs,work}
// for local snapshots, and the labels of source.go on remote ones.
const formatVersion = 1

// ErrNewerFormat says that a newer program wrote the root.
var ErrNewerFormat = errors.New("written by a newer version of sluice")

// checkFormat compares the file "format" of the root with formatVersion, and
// writes it if there is none. An empty one is none: a full disk takes the name
// of a file, and not what is in it.
func checkFormat(root string) error {
	path := filepath.Join(root, "format")
	b, err := os.ReadFile(path)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	b = bytes.TrimSpace(b)
	if len(b) == 0 {
		return writeFormat(path)
	}
	version, err := strconv.Atoi(string(b))
	if err != nil {
		return fmt.Errorf("%s: %q is not a format version", path, b)
	}
	if version > formatVersion {
		return fmt.Errorf("%s: format %d, this program knows up to %d: %w", path, version, formatVersion, ErrNewerFormat)
	}
	return nil
}

// writeFormat makes the file whole or not at all.
func writeFormat(path string) error {
	tmp := path + ".new"
	err := os.WriteFile(tmp, fmt.Appendf(nil, "%d\n", formatVersion), 0o600)
	if err == nil {
		err = os.Rename(tmp, path)
	}
	if err != nil {
		return errors.Join(err, os.RemoveAll(tmp))
	}
	return nil
}

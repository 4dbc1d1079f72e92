package cache

import (
	"errors"
	"os"
	"path/filepath"
)

// writeFile replaces a small file whole.
func writeFile(name string, b []byte) error {
	return replaceFile(name, func(tmp string) error { return os.WriteFile(tmp, b, 0o600) })
}

// writeSynced replaces a small file whole, and returns when the disk has the new one. After an error it is the old one that is
// there, but for a disk that loses names.
func writeSynced(name string, b []byte) error {
	err := replaceFile(name, func(tmp string) error {
		if err := os.WriteFile(tmp, b, 0o600); err != nil {
			return err
		}
		return syncFile(tmp)
	})
	if err != nil {
		return err
	}
	return syncFile(filepath.Dir(name))
}

// newSuffix is behind the name of what is about to replace a file.
const newSuffix = ".new"

// replaceFile leaves nothing of what could not be written.
func replaceFile(name string, write func(tmp string) error) error {
	tmp := name + newSuffix
	err := clearWay(tmp)
	if err == nil {
		err = write(tmp)
	}
	if err == nil {
		err = os.Rename(tmp, name)
	}
	if err != nil {
		return errors.Join(err, os.RemoveAll(tmp))
	}
	return nil
}

// syncFile waits until the disk has a file or folder.
func syncFile(name string) error {
	f, err := os.Open(name)
	if err != nil {
		return err
	}
	return errors.Join(f.Sync(), f.Close())
}

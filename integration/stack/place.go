package stack

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"

	"github.com/sluice-snapshotter/sluice/integration/checkout"
)

// place is what one isolation has outside: a folder, a lock that says that it is in use, and cgroups of the folder's name.
type place struct {
	dir    string
	unlock func() error
}

const placePrefix = "sluice-"

// newPlace makes a place, and removes those whose outer process was killed before it could.
func newPlace() (_ *place, err error) {
	// One at a time, so that no place is taken for abandoned between its making and its locking.
	unlock, err := checkout.Lock(filepath.Join(os.TempDir(), "sluice.lock"))
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, unlock()) }()
	if err := sweep(); err != nil {
		return nil, err
	}
	dir, err := os.MkdirTemp(os.TempDir(), placePrefix)
	if err != nil {
		return nil, err
	}
	p := &place{dir: dir}
	if err := os.Chmod(dir, 0o755); err != nil { // containers' users walk through it
		return nil, err
	}
	if p.unlock, err = checkout.Lock(filepath.Join(dir, "lock")); err != nil {
		return nil, err
	}
	return p, errors.Join(os.Mkdir(filepath.Join(dir, "t"), 0o777), makeCgroups(filepath.Base(dir)))
}

// sweep removes places that nobody holds.
func sweep() error {
	dirs, err := filepath.Glob(filepath.Join(os.TempDir(), placePrefix+"*"))
	if err != nil {
		return err
	}
	for _, dir := range dirs {
		f, err := os.Open(filepath.Join(dir, "lock"))
		if err != nil {
			continue // not one of ours
		}
		err = unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
		if err == nil {
			err = errors.Join(removeCgroups(filepath.Base(dir)), os.RemoveAll(dir))
		} else if errors.Is(err, unix.EWOULDBLOCK) {
			err = nil
		}
		if err = errors.Join(err, f.Close()); err != nil {
			return fmt.Errorf("remove what an earlier run left: %w", err)
		}
	}
	return nil
}

func (p *place) remove() error {
	return errors.Join(removeCgroups(filepath.Base(p.dir)), os.RemoveAll(p.dir), p.unlock())
}

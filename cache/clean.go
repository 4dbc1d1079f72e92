package cache

import (
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"

	"golang.org/x/sync/errgroup"
)

// A file "clean" lies in the store's folder between Close and the next Open: all that is recorded as sealed by then is so. Where
// it is missing the node may have crashed, and then it is no answer to pass over what was sealed in an earlier boot: a layer that
// nobody opens this time would be believed the next. So the records themselves are changed, before anything else; and as long as
// one could not be changed, on a full disk, there is no file.

// unsealLimit is how many records are changed at once: file systems write several in the time of one.
const unsealLimit = 8

// cleanName is that of a file that is there between Close and the next Open.
func (s *Store) cleanName() string { return filepath.Join(s.dir, "clean") }

// takeClean says whether the store was closed, and makes sure that nobody is told so again after a crash.
func (s *Store) takeClean() (bool, error) {
	err := os.Remove(s.cleanName())
	if errors.Is(err, fs.ErrNotExist) {
		return false, s.unsealEarlier()
	}
	return err == nil, errors.Join(err, syncFile(s.dir))
}

// leaveClean makes the file, if what it says is true.
func (s *Store) leaveClean() error {
	if s.doubtful.Load() {
		return nil
	}
	err := writeFile(s.cleanName(), nil)
	switch {
	case err == nil:
		return syncFile(s.dir)
	case errors.Is(err, fs.ErrNotExist):
		return nil
	}
	return err
}

// unsealEarlier takes back that layers are sealed which no process of this boot has looked at.
func (s *Store) unsealEarlier() error {
	digests, err := s.List()
	if err != nil {
		return err
	}
	var g errgroup.Group
	g.SetLimit(unsealLimit)
	for _, d := range digests {
		g.Go(func() error {
			if err := s.unsealIfEarlier(s.layerDir(d)); err != nil && !errors.Is(err, fs.ErrNotExist) {
				s.doubtful.Store(true) // and the layer is not believed either: see believe
			}
			return nil
		})
	}
	return g.Wait()
}

func (s *Store) unsealIfEarlier(dir string) error {
	rec, err := readRecord(dir)
	if err != nil || !rec.Sealed {
		return err
	}
	if boot, err := presenceBoot(filepath.Join(dir, presentName)); err == nil && boot == s.boot {
		return nil
	}
	rec.Sealed = false
	return rec.writeSynced(dir)
}

// presenceBoot returns the boot that a presence record is of.
func presenceBoot(name string) (string, error) {
	f, err := openFile(name, os.O_RDONLY)
	if err != nil {
		return "", err
	}
	defer f.Close()
	header := make([]byte, presenceHeader)
	if _, err := io.ReadFull(f, header); err != nil {
		return "", err
	}
	return string(presence{mapping: header}.boot()), nil
}

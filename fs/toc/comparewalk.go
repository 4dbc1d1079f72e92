package toc

import (
	"errors"
	"fmt"

	"golang.org/x/sys/unix"

	"github.com/sluice-snapshotter/sluice/fs/metadata"
)

// walker walks over an image.
type walker struct {
	image *metadata.Image
	dirs  nids // that were entered
	depth int
}

// walk calls each with all entries below a directory. A damaged image gives an error with metadata.ErrCorrupt.
func (w *walker) walk(dir uint64, path string, each func(dir uint64, d metadata.Dirent, path string) error) (err error) {
	if w.dirs.has(dir) || w.depth > maxPath {
		return fmt.Errorf("%w: %s is in itself", metadata.ErrCorrupt, quote(path))
	}
	w.dirs.set(dir)
	w.depth++
	defer func() { w.depth-- }()
	readErr := w.image.ReadDir(dir, 0, func(d metadata.Dirent) bool {
		if d.Name == "." || d.Name == ".." {
			return true
		}
		below := d.Name
		if path != "" {
			below = path + "/" + d.Name
		}
		if err = each(dir, d, below); err == nil && d.Type == unix.S_IFDIR {
			err = w.walk(d.NID, below, each)
		}
		return err == nil
	})
	return errors.Join(err, readErr)
}

// nids is a set of numbers of inodes.
type nids struct {
	bits map[uint64]*[nidPage / 64]uint64
}

// nidPage is of how many inodes' bits a piece of the set is. Those of an image lie close together.
const nidPage = 1 << 15

func newNIDs() nids { return nids{map[uint64]*[nidPage / 64]uint64{}} }

func (s nids) set(nid uint64) {
	page := s.bits[nid/nidPage]
	if page == nil {
		page = new([nidPage / 64]uint64)
		s.bits[nid/nidPage] = page
	}
	page[nid%nidPage/64] |= 1 << (nid % 64)
}

func (s nids) has(nid uint64) bool {
	page := s.bits[nid/nidPage]
	return page != nil && page[nid%nidPage/64]>>(nid%64)&1 != 0
}

package cache

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"github.com/opencontainers/go-digest"
	"golang.org/x/sys/unix"
)

// ErrInUse says that somebody has a layer open, or had it just now.
var ErrInUse = errors.New("the layer is in use")

// Get returns the layer with blob digest d. The error wraps fs.ErrNotExist when the store does not have it, and also
// when what it has is damaged (Create then replaces it); the cause is in the error. The caller closes the layer.
func (s *Store) Get(d digest.Digest) (*Layer, error) {
	if err := d.Validate(); err != nil {
		return nil, fmt.Errorf("get layer %q: %w", d, err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.get(d)
}

func (s *Store) get(d digest.Digest) (*Layer, error) {
	if l := s.open[d]; l != nil {
		l.refs++
		return l, nil
	}
	l, err := openLayer(s.layerDir(d), s.session)
	if err != nil {
		return nil, fmt.Errorf("get layer %s: %w", d, err)
	}
	l.digest, l.store, l.refs, l.charge = d, s, 1, s.chargeOf(d)
	if l.cleared { // it was counted when the store was opened
		l.recount()
	}
	if l.doubtful {
		s.doubtful.Store(true)
	}
	s.open[d] = l
	return l, nil
}

// Create makes the layer with blob digest d: build writes its metadata image into meta and gives its chunks to add in
// the order of DataOffset. info.ID is chosen by the store. Nothing is visible before all is written; where another call
// was faster, its layer is returned. The caller closes the layer.
//
// What was written is charged before it becomes the layer. Where it does not, the charge ends when the files are gone.
//
// On a full disk room is made, and build called once more. The error wraps ErrFull where the quota leaves no room, and is one of IsOutOfSpace
// where the disk does not.
func (s *Store) Create(d digest.Digest, info Info, build func(meta *os.File, add func(Chunk) error) error) (l *Layer, err error) {
	if err := d.Validate(); err != nil {
		return nil, fmt.Errorf("create layer %q: %w", d, err)
	}
	err = s.budget.patiently(func() (written int64, err error) {
		l, written, err = s.create(d, info, build)
		return max(written, leastLayer), err
	})
	if err != nil {
		return nil, fmt.Errorf("create layer %s: %w", d, err)
	}
	return l, nil
}

// create is Create as long as the disk has room. Where it has none, written is what it had room for.
func (s *Store) create(d digest.Digest, info Info, build func(meta *os.File, add func(Chunk) error) error) (l *Layer, written int64, err error) {
	tmp, err := os.MkdirTemp(s.tempDir(), "layer-")
	if err != nil {
		return nil, 0, err
	}
	c, entered := &charge{budget: s.budget}, false
	defer func() {
		if !entered {
			c.clear(tmp)
		}
	}()
	if info.ID, err = s.nextID(); err != nil {
		return nil, 0, err
	}
	if err := buildLayer(tmp, record{Version: formatVersion, Boot: s.boot, Info: info}, build); err != nil {
		written, _ = dirUsage(tmp) // less is known without
		return nil, written, err
	}
	if err := c.measure(tmp); err != nil {
		return nil, 0, err
	}
	l, entered, err = s.enter(d, tmp, c)
	return l, 0, err
}

// enter makes a finished folder a layer, with its charge, unless there is one already.
func (s *Store) enter(d digest.Digest, tmp string, c *charge) (l *Layer, entered bool, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if l, err := s.get(d); !errors.Is(err, fs.ErrNotExist) { // another error may pass, and the layer may be a good one
		return l, false, err
	}
	if err := s.publish(tmp, s.layerDir(d)); err != nil {
		return nil, false, err
	}
	s.chargeOf(d).set(0) // of a damaged one
	s.charges[d] = c
	s.arrivals.add(d)
	l, err = s.get(d)
	return l, true, err
}

// chargeOf is that of a layer on disk. s.mu is held.
func (s *Store) chargeOf(d digest.Digest) *charge {
	c := s.charges[d]
	if c == nil {
		c = &charge{budget: s.budget}
		s.charges[d] = c
	}
	return c
}

// count charges all layers that are on disk.
func (s *Store) count() error {
	digests, err := s.List()
	if err != nil {
		return err
	}
	for _, d := range digests {
		n, err := dirUsage(s.layerDir(d))
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("usage of layer %s: %w", d, err)
		}
		s.chargeOf(d).set(n)
	}
	return nil
}

// publish puts a finished folder in its place, in that of a damaged one if there is one.
func (s *Store) publish(tmp, dir string) error {
	trash, err := s.discard(dir)
	if err != nil {
		return err
	}
	defer os.RemoveAll(trash)
	if err := os.MkdirAll(filepath.Dir(dir), 0o711); err != nil {
		return err
	}
	return os.Rename(tmp, dir)
}

// discard moves a layer's folder out of sight, to where the caller deletes it. It makes nothing for that, and where the folder cannot
// be moved it is deleted at once: a full disk, which may refuse both, is when deleting matters most. s.mu is held.
func (s *Store) discard(dir string) (trash string, err error) {
	s.discards++
	trash = filepath.Join(s.tempDir(), fmt.Sprintf("trash-%d", s.discards))
	if os.Rename(dir, trash) != nil { // there is none, for the most part
		return trash, os.RemoveAll(dir)
	}
	return trash, nil
}

// Remove removes the layer's files. Layers that are open keep working on them until they are closed. Removing what is
// not there is no error.
func (s *Store) Remove(d digest.Digest) error {
	if err := d.Validate(); err != nil {
		return fmt.Errorf("remove layer %q: %w", d, err)
	}
	s.mu.Lock()
	away := s.take(d)
	s.mu.Unlock()
	if err := away(); err != nil {
		return fmt.Errorf("remove layer %s: %w", d, err)
	}
	return nil
}

// RemoveIdle removes a layer, a damaged one too, that nobody has open and that was not used since a time. It returns what it took on disk. Errors:
// ErrInUse, fs.ErrNotExist.
func (s *Store) RemoveIdle(d digest.Digest, since time.Time) (bytes int64, err error) {
	bytes, away, err := s.takeIdle(d, since)
	if err == nil {
		err = away()
	}
	if err != nil {
		return 0, fmt.Errorf("remove layer %s: %w", d, err)
	}
	return bytes, nil
}

func (s *Store) takeIdle(d digest.Digest, since time.Time) (bytes int64, away func() error, err error) {
	if err := d.Validate(); err != nil {
		return 0, nil, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	st, err := os.Lstat(s.layerDir(d))
	if err != nil {
		return 0, nil, err
	}
	if s.open[d] != nil || st.ModTime().After(since) { // see Layer.LastUse
		return 0, nil, ErrInUse
	}
	return s.chargeOf(d).bytes.Load(), s.take(d), nil
}

// take takes a layer out of the store. The caller calls away without s.mu, which is held: large files take their time.
func (s *Store) take(d digest.Digest) (away func() error) {
	_, isOpen := s.open[d]
	delete(s.open, d)
	c := s.chargeOf(d)
	delete(s.charges, d)
	s.arrivals.remove(d)
	trash, err := s.discard(s.layerDir(d))
	return func() error {
		if err == nil {
			err = os.RemoveAll(trash)
		}
		if !isOpen { // else its last Close does, which lets go of the files
			c.set(0)
		}
		return err
	}
}

// release drops one reference to l, and reports whether it was the last, and whether the layer was removed.
func (s *Store) release(l *Layer) (last, removed bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	l.refs--
	if l.refs > 0 {
		return false, false
	}
	removed = s.open[l.digest] != l
	if !removed {
		l.closeRecord()
		delete(s.open, l.digest)
	}
	return true, removed
}

// Usage is what a layer takes on disk.
type Usage struct {
	Digest  digest.Digest
	Bytes   int64
	LastUse time.Time // see Layer.LastUse
}

// Usage returns that of all layers on disk, damaged ones too, in the order of their digests. It looks at no data.
func (s *Store) Usage() ([]Usage, error) {
	digests, err := s.List()
	if err != nil {
		return nil, err
	}
	var out []Usage
	for _, d := range digests {
		u := Usage{Digest: d, Bytes: s.charged(d)}
		if st, err := os.Stat(s.layerDir(d)); err == nil {
			u.LastUse = st.ModTime()
		}
		out = append(out, u)
	}
	return out, nil
}

func (s *Store) charged(d digest.Digest) int64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	if c := s.charges[d]; c != nil {
		return c.bytes.Load()
	}
	return 0 // removed meanwhile
}

// List returns the digests of all layers on disk, damaged ones too.
func (s *Store) List() ([]digest.Digest, error) {
	dirs, err := s.algorithmDirs()
	if err != nil {
		return nil, fmt.Errorf("list layers: %w", err)
	}
	var out []digest.Digest
	for _, dir := range dirs {
		entries, err := os.ReadDir(dir)
		if err != nil {
			return nil, fmt.Errorf("list layers: %w", err)
		}
		for _, e := range entries {
			d := digest.NewDigestFromEncoded(digest.Algorithm(filepath.Base(dir)), e.Name())
			if d.Validate() == nil {
				out = append(out, d)
			}
		}
	}
	return out, nil
}

// Created returns when the layer was made. The error wraps fs.ErrNotExist if it is not there.
func (s *Store) Created(d digest.Digest) (time.Time, error) {
	st, err := os.Stat(filepath.Join(s.layerDir(d), recordName))
	if err != nil {
		return time.Time{}, fmt.Errorf("age of layer %s: %w", d, err)
	}
	return st.ModTime(), nil
}

// dirUsage returns the bytes on disk of the files in dir. Sparse files count with what they occupy.
func dirUsage(dir string) (int64, error) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return 0, misplaced(err)
	}
	var sum int64
	for _, e := range entries {
		var st unix.Stat_t
		if err := unix.Lstat(filepath.Join(dir, e.Name()), &st); err != nil {
			return 0, &fs.PathError{Op: "lstat", Path: e.Name(), Err: err}
		}
		sum += st.Blocks * 512
	}
	return sum, nil
}

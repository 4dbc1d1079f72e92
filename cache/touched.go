package cache

import (
	"encoding/binary"
	"errors"
	"hash/crc32"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

// Within a boot files are not read again to find out whether they are what they were: that would be a scan. Nobody can write to a file without
// changing its ctime, which cannot be set. So it stands in layer.json for the files that do not change any more, and, of the data file of a layer
// that does, in the presence record when the layer is closed. Another ctime than that is no proof of damage, as it changes with an owner
// or a link too: the files are looked at, as after a reboot.

// ctimes are when a layer's files were last changed, in nanoseconds since 1970; 0 for what is not known.
type ctimes struct {
	Meta   int64 `json:"meta"`
	Chunks int64 `json:"chunks"`
	Data   int64 `json:"data,omitempty"` // when the layer was sealed
}

// readCtimes reads those of the files in a layer's folder.
func readCtimes(dir string) (c ctimes, err error) {
	var errs [3]error
	c.Meta, errs[0] = fileCtime(filepath.Join(dir, metaName))
	c.Chunks, errs[1] = fileCtime(filepath.Join(dir, chunksName))
	c.Data, errs[2] = fileCtime(filepath.Join(dir, dataName))
	return c, errors.Join(errs[:]...)
}

// fileCtime is when a file was last changed. Something else in the place of a file is damage.
func fileCtime(name string) (int64, error) {
	var st unix.Stat_t
	if err := unix.Lstat(name, &st); err != nil {
		return 0, &fs.PathError{Op: "lstat", Path: name, Err: err}
	}
	if st.Mode&unix.S_IFMT != unix.S_IFREG {
		return 0, damaged("%s: not a file", filepath.Base(name))
	}
	return st.Ctim.Nano(), nil
}

// openFile opens a file of the store. Something else in its place, of which a FIFO would have its opener wait, is damage.
func openFile(name string, flag int) (*os.File, error) {
	if _, err := fileCtime(name); err != nil {
		return nil, err
	}
	return os.OpenFile(name, flag|unix.O_NOFOLLOW, 0)
}

// readFile reads a file of the store, as openFile opens it.
func readFile(name string) ([]byte, error) {
	f, err := openFile(name, os.O_RDONLY)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return io.ReadAll(f)
}

// misplaced makes damage of what the kernel says of a path where something else than a file is, or one that nobody may read: both are
// found in a store only if somebody was at it, and go with the layer's folder when it is fetched again.
func misplaced(err error) error {
	for _, no := range []error{unix.EISDIR, unix.ENOTDIR, unix.ELOOP, unix.EACCES, unix.EPERM} {
		if errors.Is(err, no) && !errors.Is(err, fs.ErrNotExist) {
			return damaged("%v", err)
		}
	}
	return err
}

// clearWay removes what is not a file where the store keeps one.
func clearWay(name string) error {
	st, err := os.Lstat(name)
	if err != nil || st.Mode().IsRegular() {
		return nil // there is nothing, or what is wrong shows when it is used
	}
	return os.RemoveAll(name)
}

// clearLeft removes what a crash has left in a layer's folder, and reports whether there was something: files that were to replace others, and what
// nobody needs once the layer's diffID is known. What cannot be removed stays until the next time.
func clearLeft(dir string, rec record) (cleared bool) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return false
	}
	for _, e := range entries {
		name := e.Name()
		ofTar := name == skeletonName || name == tocName
		if strings.HasSuffix(name, newSuffix) || ofTar && rec.DiffID != "" {
			cleared = os.RemoveAll(filepath.Join(dir, name)) == nil || cleared
		}
	}
	return cleared
}

// clearWays removes what somebody has put into the places of the store's own files and folders.
func (s *Store) clearWays() error {
	var errs []error
	for _, name := range []string{"format", "serial", "clean", refusalsName} {
		errs = append(errs, clearWay(filepath.Join(s.dir, name)))
	}
	for _, a := range algorithms {
		dir := filepath.Join(s.dir, a.String())
		if st, err := os.Stat(dir); err == nil && !st.IsDir() {
			errs = append(errs, os.Remove(dir))
		}
	}
	return errors.Join(errs...)
}

// Where the presence record keeps what it was closed with, in its header: the data file's ctime, u64, and behind it the CRC-32C of the
// whole record but for these four bytes.
const (
	presenceCtime = 52
	presenceSum   = 60
)

// close notes that from now on neither the record nor a data file with this ctime is changed, unless it is opened.
func (p presence) close(ctime int64) {
	binary.NativeEndian.PutUint64(p.mapping[presenceCtime:], uint64(ctime))
	binary.NativeEndian.PutUint32(p.mapping[presenceSum:], p.sum())
}

// closed says whether nothing was changed since close: neither the record nor the data file, which has this ctime.
func (p presence) closed(ctime int64) bool {
	return binary.NativeEndian.Uint64(p.mapping[presenceCtime:]) == uint64(ctime) && ctime != 0 &&
		binary.NativeEndian.Uint32(p.mapping[presenceSum:]) == p.sum()
}

// open takes back what close has noted.
func (p presence) open() { clear(p.mapping[presenceCtime:presenceHeader]) }

func (p presence) sum() uint32 {
	return crc32.Update(crc32.Checksum(p.mapping[:presenceSum], castagnoli), castagnoli, p.mapping[presenceHeader:])
}

// closeRecords does so for layers that are still open. When they are closed the record may be another process's.
func (s *Store) closeRecords() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, l := range s.open {
		l.closeRecord()
	}
	clear(s.open)
}

// closeRecord has the next process believe the layer's marks, unless somebody changes the files until then. What it cannot note, or what is
// changed after it by a process that is about to end, makes the marks claims. The store is still locked.
func (l *Layer) closeRecord() {
	var st unix.Stat_t
	if unix.Fstat(int(l.data.Fd()), &st) != nil {
		return
	}
	l.presence.close(st.Ctim.Nano())
}

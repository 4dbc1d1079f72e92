// Package cache is the layer store: what this node has of each lazily pulled layer, on local disk.
//
// A layer lives in <root>/layers/<algorithm>/<hex>/, named by the digest of its blob:
//
//	meta.erofs  the metadata image: the layer's tree, with the place of each file in the address space
//	chunks      the chunk table: for each chunk its place in the address space, its place in the blob and its digest
//	data        the data file: the address space itself, sparse, filled chunk by chunk
//	index       which chunks have a digest, to be found from other layers (see index.go); it may be missing
//	present     the presence record: which chunks the data file holds
//	layer.json  what the layer is, checksums and ctimes of meta.erofs and chunks, and whether the layer is sealed; and a checksum of its own
//	skeleton    what else the layer's tar has, until its digest is known (see skeleton.go); it may be missing
//
// Beside these folders refused.json remembers layers that were not what images claimed (see refusals.go).
//
// There are two kinds of layers. Those that Create makes come chunk by chunk, and what is lost of them is fetched again. Those that
// Fill makes are there as a whole from the beginning, checked by whoever gave them, and come again as a whole.
//
// The format is described byte by byte in docs/store-format.md.
//
// # What is believed
//
// No byte enters a data file before its chunk's digest has been checked, and a chunk is marked present only after its
// bytes were written. Both go through the page cache, so a process that is killed at any instant loses at most the mark.
//
// Nothing is synced while a layer is being fetched. Losing power can lose or tear any of it, in any order, so nothing is
// believed across a boot without a look: each record carries the kernel's boot ID. A presence record from another boot is
// a list of claims, and each claimed chunk is hashed again before it is used; meta.erofs and chunks are compared with their
// checksums; what does not match is absent, and is fetched again.
//
// A complete layer is sealed: all its files are synced, and after them layer.json, which then says so. That is believed
// across a boot, if the store was closed before; after a crash of the node the layer is hashed like any other. What must not
// be believed is taken back before the store can count as closed again (see clean.go).
//
// What is synced, then, and when: layer.json, with the file that it replaces and its folder, when a layer is sealed, when that is taken
// back, and when its diffID is known; before it is sealed the data file, meta.erofs, chunks and the presence record; the presence record when
// it is opened in another boot, between the two steps in which marks become claims; the store's folder when "clean" comes or goes; "format".
//
// # What others may have done
//
// Within a boot, files are believed that nobody has written to since: their ctimes say so (see touched.go). Of meta.erofs and chunks they are
// those in layer.json, else the checksums are compared. Of the data file it is the one in layer.json if the layer is sealed, and else the one in
// the presence record, which is noted there when the layer is closed. If it is another one, or the process was killed and
// has noted none, marks are claims as after a reboot. So what somebody damages, cuts or deletes while no process has the store is found out without
// a scan, and what a process that was killed has stored is hashed once more, when it is used. A layer.json that is not what its own
// checksum is of, a presence record that is not one, and anything that is not a file where one should be, make the layer absent.
//
// What a disk changes by itself, behind a ctime, is found out where chunks are hashed, and not in a layer that is sealed.
//
// Within a boot, a disk that fails or is full can lose what the page cache had taken. Seal finds out and has it fetched
// again; before that, what was stored can come back wrong once the page cache has let go of it. What cannot be fetched again
// while a layer is in use, meta.erofs and chunks, is written again from the page cache; where that has lost it too, the layer
// is not sealed, and is absent when it is opened for the next time.
//
// # Concurrency
//
// A store belongs to one process, by a lock on its folder. All methods of Store and Layer may be called concurrently,
// except that nothing may be called on a Layer after the last Close.
package cache

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"

	"github.com/opencontainers/go-digest"
	"golang.org/x/sys/unix"
)

// formatVersion is that of everything below <root>/layers. A store with a newer one is refused, one with an older one
// is emptied: layers are fetched again.
//
// A field that is new in layer.json, and that older versions of Sluice pass over, needs no new version: layers without it are taken
// for damaged, and are fetched again one by one as they are needed.
const formatVersion = 1

// ErrLocked is returned by Open when another process owns the store.
var ErrLocked = errors.New("layer store is in use by another process")

// Store is a folder of layers.
type Store struct {
	dir  string // <root>/layers
	lock *os.File
	session

	budget   *budget
	refusals refusals
	doubtful atomic.Bool // some layer.json says sealed, wrongly: see clean.go
	noClone  atomic.Bool // the file system has nothing to share: see Sources
	arrivals arrivals
	hashing  chan struct{} // held while a chunk is hashed that nobody waits for: one at a time

	mu       sync.Mutex
	open     map[digest.Digest]*Layer
	charges  map[digest.Digest]*charge // of all layers on disk
	serial   uint32                    // the highest layer ID given out
	discards int                       // folders that were discarded
}

// session is what a Store knows of the time before it was opened.
type session struct {
	boot  string // the kernel's boot ID
	clean bool   // whoever had the store last has closed it
}

// Open opens the store below root, made if it is not there, and removes what a crash left half-made.
// The caller closes it.
func Open(root string) (*Store, error) {
	boot, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		return nil, fmt.Errorf("open layer store: %w", err)
	}
	return open(root, strings.TrimSpace(string(boot)))
}

func open(root, boot string) (_ *Store, err error) {
	s := &Store{
		dir: filepath.Join(root, "layers"), session: session{boot: boot},
		hashing: make(chan struct{}, 1), open: make(map[digest.Digest]*Layer),
		budget: newBudget(), charges: make(map[digest.Digest]*charge),
	}
	s.budget.trouble.room = s.free
	if err := os.MkdirAll(s.dir, 0o711); err != nil {
		return nil, fmt.Errorf("open layer store: %w", err)
	}
	if s.lock, err = lockFile(filepath.Join(s.dir, "lock")); err != nil {
		return nil, fmt.Errorf("open layer store %s: %w", s.dir, err)
	}
	defer func() {
		if err != nil {
			s.lock.Close()
		}
	}()
	if err := s.clearWays(); err != nil {
		return nil, fmt.Errorf("open layer store %s: %w", s.dir, err)
	}
	if err := s.checkFormat(); err != nil {
		return nil, fmt.Errorf("open layer store %s: %w", s.dir, err)
	}
	if s.clean, err = s.takeClean(); err != nil {
		return nil, fmt.Errorf("open layer store %s: %w", s.dir, err)
	}
	if err := s.clearTemp(); err != nil {
		return nil, fmt.Errorf("open layer store %s: clear temporary files: %w", s.dir, err)
	}
	if s.serial, err = s.readSerial(); err != nil {
		return nil, fmt.Errorf("open layer store %s: %w", s.dir, err)
	}
	if err := s.count(); err != nil {
		return nil, fmt.Errorf("open layer store %s: %w", s.dir, err)
	}
	return s, nil
}

// Close gives the store up. Layers that are still open can still be read. A store whose folder is gone has nothing to say.
func (s *Store) Close() error {
	s.closeRecords()
	s.budget.trouble.stop()
	if err := errors.Join(s.leaveClean(), s.lock.Close()); err != nil {
		return fmt.Errorf("close layer store %s: %w", s.dir, err)
	}
	return nil
}

// Dir returns the folder of the layers, which may be a mount point.
func (s *Store) Dir() string { return s.dir }

func (s *Store) tempDir() string { return filepath.Join(s.dir, "tmp") }

// clearTemp keeps the folder if there is one: a full disk has no room for another. What cannot be removed is no reason to do without the
// store: nobody looks at it, and it is tried again the next time.
func (s *Store) clearTemp() error {
	left, err := os.ReadDir(s.tempDir())
	if errors.Is(err, unix.ENOTDIR) {
		left, err = nil, errors.Join(os.Remove(s.tempDir()), os.Mkdir(s.tempDir(), 0o700))
	}
	if errors.Is(err, fs.ErrNotExist) {
		return os.Mkdir(s.tempDir(), 0o700)
	}
	for _, e := range left {
		os.RemoveAll(filepath.Join(s.tempDir(), e.Name()))
	}
	return err
}

func (s *Store) layerDir(d digest.Digest) string {
	return filepath.Join(s.dir, d.Algorithm().String(), d.Encoded())
}

func lockFile(name string) (*os.File, error) {
	if err := clearWay(name); err != nil {
		return nil, err
	}
	f, err := os.OpenFile(name, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, err
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		f.Close()
		if errors.Is(err, unix.EWOULDBLOCK) {
			return nil, ErrLocked
		}
		return nil, fmt.Errorf("lock: %w", err)
	}
	return f, nil
}

// checkFormat refuses a newer format and empties a store that has an older or unreadable one.
func (s *Store) checkFormat() error {
	name := filepath.Join(s.dir, "format")
	b, err := os.ReadFile(name)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	version, convErr := strconv.Atoi(strings.TrimSpace(string(b)))
	switch {
	case convErr == nil && version == formatVersion:
		return nil
	case convErr == nil && version > formatVersion:
		return fmt.Errorf("format version is %d, this version of Sluice knows %d: upgrade Sluice, or delete the folder to fetch its layers again",
			version, formatVersion)
	}
	dirs, err := s.algorithmDirs()
	if err != nil {
		return err
	}
	for _, dir := range dirs {
		if err := os.RemoveAll(dir); err != nil {
			return err
		}
	}
	return writeSynced(name, []byte(strconv.Itoa(formatVersion)+"\n"))
}

// algorithms are those of the digests that layers have.
var algorithms = []digest.Algorithm{digest.SHA256, digest.SHA384, digest.SHA512}

func (s *Store) algorithmDirs() ([]string, error) {
	var dirs []string
	for _, a := range algorithms {
		dir := filepath.Join(s.dir, a.String())
		if _, err := os.Stat(dir); err == nil {
			dirs = append(dirs, dir)
		} else if !errors.Is(err, fs.ErrNotExist) {
			return nil, err
		}
	}
	return dirs, nil
}

// readSerial returns the highest layer ID ever given out: the kernel caches FUSE nodes by it for as long as a FUSE
// connection lives, so that an ID of a removed layer must not come back.
func (s *Store) readSerial() (uint32, error) {
	var serial uint32
	if b, err := os.ReadFile(filepath.Join(s.dir, "serial")); err == nil {
		if n, err := strconv.ParseUint(strings.TrimSpace(string(b)), 10, 31); err == nil { // a larger one leaves no room for others
			serial = uint32(n)
		}
	} else if !errors.Is(err, fs.ErrNotExist) {
		return 0, err
	}
	digests, err := s.List()
	if err != nil {
		return 0, err
	}
	for _, d := range digests {
		if rec, err := readRecord(s.layerDir(d)); err == nil {
			serial = max(serial, rec.ID)
		}
	}
	return serial, nil
}

func (s *Store) nextID() (uint32, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	id := s.serial + 1
	if err := writeFile(filepath.Join(s.dir, "serial"), []byte(strconv.FormatUint(uint64(id), 10)+"\n")); err != nil {
		return 0, fmt.Errorf("number the layer: %w", err)
	}
	s.serial = id
	return id, nil
}

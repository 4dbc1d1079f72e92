package cache

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// stored is a layer on disk that somebody is about to tamper with.
type stored struct {
	sample
	root   string
	plain  bool
	sealed bool
}

var tamperSample = newSample("tampered", 3000, 4096, 9000, 200)

// ends are the ways in which a process leaves its store.
var ends = map[string]func(t *testing.T, s *Store, l *Layer){
	"closed":  func(t *testing.T, s *Store, l *Layer) { closeAll(t, l, s) },
	"stopped": func(t *testing.T, s *Store, l *Layer) { closeAll(t, s) }, // as the daemon ends: layers are still served
	"killed":  func(t *testing.T, s *Store, l *Layer) { closeAll(t, s.lock) },
}

// states are what layers may be in. Each leaves one in a new store.
var states = map[string]func(t *testing.T, root string, end func(*testing.T, *Store, *Layer)) stored{
	"partial": func(t *testing.T, root string, end func(*testing.T, *Store, *Layer)) stored {
		return lazyStored(t, root, false, end, 0, 2)
	},
	"complete": func(t *testing.T, root string, end func(*testing.T, *Store, *Layer)) stored {
		return lazyStored(t, root, false, end, 0, 1, 2, 3)
	},
	"sealed": func(t *testing.T, root string, end func(*testing.T, *Store, *Layer)) stored {
		return lazyStored(t, root, true, end, 0, 1, 2, 3)
	},
	"plain": func(t *testing.T, root string, end func(*testing.T, *Store, *Layer)) stored {
		return plainStored(t, root, false, end)
	},
	"plain sealed": func(t *testing.T, root string, end func(*testing.T, *Store, *Layer)) stored {
		return plainStored(t, root, true, end)
	},
}

func lazyStored(t *testing.T, root string, seal bool, end func(*testing.T, *Store, *Layer), chunks ...int) stored {
	t.Helper()
	s := openStore(t, root, bootA)
	l := tamperSample.create(t, s)
	tamperSample.put(t, l, chunks...)
	if err := l.KeepPieces(AppendPiece(nil, 7, pieceOfTar)); err != nil {
		t.Fatal(err)
	}
	if err := l.KeepTOC(pieceOfTar); err != nil {
		t.Fatal(err)
	}
	if seal {
		sealNow(t, l)
	}
	end(t, s, l)
	return stored{sample: tamperSample, root: root, sealed: seal}
}

func plainStored(t *testing.T, root string, seal bool, end func(*testing.T, *Store, *Layer)) stored {
	t.Helper()
	s := openStore(t, root, bootA)
	d := tamperSample.digest
	l := fill(t, s, d, piece{0, spread(20_000)})
	if seal {
		sealNow(t, l)
	}
	end(t, s, l)
	return stored{sample: sample{digest: d, data: [][]byte{spread(20_000)}}, root: root, plain: true, sealed: seal}
}

func sealNow(t *testing.T, l *Layer) {
	t.Helper()
	if err := l.Seal(t.Context()); err != nil {
		t.Fatal(err)
	}
}

// memoryDir is a folder where syncing costs nothing, if there is one.
func memoryDir(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("/dev/shm", "sluice-test-")
	if err != nil {
		return t.TempDir()
	}
	t.Cleanup(func() {
		if err := os.RemoveAll(dir); err != nil {
			t.Error(err)
		}
	})
	return dir
}

func (s stored) file(name string) string { return filepath.Join(layerPath(s.root, s.digest), name) }

// examine opens the store and reads all that it has of the layer, as readers do, and as native mounts do if it is sealed. Then it has the
// layer fetched again as far as it is not there, and reads it once more. It reports how many bytes were right before that.
func (s stored) examine(t *testing.T, boot string) (right int) {
	t.Helper()
	store := openStore(t, s.root, boot)
	defer closeAll(t, store)
	l, err := store.Get(s.digest)
	switch {
	case err == nil:
		right = s.read(t, l, false)
	case !errors.Is(err, fs.ErrNotExist):
		t.Fatalf("the layer is neither there nor to be fetched: %v", err)
	}
	again := s.fetch(t, store)
	if got, all := s.read(t, again, true), s.bytes(); got != all {
		t.Errorf("fetched again, %d of %d bytes are right", got, all)
	}
	if err := again.Seal(t.Context()); err != nil {
		t.Errorf("fetched again: %v", err)
	}
	if !s.plain {
		s.readSkeleton(t, again)
	}
	closeAll(t, again)
	if l != nil {
		closeAll(t, l)
	}
	return right
}

var pieceOfTar = []byte("a header of the tar")

// readSkeleton looks at the layer's one piece, and keeps it once more, as whoever fetches it does.
func (s stored) readSkeleton(t *testing.T, l *Layer) {
	t.Helper()
	for kept := range 2 {
		sk, err := l.Skeleton()
		if err != nil {
			t.Errorf("skeleton: %v", err)
			return
		}
		if p, ok := sk.Piece(7); ok != bytes.Equal(p, pieceOfTar) || !ok && kept > 0 {
			t.Errorf("piece %q, there: %v, kept %d times", p, ok, kept)
		}
		closeAll(t, sk)
		if err := l.KeepPieces(AppendPiece(nil, 7, pieceOfTar)); err != nil {
			t.Errorf("skeleton: %v", err)
		}
	}
	if err := l.KeepTOC(pieceOfTar); err != nil { // whatever has become of the last one, which its digest tells
		t.Errorf("TOC: %v", err)
	}
	if p := readTOC(t, l); string(p) != string(pieceOfTar) {
		t.Errorf("TOC %q", p)
	}
}

// readTOC is the TOC that was kept, nil if there is none.
func readTOC(t *testing.T, l *Layer) []byte {
	t.Helper()
	f, err := l.TOC()
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	p, err := io.ReadAll(f)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func (s stored) bytes() (n int) {
	for _, p := range s.data {
		n += len(p)
	}
	return n
}

func (s stored) fetch(t *testing.T, store *Store) *Layer {
	t.Helper()
	if s.plain {
		return fill(t, store, s.digest, piece{0, s.data[0]})
	}
	l := s.create(t, store)
	for i := range s.data {
		if !l.Has(i) {
			s.put(t, l, i)
		}
	}
	return l
}

// read compares all that a layer says it has with what it should be.
func (s stored) read(t *testing.T, l *Layer, whole bool) (right int) {
	t.Helper()
	want := s.info()
	if s.plain {
		want = Info{Format: "tar", DiffID: s.digest, BlobSize: 1000, DataSize: 20_480, Implied: []string{"a"}}
	}
	want.ID = l.Info().ID
	if got := l.Info(); fmt.Sprint(got) != fmt.Sprint(want) {
		t.Errorf("Info() = %+v, want %+v", got, want)
	}
	meta, err := os.ReadFile(l.MetadataPath())
	if err != nil || !strings.HasPrefix(string(meta), "metadata") || s.plain != (len(meta) == len("metadata")) ||
		!s.plain && string(meta) != "metadata of "+s.digest.String() {
		t.Errorf("metadata image %q, %v", meta, err)
	}
	for i, p := range s.data {
		off, chunk := int64(0), i
		if !s.plain {
			off = s.chunks[i].DataOffset
			if got := l.Chunk(i); got != s.chunks[i] {
				t.Errorf("Chunk(%d) = %+v, want %+v", i, got, s.chunks[i])
			}
		}
		if !whole && !l.Sealed() && !l.Has(chunk) {
			continue
		}
		got := make([]byte, len(p))
		if _, err := l.ReadAt(got, off); err != nil || !bytes.Equal(got, p) {
			t.Errorf("WRONG BYTES in chunk %d (sealed: %v): %v", i, l.Sealed(), err)
			continue
		}
		right += len(p)
	}
	return right
}

// TestUntouched: what nobody tampers with is there, after a process that closed its store without a look at the data.
func TestUntouched(t *testing.T) {
	for state, make := range states {
		for ended, end := range ends {
			for _, boot := range []string{bootA, bootB} {
				t.Run(strings.Join([]string{state, ended, boot[:1]}, ", "), func(t *testing.T) {
					s := make(t, memoryDir(t), end)
					claimed := s.claimed(t, boot)
					looked := ended == "killed" || boot == bootB // before what is there counts
					if s.sealed {
						looked = ended == "killed" && boot == bootB
					}
					if (claimed > 0) != looked {
						t.Errorf("%d chunks are to be hashed, want some: %v", claimed, looked)
					}
					all := s.bytes()
					if state == "partial" {
						all = len(s.data[0]) + len(s.data[2])
					}
					if right := s.examine(t, boot); right != all {
						t.Errorf("%d of %d bytes were there", right, all)
					}
				})
			}
		}
	}
}

// claimed is how many chunks the next process has to hash. It leaves the store as it was.
func (s stored) claimed(t *testing.T, boot string) (n int) {
	t.Helper()
	store := openStore(t, s.root, boot)
	l, err := store.Get(s.digest)
	if err != nil {
		t.Fatal(err)
	}
	for i := range l.NumChunks() {
		if l.Claimed(i) {
			n++
		}
	}
	closeAll(t, l, store)
	return n
}

var layerFiles = []string{metaName, chunksName, dataName, presentName, recordName, skeletonName, tocName}

// TestFlippedBytes flips bytes of each file while no process has the store.
func TestFlippedBytes(t *testing.T) {
	rounds := 6
	if os.Getenv("SLUICE_TEST_ALL") != "" {
		rounds = 400
	}
	rnd := rand.New(rand.NewPCG(5, 6))
	for state, make := range states {
		for ended, end := range ends {
			for _, name := range layerFiles {
				t.Run(strings.Join([]string{state, ended, name}, ", "), func(t *testing.T) {
					for range rounds {
						s := make(t, memoryDir(t), end)
						file := s.file(name)
						old, err := os.ReadFile(file)
						if errors.Is(err, fs.ErrNotExist) && (name == skeletonName || name == tocName) {
							return
						}
						if err != nil {
							t.Fatal(err)
						}
						off := rnd.IntN(len(old))
						bit := rnd.IntN(8)
						switch { // more often where something is
						case name == dataName:
							off = []int{off, rnd.IntN(s.bytes()), 100}[rnd.IntN(3)]
						case name == presentName && rnd.IntN(2) == 0:
							off, bit = presenceHeader, rnd.IntN(4)
						}
						flip(t, file, off, byte(1<<bit))
						s.examine(t, []string{bootA, bootA, bootB}[rnd.IntN(3)])
						if t.Failed() {
							t.Fatalf("after byte %d of %d was flipped", off, len(old))
						}
					}
				})
			}
		}
	}
}

func flip(t *testing.T, file string, off int, mask byte) {
	t.Helper()
	f, err := os.OpenFile(file, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	b := make([]byte, 1)
	_, err = f.ReadAt(b, int64(off))
	b[0] ^= mask
	_, err2 := f.WriteAt(b, int64(off))
	if err := errors.Join(err, err2); err != nil {
		t.Fatal(err)
	}
}

// tamperings are what may become of a file besides single bytes.
var tamperings = map[string]func(file string) error{
	"deleted":   os.Remove,
	"emptied":   func(file string) error { return os.Truncate(file, 0) },
	"one byte":  func(file string) error { return os.Truncate(file, 1) },
	"halved":    func(file string) error { return resize(file, func(n int64) int64 { return n / 2 }) },
	"cut":       func(file string) error { return resize(file, func(n int64) int64 { return n - 1 }) },
	"longer":    func(file string) error { return resize(file, func(n int64) int64 { return n + 1 }) },
	"zeroed":    func(file string) error { return overwritten(file, 0) },
	"ones":      func(file string) error { return overwritten(file, 0xff) },
	"punched":   punched,
	"directory": func(file string) error { return errors.Join(os.Remove(file), os.MkdirAll(file+"/a/b", 0o755)) },
	"fifo":      func(file string) error { return errors.Join(os.Remove(file), unix.Mkfifo(file, 0o600)) },
	"loop":      func(file string) error { return errors.Join(os.Remove(file), os.Symlink(file, file)) },
	"symlink":   func(file string) error { return errors.Join(os.Rename(file, file+"2"), os.Symlink(file+"2", file)) },
	"unreadable": func(file string) error {
		return os.Chmod(file, 0)
	},
	"replaced": func(file string) error { // by a copy, which is no damage
		b, err := os.ReadFile(file)
		return errors.Join(err, os.WriteFile(file+"2", b, 0o600), os.Rename(file+"2", file))
	},
}

func resize(file string, to func(int64) int64) error {
	st, err := os.Stat(file)
	if err != nil {
		return err
	}
	return os.Truncate(file, max(0, to(st.Size())))
}

func overwritten(file string, with byte) error {
	st, err := os.Stat(file)
	if err != nil {
		return err
	}
	return os.WriteFile(file, bytes.Repeat([]byte{with}, int(st.Size())), 0o600)
}

func punched(file string) error {
	f, err := os.OpenFile(file, os.O_RDWR, 0)
	if err != nil {
		return err
	}
	defer f.Close()
	st, err := f.Stat()
	if err != nil {
		return err
	}
	return unix.Fallocate(int(f.Fd()), unix.FALLOC_FL_PUNCH_HOLE|unix.FALLOC_FL_KEEP_SIZE, 0, max(1, st.Size()))
}

// TestTampered does other things to files while no process has the store.
func TestTampered(t *testing.T) {
	rnd := rand.New(rand.NewPCG(7, 8))
	for state, make := range states {
		for how, tamper := range tamperings {
			t.Run(state+", "+how, func(t *testing.T) {
				for ended, end := range ends {
					for _, name := range layerFiles {
						for _, boot := range []string{bootA, bootB} {
							if os.Getenv("SLUICE_TEST_ALL") == "" && rnd.IntN(4) > 0 {
								continue
							}
							s := make(t, memoryDir(t), end)
							err := tamper(s.file(name))
							if (name == skeletonName || name == tocName) && errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.EOPNOTSUPP) {
								continue
							}
							if err != nil {
								t.Fatal(err)
							}
							s.examine(t, boot)
							if t.Failed() {
								t.Fatalf("%s of a store that was %s, boot %.1s", name, ended, boot)
							}
						}
					}
				}
			})
		}
	}
}

// TestImmutable: a file that not even root may write to goes with its layer, and is no reason to refuse the store, then or later.
func TestImmutable(t *testing.T) {
	for _, name := range layerFiles[:4] { // without layer.json such a layer is never sealed, and no worse for that
		t.Run(name, func(t *testing.T) {
			s := states["complete"](t, t.TempDir(), ends["closed"])
			immutable(t, s.file(name), true)
			t.Cleanup(func() {
				left, err := filepath.Glob(filepath.Join(s.root, "layers", "*", "*", name))
				if err != nil {
					t.Error(err)
				}
				for _, file := range left {
					immutable(t, file, false)
				}
			})
			s.examine(t, bootA)
			s.examine(t, bootB)
		})
	}
}

// immutable sets or clears FS_IMMUTABLE_FL (linux/fs.h).
func immutable(t *testing.T, file string, on bool) {
	t.Helper()
	f, err := os.Open(file)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	const flag = 0x10
	flags, err := unix.IoctlGetUint32(int(f.Fd()), unix.FS_IOC_GETFLAGS)
	if err == nil {
		if flags &^= flag; on {
			flags |= flag
		}
		err = unix.IoctlSetPointerInt(int(f.Fd()), unix.FS_IOC_SETFLAGS, int(flags))
	}
	if err != nil {
		t.Skip(err)
	}
}

// TestRecheckUnseals: what is stored in the place of what a sealed layer has lost is not believed after a reboot, though the store was closed.
func TestRecheckUnseals(t *testing.T) {
	root := memoryDir(t)
	s := tamperSample
	store := openStore(t, root, bootA)
	l := s.create(t, store)
	s.put(t, l, 0, 1, 2, 3)
	sealNow(t, l)
	flip(t, l.DataPath(), 5, 1)
	if err := l.Recheck(t.Context()); !errors.Is(err, ErrIncomplete) {
		t.Errorf("recheck: %v", err)
	}
	s.put(t, l, 0)
	if rec, err := readRecord(l.dir); l.Sealed() || err != nil || rec.Sealed {
		t.Errorf("sealed %v, record %+v, %v", l.Sealed(), rec, err)
	}
	sealNow(t, l)
	closeAll(t, l, store)
	store = openStore(t, root, bootB)
	l, err := store.Get(s.digest)
	if err != nil || !l.Sealed() {
		t.Errorf("sealed again: %v", err)
	}
	s.check(t, l, 0, 1, 2, 3)
	closeAll(t, l, store)
}

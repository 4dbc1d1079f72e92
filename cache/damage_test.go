package cache

import (
	"bytes"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"
)

func TestDamageIsAMiss(t *testing.T) {
	smp := newSample("layer", 4096, 9000)
	overwrite := func(off int64) func(string) error {
		return func(name string) error {
			f, err := os.OpenFile(name, os.O_RDWR, 0)
			if err != nil {
				return err
			}
			_, err = f.WriteAt([]byte{0xff, 0xff}, off)
			return errors.Join(err, f.Close())
		}
	}
	cut := func(name string) error { return os.Truncate(name, 7) }
	for _, test := range []struct {
		name, file string
		boot       string
		do         func(string) error
	}{
		{"no metadata image", metaName, bootA, os.Remove},
		{"metadata image torn by power loss", metaName, bootB, overwrite(3)},
		{"no chunk table", chunksName, bootA, os.Remove},
		{"chunk table cut", chunksName, bootA, cut},
		{"chunk table empty", chunksName, bootA, func(n string) error { return os.Truncate(n, 0) }},
		{"chunk table header", chunksName, bootA, overwrite(0)},
		{"chunk table count", chunksName, bootA, overwrite(20)},
		{"chunk table torn by power loss", chunksName, bootB, overwrite(50)},
		{"no data file", dataName, bootA, os.Remove},
		{"data file cut", dataName, bootA, cut},
		{"no presence record", presentName, bootA, os.Remove},
		{"presence record cut", presentName, bootA, cut},
		{"presence record header", presentName, bootA, overwrite(8)},
		{"no record", recordName, bootA, os.Remove},
		{"record empty", recordName, bootA, func(n string) error { return os.Truncate(n, 0) }},
		{"record cut", recordName, bootA, cut},
	} {
		t.Run(test.name, func(t *testing.T) {
			root := t.TempDir()
			store := openStore(t, root, bootA)
			l := smp.create(t, store)
			smp.put(t, l, 0)
			closeAll(t, l, store)
			if err := test.do(filepath.Join(store.layerDir(smp.digest), test.file)); err != nil {
				t.Fatal(err)
			}
			store = openStore(t, root, test.boot)
			if l, err := store.Get(smp.digest); !errors.Is(err, fs.ErrNotExist) {
				t.Fatalf("Get returned %v, %v, want fs.ErrNotExist", l, err)
			}
			l = smp.create(t, store)
			smp.check(t, l)
			smp.put(t, l, 0, 1)
			smp.check(t, l, 0, 1)
			closeAll(t, l, store)
		})
	}
}

func TestCreateRefusesNonsense(t *testing.T) {
	good := newSample("layer", 4096, 4096)
	stop := errors.New("stop")
	for _, test := range []struct {
		name string
		edit func(s *sample, info *Info)
		err  error
	}{
		{"out of order", func(s *sample, _ *Info) { s.chunks[1].DataOffset = 4095 }, nil},
		{"outside of the address space", func(s *sample, i *Info) { i.DataSize = 8191 }, nil},
		{"overflow", func(s *sample, _ *Info) { s.chunks[1].Size = 1<<63 - 4096 }, nil},
		{"empty chunk", func(s *sample, _ *Info) { s.chunks[0].Size = 0 }, nil},
		{"negative blob offset", func(s *sample, _ *Info) { s.chunks[0].BlobOffset = -1 }, nil},
		{"prefetch list too long", func(_ *sample, i *Info) { i.PrefetchChunks = 3 }, nil},
		{"builder's error", func(s *sample, _ *Info) { s.chunks = nil }, stop},
	} {
		t.Run(test.name, func(t *testing.T) {
			root := t.TempDir()
			store := openStore(t, root, bootA)
			s := sample{digest: good.digest, chunks: append([]Chunk(nil), good.chunks...)}
			info := good.info()
			test.edit(&s, &info)
			l, err := store.Create(s.digest, info, func(meta *os.File, add func(Chunk) error) error {
				return errors.Join(s.build(meta, add), test.err)
			})
			if err == nil {
				l.Close()
				t.Fatal("Create took it")
			}
			if test.err != nil && !errors.Is(err, test.err) {
				t.Errorf("Create returned %v, which does not wrap %v", err, test.err)
			}
			if left, _ := os.ReadDir(store.tempDir()); len(left) != 0 {
				t.Errorf("left behind: %v", left)
			}
			if ds, _ := store.List(); len(ds) != 0 {
				t.Errorf("half-made layers are listed: %v", ds)
			}
			closeAll(t, store)
		})
	}
	store := openStore(t, t.TempDir(), bootA)
	if _, err := store.Create("sha256:../../x", good.info(), good.build); err == nil {
		t.Error("Create took a digest that is a path")
	}
	closeAll(t, store)
}

// FuzzOpen gives the parsers of what is on disk bytes that we did not write.
func FuzzOpen(f *testing.F) {
	root := f.TempDir()
	store, err := open(root, bootA)
	if err != nil {
		f.Fatal(err)
	}
	smp := newSample("layer", 100, 5000)
	l, err := store.Create(smp.digest, smp.info(), smp.build)
	if err != nil {
		f.Fatal(err)
	}
	var seed [3][]byte
	for i, name := range []string{chunksName, presentName, recordName} {
		if seed[i], err = os.ReadFile(filepath.Join(l.dir, name)); err != nil {
			f.Fatal(err)
		}
	}
	seed[2] = seed[2][:bytes.LastIndexByte(seed[2][:len(seed[2])-1], '\n')] // without its sum
	f.Add(seed[0], seed[1], seed[2])
	f.Add(seed[0], seed[1][:60], seed[2])
	f.Add(seed[0][:32], seed[1], []byte(`{"version":1,"id":1}`))
	dir := l.dir
	if err := errors.Join(l.Close(), store.Close()); err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, table, present, record []byte) {
		record = append(append(record, '\n'), recordSum(append(record, '\n'))...)
		for name, b := range map[string][]byte{chunksName: table, presentName: present, recordName: record} {
			if err := os.WriteFile(filepath.Join(dir, name), b, 0o600); err != nil {
				t.Fatal(err)
			}
		}
		l, err := openLayer(dir, session{boot: bootA})
		if err != nil {
			return
		}
		defer func() { _ = l.free() }()
		for i := range l.NumChunks() {
			l.Chunk(i)
			l.Find(int64(i))
		}
	})
}

// TestNotDamage: a layer that cannot be opened for another reason than damage is not replaced.
func TestNotDamage(t *testing.T) {
	store := openStore(t, t.TempDir(), bootA)
	s := newSample("layer", 4096, 4096)
	l := s.create(t, store)
	s.put(t, l, 0, 1)
	closeAll(t, l)
	tmp := filepath.Join(store.tempDir(), "layer-new")
	if err := os.Mkdir(tmp, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := buildLayer(tmp, record{Version: formatVersion, Boot: bootA, Info: s.info()}, s.build); err != nil {
		t.Fatal(err)
	}
	var limit unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &limit); err != nil {
		t.Fatal(err)
	}
	none := limit
	none.Cur = 0
	if err := unix.Setrlimit(unix.RLIMIT_NOFILE, &none); err != nil {
		t.Skip(err)
	}
	_, _, err := store.enter(s.digest, tmp, &charge{budget: store.budget})
	if restored := unix.Setrlimit(unix.RLIMIT_NOFILE, &limit); restored != nil {
		t.Fatal(restored)
	}
	if !errors.Is(err, unix.EMFILE) {
		t.Errorf("without a file descriptor to be had: %v", err)
	}
	if l, err = store.Get(s.digest); err != nil {
		t.Fatal(err)
	}
	s.check(t, l, 0, 1)
	closeAll(t, l, store)
}

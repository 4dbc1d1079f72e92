package cache

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/opencontainers/go-digest"
	"golang.org/x/sys/unix"
)

// TestPowerLoss has many layers stored, sealed, removed and made again on a file system whose disk records what it is told, while that writes
// back what it likes. Then it takes power away at random moments of the past: what the store has in the next boot must be right.
//
// With SLUICE_TEST_ALL, which "make test-all" sets, it does so at some hundred moments of several runs, each on what a crash has left.
func TestPowerLoss(t *testing.T) {
	for _, kind := range []string{"ext4", "xfs"} {
		t.Run(kind, func(t *testing.T) {
			if !alone(t) {
				return
			}
			if err := unix.Mount("", "/", "", unix.MS_PRIVATE|unix.MS_REC, ""); err != nil {
				t.Fatal(err)
			}
			if err := unix.Mount("none", os.TempDir(), "tmpfs", 0, "size=3g"); err != nil {
				t.Fatal(err)
			}
			p := &powerLoss{kind: kind, rnd: rand.New(rand.NewPCG(11, 12)), work: t.TempDir()}
			p.makeLayers()
			runs, moments := 2, 2
			if os.Getenv("SLUICE_TEST_ALL") != "" {
				runs, moments = 10, 40
			}
			image := filepath.Join(p.work, "image-0")
			makeImage(t, kind, image)
			for run := range runs {
				image = p.run(t, run, image, moments)
			}
			t.Logf("%s: %d moments; layers found: %d, absent: %d, sealed and believed: %d; chunks right: %d, lost: %d; stores that were closed: %d",
				kind, p.moments, p.found, p.absent, p.believed, p.right, p.lost, p.clean)
			if p.right == 0 || p.lost == 0 || p.believed == 0 || p.clean == 0 {
				t.Error("not all that should happen did")
			}
		})
	}
}

// powerLayer is a layer of a power loss test.
type powerLayer struct {
	sample
	plain bool
	tar   digest.Digest // what is recorded as its diffID
}

// powerLoss is one such test.
type powerLoss struct {
	kind   string
	work   string
	rnd    *rand.Rand
	layers []powerLayer
	boots  int

	moments, found, absent, believed, right, lost, clean int
}

// sealing is that a layer was sealed, and when: from a place of the disk's log on it must never be lost, until it is removed.
type sealing struct {
	layer        int
	since, until int64 // 0: for ever
}

func (p *powerLoss) makeLayers() {
	for i := range 10 {
		var sizes []int
		for range 20 + p.rnd.IntN(60) {
			sizes = append(sizes, 1+p.rnd.IntN(60_000))
		}
		s := newSample(strings.Repeat("x", i+1), sizes...)
		p.layers = append(p.layers, powerLayer{sample: s, tar: digest.FromString("tar of " + s.digest.String())})
	}
	for i := range 3 { // plain ones
		data := make([]byte, 2<<20+i*2345678)
		c := rand.NewChaCha8(sha256.Sum256([]byte{byte(i)}))
		_, _ = c.Read(data)
		d := digest.FromString(fmt.Sprint("plain", i))
		p.layers = append(p.layers, powerLayer{sample: sample{digest: d, data: [][]byte{data}, size: int64(len(data))}, plain: true, tar: d})
	}
}

func (p *powerLoss) boot() string {
	p.boots++
	return fmt.Sprintf("%08d-0000-4000-8000-000000000000", p.boots)
}

// run works on an image for a while, examines what power losses would have left of that, and returns one of these.
func (p *powerLoss) run(t *testing.T, run int, image string, moments int) (next string) {
	t.Helper()
	durable := filepath.Join(p.work, fmt.Sprint("durable-", run))
	mustRun(t, "cp", "--sparse=always", image, durable)
	disk := mountRecorded(t, p.kind, image)
	sealed, closed := p.fill(t, disk)
	log, err := os.Open(disk.log)
	if err != nil {
		t.Fatal(err)
	}
	defer log.Close()
	end := disk.written(t)
	disk.stop(t)
	if err := os.Remove(image); err != nil {
		t.Fatal(err)
	}
	f, err := os.OpenFile(durable, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	r := &replay{log: log, image: f}
	var at []int64
	for range moments {
		at = append(at, p.rnd.Int64N(end))
	}
	for _, c := range closed { // just when the store counts as closed, and a little later
		at = append(at, c, min(end, c+p.rnd.Int64N(1<<20)))
	}
	slices.Sort(at)
	keep := p.rnd.IntN(len(at))
	for i, moment := range at {
		r.advance(t, moment)
		crashed := filepath.Join(p.work, fmt.Sprintf("crashed-%d-%d", run, i))
		r.crash(t, crashed, sectorOf(p.kind), p.rnd)
		if i == keep {
			next = filepath.Join(p.work, fmt.Sprint("image-", run+1))
			mustRun(t, "cp", "--sparse=always", crashed, next)
		}
		p.examine(t, crashed, moment, sealed)
		if t.Failed() {
			t.Fatalf("run %d, power lost at byte %d of %d", run, moment, end)
		}
		if err := os.Remove(crashed); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Remove(durable); err != nil {
		t.Fatal(err)
	}
	return next
}

// fill does with layers what a daemon does in a boot, in several processes. It returns what must not be lost, and when stores were closed.
func (p *powerLoss) fill(t *testing.T, disk *recordedDisk) (sealed []sealing, closed []int64) {
	t.Helper()
	boot, root := p.boot(), filepath.Join(disk.dir, "root")
	var mu sync.Mutex
	for process := range 4 {
		s := openStore(t, root, boot)
		ended := make(chan struct{})
		var kernel, wg sync.WaitGroup
		back := &writeBack{dir: filepath.Join(root, "layers"), rnd: rand.New(rand.NewPCG(uint64(p.boots), uint64(process)))}
		kernel.Go(func() { back.until(ended) })
		for i, l := range p.layers {
			rnd := rand.New(rand.NewPCG(p.rnd.Uint64(), uint64(i)))
			if rnd.IntN(3) == 0 {
				continue
			}
			wg.Go(func() {
				if rnd.IntN(5) == 0 {
					mu.Lock()
					for k := range sealed {
						if sealed[k].layer == i && sealed[k].until == 0 {
							sealed[k].until = max(disk.written(t), 1)
						}
					}
					mu.Unlock()
					if err := s.Remove(l.digest); err != nil {
						t.Error(err)
					}
				}
				if l.work(t, s, rnd) {
					mu.Lock()
					sealed = append(sealed, sealing{layer: i, since: disk.written(t)})
					mu.Unlock()
				}
			})
		}
		wg.Wait()
		close(ended)
		kernel.Wait()
		if process%2 == 0 { // else it is killed
			if err := s.Close(); err != nil {
				t.Fatal(err)
			}
			closed = append(closed, disk.written(t))
		} else {
			closeAll(t, s.lock)
		}
		for range p.rnd.IntN(20) {
			back.some()
		}
	}
	return sealed, closed
}

// writeBack is the kernel that writes back files in any order.
type writeBack struct {
	dir string
	rnd *rand.Rand
}

func (w *writeBack) until(ended <-chan struct{}) {
	for {
		select {
		case <-ended:
			return
		default:
			w.some()
		}
	}
}

// some writes back a file, more often one that says something of others than what it says it of; and now and then all of them.
func (w *writeBack) some() {
	if w.rnd.IntN(40) == 0 {
		if f, err := os.Open(w.dir); err == nil {
			_ = unix.Syncfs(int(f.Fd()))
			f.Close()
		}
		return
	}
	kind := []string{presentName, recordName, presentName, recordName, dataName, "*"}[w.rnd.IntN(6)]
	names, err := filepath.Glob(filepath.Join(w.dir, "sha256", "*", kind))
	if err == nil && len(names) > 0 {
		_ = syncFile(names[w.rnd.IntN(len(names))]) // it may be gone
	}
}

// work stores some of a layer, and reports whether it was sealed.
func (l powerLayer) work(t *testing.T, s *Store, rnd *rand.Rand) (sealed bool) {
	st, err := l.open(s)
	if err != nil {
		t.Error(err)
		return false
	}
	defer closeAll(t, st)
	if !l.plain {
		order := rnd.Perm(len(l.data))
		if rnd.IntN(2) == 0 {
			order = order[:rnd.IntN(len(order))]
		}
		for _, i := range order {
			if st.Has(i) {
				continue
			}
			if err := st.Put(i, l.data[i]); err != nil {
				t.Error(err)
			}
			if err := st.KeepPieces(AppendPiece(nil, int64(i), l.data[i][:min(100, len(l.data[i]))])); err != nil {
				t.Error(err)
			}
		}
	}
	if err := l.look(st); err != nil {
		t.Error(err)
	}
	if !st.Complete() || rnd.IntN(4) == 0 {
		return false
	}
	if !l.plain && st.Info().DiffID == "" {
		if err := st.SetDiffID(l.tar); err != nil {
			t.Error(err)
		}
	}
	if err := st.Seal(t.Context()); err != nil {
		t.Error(err)
		return false
	}
	return true
}

// open makes the store have the layer: a plain one, all of it.
func (l powerLayer) open(s *Store) (*Layer, error) {
	if !l.plain {
		return s.Create(l.digest, l.info(), l.build)
	}
	st, err := s.Get(l.digest)
	if err == nil && l.look(st) == nil && st.Complete() || err != nil && !errors.Is(err, fs.ErrNotExist) {
		return st, err
	}
	if err == nil {
		defer st.Close()
	}
	return s.Fill(l.digest, func(f *Filling) (Info, error) {
		_, err := io.WriteString(f.Meta, "metadata of "+l.digest.String())
		for off := 0; off < len(l.data[0]) && err == nil; off += 300_000 {
			_, err = f.WriteAt(l.data[0][off:min(off+300_000, len(l.data[0]))], int64(off))
		}
		return l.info(), err
	})
}

func (l powerLayer) info() Info {
	if l.plain {
		return Info{Format: "tar", DiffID: l.tar, BlobSize: 1000, DataSize: (l.size + 4095) / 4096 * 4096}
	}
	return l.sample.info()
}

// look reads all chunks that a layer has. The error is that some are wrong.
func (l powerLayer) look(st *Layer) error {
	want, got := l.info(), st.Info()
	want.ID = got.ID
	if want.DiffID == "" && got.DiffID == l.tar {
		want.DiffID = l.tar
	}
	if fmt.Sprint(got) != fmt.Sprint(want) {
		return fmt.Errorf("info is %+v, want %+v", got, want)
	}
	meta, err := os.ReadFile(st.MetadataPath())
	if err != nil || string(meta) != "metadata of "+l.digest.String() {
		return fmt.Errorf("WRONG BYTES in the metadata image: %q, %w", meta, err)
	}
	for i := range st.NumChunks() {
		c := st.Chunk(i)
		if !l.plain && c != l.chunks[i] {
			return fmt.Errorf("chunk %d is %+v, want %+v", i, c, l.chunks[i])
		}
		if !st.Sealed() && !st.Has(i) {
			continue
		}
		var want []byte
		if l.plain {
			want = make([]byte, c.Size)
			copy(want, l.data[0][c.DataOffset:])
		} else {
			want = l.data[i]
		}
		got := make([]byte, c.Size)
		if _, err := st.ReadAt(got, c.DataOffset); err != nil || !bytes.Equal(got, want) {
			return fmt.Errorf("WRONG BYTES in chunk %d, sealed %v: %w", i, st.Sealed(), err)
		}
	}
	return nil
}

// examine mounts what a disk has after a loss of power, and looks at all layers, twice: the second time after another orderly end.
func (p *powerLoss) examine(t *testing.T, image string, moment int64, sealed []sealing) {
	t.Helper()
	dir := filepath.Join(p.work, "crashed")
	if err := os.MkdirAll(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	mustRun(t, "mount", append(mountOptions(p.kind), image, dir)...)
	defer func() {
		if err := unix.Unmount(dir, 0); err != nil {
			t.Fatal(err)
		}
	}()
	p.moments++
	root := filepath.Join(dir, "root")
	for again := range 2 {
		s := openStore(t, root, p.boot())
		if s.clean && again == 0 {
			p.clean++
		}
		if left, err := os.ReadDir(s.tempDir()); err != nil || len(left) > 0 {
			t.Errorf("left behind: %v, %v", left, err)
		}
		for i, l := range p.layers {
			st, err := s.Get(l.digest)
			kept := again > 0 || slices.ContainsFunc(sealed, func(s sealing) bool {
				return s.layer == i && s.since <= moment && (s.until == 0 || moment < s.until)
			})
			switch {
			case errors.Is(err, fs.ErrNotExist):
				if kept && again == 0 {
					t.Errorf("layer %d was sealed, and is gone: %v", i, err)
				}
				p.absent++
				continue
			case err != nil:
				t.Fatal(err)
			}
			p.found++
			if st.Sealed() {
				p.believed++
			}
			if err := l.look(st); err != nil {
				t.Errorf("layer %d: %v", i, err)
			}
			n, _ := st.Present()
			p.right += n
			for i := range st.NumChunks() {
				if st.Claimed(i) {
					t.Errorf("chunk %d was looked at, and is to be hashed again", i)
				}
			}
			p.lost += st.NumChunks() - n
			if kept && again == 0 && !st.Complete() {
				t.Errorf("layer %d was sealed, and has lost %d of %d chunks", i, st.NumChunks()-n, st.NumChunks())
			}
			closeAll(t, st)
		}
		for i, l := range p.layers { // what there is can be gone on with
			if i%4 == again {
				l.work(t, s, p.rnd)
			}
		}
		closeAll(t, s)
	}
}

package integration

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	snapshotsapi "github.com/containerd/containerd/api/services/snapshots/v1"
	"github.com/containerd/containerd/v2/core/mount"
	"github.com/containerd/containerd/v2/core/snapshots"
	"github.com/containerd/containerd/v2/core/snapshots/proxy"
	"github.com/containerd/containerd/v2/pkg/namespaces"
	"github.com/containerd/containerd/v2/pkg/snapshotters"
	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/identity"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sys/unix"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	"github.com/sluice-snapshotter/sluice/integration/images"
	"github.com/sluice-snapshotter/sluice/integration/link"
	"github.com/sluice-snapshotter/sluice/integration/stack"
)

// keptAfter is how old what was stored has to be for a kill not to take it, and keptShare how much of that must be there.
const (
	keptAfter = 5 * time.Second
	keptShare = 0.95
)

// TestKilledWhileFilling kills the daemon again and again while it fills a lazy layer and takes a plain one, and reads everything after each time
// from a daemon whose registry has nothing but zeros: what is not on disk is an error, no byte is wrong, and what was on disk for a while
// is still there. With SLUICE_TEST_ALL it kills some hundred times.
func TestKilledWhileFilling(t *testing.T) {
	rounds := 7
	if os.Getenv("SLUICE_TEST_ALL") != "" {
		rounds = 150
	}
	c := newCrashes(t, `mount = "auto"
[registry]
config_path = "$NODE/certs.d"
max_attempts = 1
`)
	lazy, plain := c.subject("lazy", lazyImage(t, few), plainImage(t, few)), c.subject("plain", plainImage(t, others), plainImage(t, others))
	rnd := rand.New(rand.NewPCG(3, 4))
	for round := range rounds {
		if round%10 == 0 && round > 0 {
			c.remove(t, lazy, plain)
		}
		bandwidth := int64(3e6)
		if round%10 == 4 { // time for the plain layer to come
			bandwidth = 40e6
		}
		c.reg.Link.Shape(0, bandwidth)
		c.fill(t, 100*time.Millisecond+time.Duration(rnd.Int64N(int64(2400*time.Millisecond))), lazy, plain)
		due := c.storedBefore(time.Now().Add(-keptAfter))
		c.n.KillDaemon()
		c.kills++

		left := c.temporary(t)
		c.reg.Link.Shape(0, 0)
		zeros := c.reg.Link.Inject(link.Rule{Kind: link.Blob}, link.Zeros{})
		c.restart(t)
		c.gone(t, left)
		right, wrong := c.read(t, lazy, plain)
		c.judge(t, due, right)
		if wrong > 0 {
			t.Fatalf("round %d: %d reads had wrong bytes", round, wrong)
		}
		time.Sleep(time.Duration(rnd.Int64N(int64(100 * time.Millisecond)))) // what fetches in the background is in the middle of something
		c.n.KillDaemon()
		c.kills++
		zeros.Remove()
		c.restart(t)
	}
	t.Logf("%d kills; read right with only zeros in the registry: %d MB; of what was stored %s before: %.2f %% of %d MB; plain layers taken %d times, broken off %d times; daemon ready after %s at most",
		c.kills, c.right>>20, keptAfter, 100*float64(c.kept)/float64(max(c.due, 1)), c.due>>20, c.taken, c.broken, c.slowest.Round(time.Millisecond))
	if c.due == 0 {
		t.Error("nothing was stored long enough")
	}
}

var (
	few    = newSubject(func(ctx context.Context) (*images.Image, error) { return images.Few(ctx, 0) }, "few", "/probe")
	others = newSubject(func(ctx context.Context) (*images.Image, error) { return images.Few(ctx, 1) }, "others", "/probe")
)

// crashes is a node whose daemon is spoken to without containerd, which takes a second to find it again.
type crashes struct {
	n   *stack.Node
	reg *stack.Registry
	ctx context.Context

	history []storedAt
	opened  map[string]bool // layers that were read last, by hex digest

	kills, taken, broken int
	due, kept, right     int64
	slowest              time.Duration
}

// crashImage is an image in the registry, and what its files must be.
type crashImage struct {
	ref   string
	image *images.Image
	chain []digest.Digest
	files map[string][]byte
}

// storedAt says which chunks layers had.
type storedAt struct {
	when   time.Time
	layers map[string][]byte // bitmaps by folder
}

func newCrashes(t *testing.T, toml string) *crashes {
	t.Helper()
	c := &crashes{reg: registry(t), ctx: namespaces.WithNamespace(t.Context(), "default")}
	c.n = nodeWith(t, stack.NodeOptions{Daemon: &stack.DaemonOptions{TOML: toml}})
	c.n.KillContainerd()
	return c
}

// subject uploads an image, whose files are those of an ordinary one.
func (c *crashes) subject(name string, im, ordinary *images.Image) *crashImage {
	ref, err := c.reg.Push(c.ctx, im, "test/"+name+":latest")
	if err != nil {
		panic(err)
	}
	return &crashImage{ref: ref, image: im, files: filesOf(ordinary), chain: chainOf(im)}
}

func chainOf(im *images.Image) []digest.Digest {
	var config ocispec.Image
	text, err := os.ReadFile(blobPath(im.Dir, im.Manifest.Config.Digest))
	if err == nil {
		err = json.Unmarshal(text, &config)
	}
	if err != nil {
		panic(err)
	}
	return identity.ChainIDs(config.RootFS.DiffIDs)
}

// filesOf reads the regular files of an image of gzip layers.
func filesOf(im *images.Image) map[string][]byte {
	files := make(map[string][]byte)
	for _, l := range im.Manifest.Layers {
		blob, err := os.ReadFile(blobPath(im.Dir, l.Digest))
		if err != nil {
			panic(err)
		}
		z, err := gzip.NewReader(bytes.NewReader(blob))
		if err != nil {
			panic(err)
		}
		for tr := tar.NewReader(z); ; {
			h, err := tr.Next()
			if errors.Is(err, io.EOF) {
				break
			}
			if err == nil && h.Typeflag == tar.TypeReg {
				files[h.Name], err = io.ReadAll(tr)
			}
			if err != nil {
				panic(err)
			}
		}
	}
	return files
}

// snapshotter speaks to the daemon.
func (c *crashes) snapshotter(t *testing.T) (snapshots.Snapshotter, func()) {
	t.Helper()
	conn, err := grpc.NewClient("unix://"+filepath.Join(c.n.Dir(), "sluice.sock"), grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	return proxy.NewSnapshotter(snapshotsapi.NewSnapshotsClient(conn), "sluice"), func() { conn.Close() }
}

// pull prepares an image's layers as containerd does.
func (c *crashes) pull(ctx context.Context, sn snapshots.Snapshotter, im *crashImage) error {
	parent := ""
	for i, l := range im.image.Manifest.Layers {
		chain := im.chain[i].String()
		_, err := sn.Prepare(ctx, fmt.Sprintf("extract-%d %s", time.Now().UnixNano(), chain), parent, snapshots.WithLabels(map[string]string{
			snapshotters.TargetRefLabel:            im.ref,
			snapshotters.TargetLayerDigestLabel:    l.Digest.String(),
			snapshotters.TargetManifestDigestLabel: im.image.Target.Digest.String(),
			snapshots.LabelSnapshotRef:             chain,
		}))
		if !errdefs.IsAlreadyExists(err) {
			return fmt.Errorf("layer %d is not taken: %w", i, err)
		}
		parent = chain
	}
	return nil
}

// fill has the daemon fetch images for a while, and notes what it stores.
func (c *crashes) fill(t *testing.T, during time.Duration, all ...*crashImage) {
	t.Helper()
	sn, closed := c.snapshotter(t)
	defer closed()
	ctx, cancel := context.WithTimeout(c.ctx, during)
	defer cancel()
	var pulls sync.WaitGroup
	var taken, broken atomic.Int32
	for _, im := range all {
		pulls.Go(func() {
			if c.pull(ctx, sn, im) == nil {
				taken.Add(1)
			} else {
				broken.Add(1)
			}
		})
	}
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	for ctx.Err() == nil {
		c.note(t)
		select {
		case <-ctx.Done():
		case <-tick.C:
		}
	}
	// Whoever waits for a plain layer gives up; the daemon goes on with it until it is killed.
	pulls.Wait()
	c.taken, c.broken = c.taken+int(taken.Load()), c.broken+int(broken.Load())
}

// note remembers which chunks are stored at this moment, as docs/store-format.md tells how.
func (c *crashes) note(t *testing.T) {
	t.Helper()
	s := storedAt{when: time.Now(), layers: make(map[string][]byte)}
	for _, dir := range c.layers(t) {
		if bits := marks(dir); bits != nil {
			s.layers[dir] = bits
		}
	}
	c.history = append(c.history, s)
}

func (c *crashes) layers(t *testing.T) []string {
	t.Helper()
	dirs, err := filepath.Glob(filepath.Join(c.n.DaemonRoot(), "layers", "sha256", "*"))
	if err != nil {
		t.Fatal(err)
	}
	return dirs
}

// proven is how many lazy layers have turned out to be what their image claims, by the daemon's records.
func (c *crashes) proven(t *testing.T) (n int) {
	t.Helper()
	for _, dir := range c.layers(t) {
		rec, err := os.ReadFile(filepath.Join(dir, "layer.json"))
		if err != nil {
			continue // it is being made, or removed
		}
		var r struct {
			TOCDigest, DiffID digest.Digest
		}
		if err := json.NewDecoder(bytes.NewReader(rec)).Decode(&r); err != nil { // a checksum follows
			t.Fatal(err)
		}
		if r.TOCDigest != "" && r.DiffID != "" {
			n++
		}
	}
	return n
}

// marks are a layer's chunks that are present, or claimed to be, as a bitmap.
func marks(dir string) []byte {
	p, err := os.ReadFile(filepath.Join(dir, "present"))
	if err != nil || len(p) < 64 {
		return nil // removed meanwhile
	}
	half := (len(p) - 64) / 2
	bits := slices.Clone(p[64 : 64+half])
	for i := range bits {
		bits[i] |= p[64+half+i]
	}
	return bits
}

// chunkSizes are those of a layer's chunks.
func chunkSizes(dir string) (sizes []int64) {
	p, err := os.ReadFile(filepath.Join(dir, "chunks"))
	if err != nil {
		return nil
	}
	for p = p[32:]; len(p) > 0; p = p[72:] {
		sizes = append(sizes, int64(binary.LittleEndian.Uint64(p[8:])))
	}
	return sizes
}

// storedBefore is what was stored at a time.
func (c *crashes) storedBefore(when time.Time) map[string][]byte {
	for _, s := range slices.Backward(c.history) {
		if s.when.Before(when) {
			return s.layers
		}
	}
	return nil
}

// judge compares what was stored some time before the kill with what is there now that all was read. Of the layers that were read that is
// no more than could be read; others have no snapshot yet.
func (c *crashes) judge(t *testing.T, due map[string][]byte, right int64) {
	t.Helper()
	var wanted, kept, have int64
	for _, dir := range c.layers(t) {
		now, before := marks(dir), due[dir]
		for i, size := range chunkSizes(dir) {
			is := now[i/8]&(1<<(i%8)) != 0
			if is && c.opened[filepath.Base(dir)] {
				have += size
			}
			if len(before) > i/8 && before[i/8]&(1<<(i%8)) != 0 {
				wanted += size
				if is {
					kept += size
				}
			}
		}
	}
	c.due, c.kept, c.right = c.due+wanted, c.kept+kept, c.right+right
	if float64(kept) < keptShare*float64(wanted) {
		t.Errorf("of %d bytes that were stored %s before the kill, %d are there", wanted, keptAfter, kept)
	}
	if float64(right) < keptShare*float64(have) {
		t.Errorf("the store has %d bytes, only %d could be read", have, right)
	}
}

// temporary are the half-made layers.
func (c *crashes) temporary(t *testing.T) []string {
	t.Helper()
	left, err := filepath.Glob(filepath.Join(c.n.DaemonRoot(), "layers", "tmp", "*"))
	if err != nil {
		t.Fatal(err)
	}
	return left
}

func (c *crashes) gone(t *testing.T, left []string) {
	t.Helper()
	for _, name := range left {
		if _, err := os.Lstat(name); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("%s, of the process that was killed, is still there: %v", name, err)
		}
	}
}

func (c *crashes) restart(t *testing.T) {
	t.Helper()
	began := time.Now()
	if err := c.n.RestartDaemon(t.Context()); err != nil {
		t.Fatal(err)
	}
	c.slowest = max(c.slowest, time.Since(began))
}

// remove has the images go, as containerd's garbage collection does.
func (c *crashes) remove(t *testing.T, all ...*crashImage) {
	t.Helper()
	sn, closed := c.snapshotter(t)
	defer closed()
	for _, im := range all {
		for _, chain := range slices.Backward(im.chain) {
			if err := sn.Remove(c.ctx, chain.String()); err != nil && !errdefs.IsNotFound(err) && !errdefs.IsFailedPrecondition(err) {
				t.Fatal(err)
			}
		}
	}
	if err := sn.(snapshots.Cleaner).Cleanup(c.ctx); err != nil {
		t.Fatal(err)
	}
	c.history = nil
}

// read reads all files of the images that were pulled, and compares them.
func (c *crashes) read(t *testing.T, all ...*crashImage) (right int64, wrong int) {
	t.Helper()
	sn, closed := c.snapshotter(t)
	defer closed()
	c.opened = make(map[string]bool)
	for _, im := range all {
		top := len(im.chain) - 1
		for top >= 0 {
			if _, err := sn.Stat(c.ctx, im.chain[top].String()); err == nil {
				break
			}
			top--
		}
		if top < 0 {
			continue
		}
		r, w := c.readImage(t, sn, im, top)
		right, wrong = right+r, wrong+w
	}
	return right, wrong
}

func (c *crashes) readImage(t *testing.T, sn snapshots.Snapshotter, im *crashImage, top int) (right int64, wrong int) {
	t.Helper()
	key := fmt.Sprint("view-", time.Now().UnixNano())
	mounts, err := sn.View(c.ctx, key, im.chain[top].String())
	if errdefs.IsUnavailable(err) { // it is not there, and cannot be fetched
		return 0, 0
	}
	if err != nil {
		t.Fatal(err)
	}
	for _, l := range im.image.Manifest.Layers[:top+1] {
		c.opened[l.Digest.Encoded()] = true
	}
	dir := t.TempDir()
	if err := mount.All(mounts, dir); err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := errors.Join(unix.Unmount(dir, unix.MNT_DETACH), sn.Remove(c.ctx, key)); err != nil {
			t.Error(err)
		}
	}()
	var sum atomic.Int64
	var bad atomic.Int32
	next := make(chan string, len(im.files))
	for name := range im.files {
		next <- name
	}
	close(next)
	var readers sync.WaitGroup
	for range 32 {
		readers.Go(func() {
			for name := range next {
				n, err := readFile(filepath.Join(dir, name), im.files[name])
				sum.Add(n)
				if err != nil {
					bad.Add(1)
					t.Errorf("%s of %s: %v", name, im.ref, err)
				}
			}
		})
	}
	readers.Wait()
	return sum.Load(), int(bad.Load())
}

// readFile returns how many bytes of a file can be read. The error is that some are wrong.
func readFile(path string, want []byte) (right int64, err error) {
	f, err := os.Open(path)
	if err != nil {
		return 0, nil // it is in a layer above
	}
	defer f.Close()
	buf := make([]byte, 64<<10)
	for off := 0; off < len(want); off += len(buf) {
		piece := want[off:min(off+len(buf), len(want))]
		n, err := f.ReadAt(buf[:len(piece)], int64(off))
		if !bytes.Equal(buf[:n], piece[:n]) {
			return right, fmt.Errorf("WRONG BYTES at %d", off)
		}
		switch {
		case err == nil || errors.Is(err, io.EOF) && n == len(piece):
			right += int64(n)
		case errors.Is(err, io.EOF):
			return right, fmt.Errorf("it ends after %d bytes, not %d", off+n, len(want))
		default: // the rest is not there either, for the most part: errors take their time
			return right, nil
		}
	}
	return right, nil
}

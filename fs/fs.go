// Package fs shows lazily pulled layers to the kernel.
//
// Words:
//
//   - blob server: one FUSE connection, mounted at StateDir/fuse. Its root directory holds, for each layer,
//     <ID>.blob, the layer's address space as one file, and <ID>, its tree. ID is the layer's number in the store.
//   - lazy mount: the kernel's own EROFS on a layer's metadata image, with <ID>.blob as the device that holds the
//     contents of files, at MountDir/<process>/<ID>. Only reads of contents that the kernel has not cached reach this process.
//   - native mount: the same on the layer's data file, once that is complete, at MountDir/<process>/<ID>n. Nothing reaches
//     this process. Where the kernel cannot mount EROFS on files, loop devices stand between, for lazy mounts too.
//   - FUSE tree: StateDir/fuse/<ID>, where EROFS cannot be mounted at all. Everything is served from the metadata
//     image, and the kernel may cache all of it for ever. The same is at StateDir/bare without xattrs, on a connection of its own, and Path
//     tells that one where it makes no difference.
//   - way: one of these folders for a layer. Path gives the best one of the moment.
//   - mounted: a layer that Path has an answer for.
//   - proof: a lazy layer is mounted on the word of its TOC. Once it is complete its diffID is computed, and compared with what images claim
//     that it is. Before that it gets no native mount, for only what goes through this process can be stopped. For images that are not
//     trusted it comes before the first mount.
//   - plain layer: one without a TOC. It is in the store as a whole before it is mounted (package fs/plain), and its diffID was
//     checked: it is only given to who can say which one it has to have.
//
// # Deadlocks
//
// This process must not execute a program from a mount: it is stopped until the kernel has read the program, which it
// asks of this process. (A garbage collection meanwhile is enough; and killed, the process leaves a child that waits for
// ever, holding the connection open itself.) It must not open files there with package os before the kernel knows that
// they cannot be polled, for the like reason; New sees to that. System calls are fine, among them mount(2), whose EROFS
// opens <ID>.blob: the scheduler sees them block and goes on, at GOMAXPROCS=1 too. Nothing here calls into the file
// system while it holds a lock that a request needs.
//
// # Concurrency
//
// All methods may be called concurrently. Mounts of one layer coalesce, and go on when the caller that began them goes
// away; Unmount of a layer waits for its mount. Goroutines that outlive a call belong to the FS, and end in Close.
package fs

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/opencontainers/go-digest"
	"golang.org/x/sync/singleflight"

	"github.com/sluice-snapshotter/sluice/cache"
	"github.com/sluice-snapshotter/sluice/fs/layer"
	"github.com/sluice-snapshotter/sluice/fs/remote"
)

const (
	defaultPrefetchTimeout = 10 * time.Second // stargz-snapshotter's prefetch_timeout_sec
	defaultReadAheadKiB    = 2048             // measured: 0.69 GB/s with the kernel's 128, 1.3 with 2048
	// Where the contents are wanted too, a layer that comes whole with its TOC saves a round trip, which at 25 MB/s and 50 ms is worth
	// 1.25 MB. For many layers it would keep all of them from being mounted.
	defaultSmallLayers = 2 << 20
)

// ErrNotLazy says that a layer is not for this package: it has no digest of a TOC, so that it cannot be mounted before it was pulled,
// and it is no plain layer either whose diffID could be checked.
var ErrNotLazy = errors.New("layer has no TOC digest, and is no plain layer that can be checked")

// Mode is how layers are mounted.
type Mode string

// The modes. Auto is EROFS where the kernel has it, else FUSE; EROFS is mounted on files where the kernel does that, else
// by loop devices; Loop is by loop devices everywhere.
const (
	Auto  Mode = "auto"
	EROFS Mode = "erofs"
	Loop  Mode = "loop"
	FUSE  Mode = "fuse"
)

// Options are the parts and settings of an FS.
type Options struct {
	// StateDir holds the mount points of the blob server. It may be on a tmpfs. Required, absolute. Symlinks on the way to it and to
	// MountDir are followed once, by New.
	StateDir string
	// MountDir holds a folder for each process, with the mount points of its EROFS mounts, and nothing else but mounts that New may take
	// away. "" means StateDir/mounts.
	MountDir string
	// ProbeDir is a folder on the store's file system, in which New tries whether EROFS can be mounted from it: it
	// cannot from a tmpfs, for one. "" means MountDir.
	ProbeDir string

	Store     *cache.Store     // required; the caller closes it, after the FS
	Registry  *remote.Registry // required
	Scheduler *layer.Scheduler // nil means one of its own, with default limits

	Mode            Mode                  // "" means Auto
	NoNative        bool                  // leave complete layers on the blob server
	NoPlain         bool                  // do not take plain layers
	SmallLayers     int64                 // bytes of an image's smallest lazy layers together, of 1 MiB at most each, that come whole with their TOCs; 0 means 2 MiB, less than 0 none
	Background      bool                  // fetch all of a layer once it is mounted, not only what is read
	BackgroundOf    func(ref string) bool // Background for an image, by which its layers go that it is the first to mount; nil means all alike
	ProveOf         func(ref string) bool // prove what has come of an image by TOCs, once it is complete; nil means never
	Untrusted       func(ref string) bool // fetch layers of an image as a whole and prove them before they are mounted; nil means never
	Proved          func(right bool)      // told what became of a proof; may be nil
	PrefetchTimeout time.Duration         // how long Wait waits at most; 0 means 10 s
	ReadAheadKiB    int                   // KiB that the kernel reads ahead in mounts of what is there; 0 means 2048
	Observer        layer.Observer
	Evicted         func(bytes int64)   // told what was taken from the disk for want of room; may be nil
	Resolved        func(time.Duration) // told how long the registry took for a layer's manifest and TOC; may be nil
}

func (o Options) withDefaults() (Options, error) {
	if o.MountDir == "" {
		o.MountDir = filepath.Join(o.StateDir, "mounts")
	}
	if o.ProbeDir == "" {
		o.ProbeDir = o.MountDir
	}
	if o.Mode == "" {
		o.Mode = Auto
	}
	if o.PrefetchTimeout == 0 {
		o.PrefetchTimeout = defaultPrefetchTimeout
	}
	if o.SmallLayers == 0 {
		o.SmallLayers = defaultSmallLayers
	}
	if o.ReadAheadKiB == 0 {
		o.ReadAheadKiB = defaultReadAheadKiB
	}
	if o.BackgroundOf == nil {
		o.BackgroundOf = func(string) bool { return o.Background }
	}
	if o.ProveOf == nil {
		o.ProveOf = func(string) bool { return false }
	}
	if o.Evicted == nil {
		o.Evicted = func(int64) {}
	}
	if o.Untrusted == nil {
		o.Untrusted = func(string) bool { return false }
	}
	if o.Proved == nil {
		o.Proved = func(bool) {}
	}
	if o.Scheduler == nil {
		o.Scheduler = layer.NewScheduler(layer.SchedulerOptions{})
	}
	switch o.Mode {
	case Auto, EROFS, Loop, FUSE:
	default:
		return o, fmt.Errorf("mode %q: not one of auto, erofs, loop, fuse", o.Mode)
	}
	for _, dir := range []string{o.StateDir, o.MountDir} {
		if err := checkMountable(dir); err != nil {
			return o, err
		}
	}
	return o, nil
}

// checkMountable checks that a folder can be part of mount options, which have no way to write some characters.
func checkMountable(dir string) error {
	if !filepath.IsAbs(dir) || strings.ContainsAny(dir, ",:\\") {
		return fmt.Errorf("folder %q: must be absolute, without comma, colon and backslash", dir)
	}
	return nil
}

// makeFolders makes the two folders of mounts, and names them from then on as the kernel does in its list of mounts: without symlinks.
func (o *Options) makeFolders() error {
	for _, dir := range []*string{&o.StateDir, &o.MountDir} {
		if err := os.MkdirAll(*dir, 0o700); err != nil {
			return err
		}
		path, err := filepath.EvalSymlinks(*dir)
		if err != nil {
			return err
		}
		if err := checkMountable(path); err != nil {
			return fmt.Errorf("%s leads elsewhere: %w", *dir, err)
		}
		*dir = path
	}
	return nil
}

// FS mounts layers.
type FS struct {
	opts      Options       // of which MountDir is the folder of this process
	erofs     *erofsMounter // nil: layers are shown as FUSE trees
	retry     time.Duration // nativeRetry, but in tests
	settling  time.Duration // settleTime, but in tests
	patience  time.Duration // bringTimeout, but in tests
	started   time.Time
	grace     time.Duration   // evictGrace, but in tests
	relief    chan struct{}   // held while room is made
	relieved  time.Time       // when a full disk was, guarded by relief
	vain      vain            // guarded by relief
	drops     atomic.Uint64   // how often somebody has let go of layers
	pinned    atomic.Bool     // see Pinned
	relieving context.Context //nolint:containedctx // ends when the FS begins to close
	noRelief  context.CancelFunc
	relievers sync.WaitGroup
	server    *server
	tasks     tasks
	manifests manifests
	external  manifests          // of images of TOCs, by the manifests of the images that they are for
	opening   singleflight.Group // by layer digest: what brings a layer into the store
	proving   singleflight.Group // by layer digest: proofs that somebody waits for
	ahead     ahead
	images    underWay // whose layers are brought ahead of their turn
	takings   takings
	refused   refusals
	rights    rights
	programs  atomic.Int32 // that are seen to
	commands  atomic.Int32 // of images

	closing  sync.Once
	closeErr error

	leaving sync.WaitGroup // calls of Unmount that are taking a layer down

	mu     sync.Mutex
	closed bool
	slots  map[digest.Digest]*slot
}

// New clears what a dead process has left in the two folders, and mounts the blob server. It does not touch the
// network. ctx is only for the call; Close ends what New has begun.
func New(ctx context.Context, o Options) (*FS, error) {
	o, err := o.withDefaults()
	if err != nil {
		return nil, fmt.Errorf("serve layers: %w", err)
	}
	if err := o.makeFolders(); err != nil {
		return nil, fmt.Errorf("serve layers: %w", err)
	}
	if err := clearLeftovers(o.MountDir, served(o.StateDir)...); err != nil {
		return nil, fmt.Errorf("serve layers: clear what an earlier process left: %w", err)
	}
	if o.MountDir, err = makeOwn(o.MountDir); err != nil {
		return nil, fmt.Errorf("serve layers: %w", err)
	}
	f, err := newFS(ctx, o)
	if err != nil {
		return nil, errors.Join(fmt.Errorf("serve layers: %w", err), clearOwn(o.MountDir))
	}
	return f, nil
}

func newFS(ctx context.Context, o Options) (*FS, error) {
	erofs, err := chooseMount(ctx, o)
	if err != nil {
		return nil, err
	}
	srv, err := serve(ctx, o.StateDir, o.ReadAheadKiB, erofs == nil)
	if err != nil {
		return nil, err
	}
	f := &FS{
		opts:     o,
		erofs:    erofs,
		retry:    nativeRetry,
		settling: settleTime,
		patience: bringTimeout,
		started:  time.Now(),
		grace:    evictGrace,
		relief:   make(chan struct{}, 1),
		server:   srv,
		slots:    make(map[digest.Digest]*slot),
	}
	srv.begins = f.begins
	f.relieving, f.noRelief = context.WithCancel(context.WithoutCancel(ctx))
	return f, nil
}

// Relieve has room made in the store from now on, whenever it asks for that. It is called once, when it is known which layers containers have
// from before: others may be removed.
func (f *FS) Relieve() {
	f.relievers.Go(func() { f.relieve(f.relieving) })
}

// Lost is closed when somebody else has cut off the blob server, as umount -f does, or unmounted it while it was in use, as umount -l
// does, which is noticed when the next layer is mounted or the path of a tree asked for. No layer that is not complete can be mounted from
// then on, and after umount -f none be read: only a new process can help.
func (f *FS) Lost() <-chan struct{} { return f.server.lost }

// Close stops fetching and serving, and unmounts everything. What still reads from lazy mounts gets EIO, from native ones
// nothing changes. The store keeps its layers.
func (f *FS) Close() error {
	f.closing.Do(func() { f.closeErr = f.close() })
	return f.closeErr
}

func (f *FS) close() error {
	f.noRelief()
	f.relievers.Wait()
	f.tasks.close()
	var errs []error
	if err := withdraw(f.opts.MountDir); err != nil {
		errs = append(errs, err)
	}
	for _, s := range f.takeAll() {
		errs = append(errs, f.dismantle(s.mounted))
		f.vacate(s)
	}
	f.leaving.Wait()
	errs = append(errs, f.server.close(), clearOwn(f.opts.MountDir))
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("close mounts: %w", err)
	}
	return nil
}

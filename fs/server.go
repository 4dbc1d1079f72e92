package fs

import (
	"context"
	"errors"
	"fmt"
	"io"
	stdlog "log"
	"os"
	"path/filepath"
	"runtime/debug"
	"sync"
	"sync/atomic"

	"github.com/containerd/log"
	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"
)

const (
	// maxRequest is bytes of one READ. The kernel splits larger ones, and caps it at fs.fuse.max_pages_limit.
	maxRequest = 1 << 20

	// maxBackground is how many asynchronous READs the kernel lets through at once, for all layers together. A READ that
	// waits for a registry counts, and those of other layers, complete ones too, queue behind it, so there is room for more than will
	// wait: 8 GiB of reads ahead. It is below the 10,000 threads that a Go program may have: where the disk hangs, each READ has one.
	maxBackground = 8192
)

// server is the blob server: it answers the kernel's requests for all layers, from what show has been given.
type server struct {
	fuse.RawFileSystem
	dir     string // mount point
	dev     uint64 // of what is mounted there
	trees   bool   // programs read the trees, not EROFS the blobs
	conn    *fuse.Server
	logger  io.Closer
	closing chan struct{} // closed by close: requests that wait are to end
	ended   chan struct{} // closed when no request is answered any more
	lost    chan struct{} // closed by lose
	lose    func()        // called when somebody else has taken the mount away

	userxattr bool // overlays on top have the option

	waiting atomic.Int64  // READs that wait for a registry, or whose answers are not sent yet
	filling chan struct{} // places of READs that have waited without a buffer

	mu     sync.RWMutex
	layers map[uint32]*shown // by layer ID
}

// serve mounts a server with no layers at dir, and answers requests until close. With trees, it is the layers' trees that
// programs read, else EROFS their blobs.
func serve(ctx context.Context, dir string, readAheadKiB int, trees bool) (*server, error) {
	fd, err := openDevice("/dev/fuse")
	if err != nil {
		return nil, err
	}
	if err := mountFUSE(fd, dir); err != nil {
		return nil, errors.Join(err, unix.Close(fd))
	}
	s := &server{
		RawFileSystem: fuse.NewDefaultRawFileSystem(),
		dir:           dir,
		trees:         trees,
		closing:       make(chan struct{}),
		ended:         make(chan struct{}),
		lost:          make(chan struct{}),
		userxattr:     needsUserXattr(),
		filling:       make(chan struct{}, maxFilling),
		layers:        make(map[uint32]*shown),
	}
	s.lose = sync.OnceFunc(func() {
		log.G(ctx).Errorf("FUSE at %s was unmounted or cut off by somebody else; layers cannot be read or mounted any more", dir)
		close(s.lost)
	})
	w := log.G(ctx).WriterLevel(log.DebugLevel)
	s.logger = w
	// go-fuse is given the descriptor, which from here on it owns.
	s.conn, err = fuse.NewServer(s, fmt.Sprintf("/dev/fd/%d", fd), s.mountOptions(ctx, w))
	if err != nil {
		return nil, errors.Join(fmt.Errorf("serve %s: %w", dir, err), unix.Unmount(dir, unix.MNT_DETACH), w.Close())
	}
	go func() {
		defer close(s.ended)
		s.conn.Serve()
		select {
		case <-s.closing:
		default:
			s.lose()
		}
	}()
	s.refusePoll()
	s.readAhead(ctx, readAheadKiB)
	return s, nil
}

// mountOptions is what the kernel is asked for.
func (s *server) mountOptions(ctx context.Context, w io.Writer) *fuse.MountOptions {
	o := &fuse.MountOptions{
		MaxWrite:             maxRequest, // go-fuse sizes READs by it too
		MaxReadAhead:         maxRequest,
		MaxBackground:        maxBackground,
		EnableSymlinkCaching: true,
		IDMappedMount:        true, // for containers in user namespaces; the kernel tells no owner with its requests then
		// A layer never changes, so the kernel need not look whether it did.
		ExplicitDataCacheControl: true,
		// With passthrough a FUSE file counts as stacked, and EROFS on it under overlayfs is one level too many.
		DisabledCapabilities: fuse.CAP_PASSTHROUGH,
		Logger:               stdlog.New(w, "fuse: ", 0),
		PanicHandler: func(v any) fuse.Status {
			log.G(ctx).Errorf("panic while serving a file: %v\n%s", v, debug.Stack())
			return fuse.EIO
		},
	}
	if s.trees {
		o.EnableAcl = true // else only the bits of modes count; EROFS has it of itself
		// Attributes with the names only where somebody looks at them. Without CAP_ASYNC_DIO, which would have direct reads
		// wait where no signal ends them.
		o.ExtraCapabilities = fuse.CAP_READDIRPLUS_AUTO
	} else {
		o.ExtraCapabilities = fuse.CAP_ASYNC_DIO // reads ahead of EROFS overlap only with it
	}
	return o
}

// openDevice opens the device at path, on which a FUSE file system is served.
func openDevice(path string) (int, error) {
	fd, err := unix.Open(path, unix.O_RDWR|unix.O_CLOEXEC, 0)
	switch {
	case errors.Is(err, unix.ENOENT), errors.Is(err, unix.ENODEV), errors.Is(err, unix.ENXIO):
		return -1, fmt.Errorf("open %s: %w: this kernel has no FUSE: load it with `modprobe fuse`, or give this container the device", path, err)
	case errors.Is(err, unix.EPERM), errors.Is(err, unix.EACCES):
		return -1, fmt.Errorf("open %s: %w: run as root, and allow this container the device (char 10:229)", path, err)
	case err != nil:
		return -1, fmt.Errorf("open %s: %w", path, err)
	}
	return fd, nil
}

// mountFUSE mounts at dir the file system that will be served on fd. It does not use go-fuse's ways to mount, as they end
// at fusermount.
func mountFUSE(fd int, dir string) error {
	// Without default_permissions the kernel would not look at modes at all. Not nosuid and nodev: an image mounted
	// from here by a bind has what it has, and the folder is for root only.
	opts := fmt.Sprintf("fd=%d,rootmode=40000,user_id=%d,group_id=%d,max_read=%d,allow_other,default_permissions",
		fd, os.Geteuid(), os.Getegid(), maxRequest)
	if err := unix.Mount("sluice", dir, "fuse.sluice", unix.MS_RDONLY|unix.MS_NOATIME, opts); err != nil {
		return fmt.Errorf("mount FUSE at %s: %w", dir, err)
	}
	return nil
}

// refusePoll makes the kernel ask once whether our files can be polled, and never again. See the package comment on
// deadlocks: it is package os in this process, and in other Go programs, that would ask. go-fuse knows the name.
func (s *server) refusePoll() {
	fd, err := unix.Open(filepath.Join(s.dir, ".go-fuse-epoll-hack"), unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return // served all the same
	}
	defer unix.Close(fd)
	_, _ = unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, 0)
}

// readAhead remembers which device was mounted, and raises what the kernel reads ahead in FUSE trees.
func (s *server) readAhead(ctx context.Context, kib int) {
	var st unix.Stat_t
	err := unix.Stat(s.dir, &st)
	if err == nil {
		s.dev = st.Dev
		err = setReadAhead(numberedBDI(st.Dev), kib)
	}
	if err != nil {
		log.G(ctx).WithError(err).Debug("raise readahead of the FUSE mount")
	}
}

// standing reports whether the mount is where it was. After umount -l it goes on for whoever uses it, so that go-fuse notices nothing.
func (s *server) standing() bool {
	var st unix.Stat_t
	if err := unix.Lstat(s.dir, &st); err != nil {
		return !errors.Is(err, unix.ENOENT) && !errors.Is(err, unix.ENOTCONN)
	}
	return st.Dev == s.dev
}

// check reports whether the mount is where it was, and that it is lost if not.
func (s *server) check() bool {
	if s.standing() {
		return true
	}
	select {
	case <-s.closing:
	default:
		s.lose()
	}
	return false
}

// close unmounts, once, and waits until nothing is served any more. Whatever still waits for an answer, or asks later, gets an
// error.
func (s *server) close() error {
	close(s.closing)
	// With MNT_FORCE the connection is cut, so that this ends even if files are open.
	err := unix.Unmount(s.dir, unix.MNT_FORCE|unix.MNT_DETACH)
	select {
	case <-s.ended: // somebody else was faster
		return s.logger.Close()
	default:
	}
	if errors.Is(err, unix.EINVAL) && !s.standing() { // unmounted by somebody else: it ends when its last user does, or this process
		return s.logger.Close()
	}
	if err != nil {
		return errors.Join(&os.PathError{Op: "unmount", Path: s.dir, Err: err}, s.logger.Close())
	}
	<-s.ended
	return s.logger.Close()
}

// show serves l as <ID>.blob and <ID>.
func (s *server) show(l *shown) {
	s.mu.Lock()
	s.layers[l.id] = l
	s.mu.Unlock()
	s.relist()
}

// hide takes the layer away. Requests under way go on.
func (s *server) hide(id uint32) {
	s.mu.Lock()
	delete(s.layers, id)
	s.mu.Unlock()
	s.relist()
}

// relist has the kernel forget the list of the root directory, which for trees it keeps.
func (s *server) relist() {
	if s.trees {
		s.conn.InodeNotify(rootNode, 0, 0) // fails where it has none
	}
}

// enter finds the layer of a node, and keeps it from being closed until leave.
func (s *server) enter(id uint32) (*shown, bool) {
	s.mu.RLock()
	defer s.mu.RUnlock()
	l, ok := s.layers[id]
	if ok {
		l.users.Add(1)
	}
	return l, ok
}

func (s *server) String() string { return "sluice" }

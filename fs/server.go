package fs

import (
	"context"
	"errors"
	"io"
	stdlog "log"
	"path/filepath"
	"runtime/debug"
	"sync"
	"sync/atomic"

	"github.com/containerd/log"
	"github.com/hanwen/go-fuse/v2/fuse"
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
	trees   bool        // programs read the trees, not EROFS the blobs
	full    *connection // has all there is
	bare    *connection // the same without xattrs; nil but with trees
	logger  io.Closer
	closing chan struct{} // closed by close: requests that wait are to end
	lost    chan struct{} // closed by lose
	lose    func()        // called when somebody else has taken a mount away

	begins    func(l *shown, off int64, p []byte) // is told what was read
	userxattr bool                                // overlays on top have the option

	waiting atomic.Int64  // READs that wait for a registry, or whose answers are not sent yet
	filling chan struct{} // places of READs that have waited without a buffer

	mu     sync.RWMutex
	layers map[uint32]*shown // by layer ID
}

// served are the mount points of a server's connections, the bare one last.
func served(stateDir string) []string {
	return []string{filepath.Join(stateDir, "fuse"), filepath.Join(stateDir, "bare")}
}

// serve mounts a server with no layers in stateDir, and answers requests until close. With trees, it is the layers' trees that
// programs read, else EROFS their blobs.
func serve(ctx context.Context, stateDir string, readAheadKiB int, trees bool) (_ *server, err error) {
	w := log.G(ctx).WriterLevel(log.DebugLevel)
	s := &server{
		RawFileSystem: fuse.NewDefaultRawFileSystem(),
		trees:         trees,
		logger:        w,
		closing:       make(chan struct{}),
		lost:          make(chan struct{}),
		userxattr:     needsUserXattr(),
		filling:       make(chan struct{}, maxFilling),
		layers:        make(map[uint32]*shown),
	}
	s.lose = sync.OnceFunc(func() {
		log.G(ctx).Errorf("FUSE in %s was unmounted or cut off by somebody else; layers cannot be read or mounted any more", stateDir)
		close(s.lost)
	})
	options, dirs := s.mountOptions(ctx, w), served(stateDir)
	if s.full, err = connect(dirs[0], s, options); err != nil {
		return nil, errors.Join(err, w.Close())
	}
	if trees {
		if s.bare, err = connect(dirs[1], bare{s}, options); err != nil {
			return nil, errors.Join(err, s.full.abandon(), w.Close())
		}
	}
	for _, c := range s.connections() {
		go s.answer(c)
		c.refusePoll()
		c.readAhead(ctx, readAheadKiB)
	}
	return s, nil
}

// connections are those that there are.
func (s *server) connections() []*connection {
	if s.bare == nil {
		return []*connection{s.full}
	}
	return []*connection{s.full, s.bare}
}

// answer answers requests until the connection ends.
func (s *server) answer(c *connection) {
	c.serve()
	s.gone()
}

// gone says that a mount is lost, unless it was close that took it away.
func (s *server) gone() {
	select {
	case <-s.closing:
	default:
		s.lose()
	}
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
		o.MaxBackground = maxBackground / 2 // of each connection
		o.EnableAcl = true                  // else only the bits of modes count; EROFS has it of itself
		// Attributes with the names only where somebody looks at them. Without CAP_ASYNC_DIO, which would have direct reads
		// wait where no signal ends them.
		o.ExtraCapabilities = fuse.CAP_READDIRPLUS_AUTO
	} else {
		o.ExtraCapabilities = fuse.CAP_ASYNC_DIO // reads ahead of EROFS overlap only with it
	}
	return o
}

// check reports whether all is mounted where it was, and that it is lost if not.
func (s *server) check() bool {
	for _, c := range s.connections() {
		if !c.standing() {
			s.gone()
			return false
		}
	}
	return true
}

// close unmounts, once, and waits until nothing is served any more. Whatever still waits for an answer, or asks later, gets an
// error.
func (s *server) close() error {
	close(s.closing)
	var errs []error
	for _, c := range s.connections() {
		errs = append(errs, c.close())
	}
	return errors.Join(append(errs, s.logger.Close())...)
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

// forget has the kernel forget what it has of a layer's contents, which nobody is to read any more: then who reads them asks here. What EROFS has read
// through a blob stays in the page cache of its own mount.
func (s *server) forget(l *shown) {
	if !s.trees {
		s.full.conn.InodeNotify(blobNode(l.id), 0, 0) // fails where it has none, as below
		return
	}
	l.image.Files(func(nid uint64) {
		for _, c := range s.connections() {
			c.conn.InodeNotify(treeNode(l.id, nid), 0, 0)
		}
	})
}

// relist has the kernel forget the list of the root directory, which for trees it keeps.
func (s *server) relist() {
	if s.trees {
		for _, c := range s.connections() {
			c.conn.InodeNotify(rootNode, 0, 0) // fails where it has none
		}
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

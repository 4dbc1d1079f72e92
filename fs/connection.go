package fs

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/containerd/log"
	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"
)

// connection is one to the kernel, for the requests of what is mounted at dir.
type connection struct {
	dir   string // mount point
	dev   uint64 // of what is mounted there
	conn  *fuse.Server
	ended chan struct{} // closed when no request is answered any more
}

// connect mounts at dir what fs shows. Nothing is answered before serve.
func connect(dir string, fs fuse.RawFileSystem, o *fuse.MountOptions) (*connection, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, err
	}
	fd, err := openDevice("/dev/fuse")
	if err != nil {
		return nil, err
	}
	if err := mountFUSE(fd, dir); err != nil {
		return nil, errors.Join(err, unix.Close(fd))
	}
	// go-fuse is given the descriptor, which from here on it owns.
	conn, err := fuse.NewServer(fs, fmt.Sprintf("/dev/fd/%d", fd), o)
	if err != nil {
		return nil, errors.Join(fmt.Errorf("serve %s: %w", dir, err), unix.Unmount(dir, unix.MNT_DETACH))
	}
	return &connection{dir: dir, conn: conn, ended: make(chan struct{})}, nil
}

// serve answers requests until the connection ends.
func (c *connection) serve() {
	defer close(c.ended)
	c.conn.Serve()
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
func (c *connection) refusePoll() {
	fd, err := unix.Open(filepath.Join(c.dir, ".go-fuse-epoll-hack"), unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return // served all the same
	}
	defer unix.Close(fd)
	_, _ = unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, 0)
}

// readAhead remembers which device was mounted, and raises what the kernel reads ahead in FUSE trees.
func (c *connection) readAhead(ctx context.Context, kib int) {
	var st unix.Stat_t
	err := unix.Stat(c.dir, &st)
	if err == nil {
		c.dev = st.Dev
		err = setReadAhead(numberedBDI(st.Dev), kib)
	}
	if err != nil {
		log.G(ctx).WithError(err).Debug("raise readahead of the FUSE mount")
	}
}

// standing reports whether the mount is where it was. After umount -l it goes on for whoever uses it, so that go-fuse notices nothing.
func (c *connection) standing() bool {
	var st unix.Stat_t
	if err := unix.Lstat(c.dir, &st); err != nil {
		return !errors.Is(err, unix.ENOENT) && !errors.Is(err, unix.ENOTCONN)
	}
	return st.Dev == c.dev
}

// close unmounts, and waits until nothing is served any more.
func (c *connection) close() error {
	// With MNT_FORCE the connection is cut, so that this ends even if files are open.
	err := unix.Unmount(c.dir, unix.MNT_FORCE|unix.MNT_DETACH)
	select {
	case <-c.ended: // somebody else was faster
		return nil
	default:
	}
	if errors.Is(err, unix.EINVAL) && !c.standing() { // unmounted by somebody else: it ends when its last user does, or this process
		return nil
	}
	if err != nil {
		return &os.PathError{Op: "unmount", Path: c.dir, Err: err}
	}
	<-c.ended
	return nil
}

// abandon is close before serve.
func (c *connection) abandon() error {
	go c.serve()
	return c.close()
}

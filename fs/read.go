package fs

import (
	"context"
	"errors"
	"fmt"
	"io"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"
)

// Open says how the kernel is to cache a file. There is no handle: a node number says all. For trees that is so plain that
// the kernel is told once, by ENOSYS, to open, cache and close without asking.
func (s *server) Open(_ <-chan struct{}, in *fuse.OpenIn, out *fuse.OpenOut) fuse.Status {
	if s.trees {
		return fuse.ENOSYS
	}
	if in.Flags&fuse.O_ANYWRITE != 0 {
		return fuse.EROFS
	}
	// EROFS caches what it reads from the blob; cached here, it would be in memory twice.
	out.OpenFlags = fuse.FOPEN_DIRECT_IO | fuse.FOPEN_NOFLUSH
	return fuse.OK
}

// Flush is asked for at most once: there is nothing to flush.
func (s *server) Flush(<-chan struct{}, *fuse.FlushIn) fuse.Status { return fuse.ENOSYS }

// Read reads from a blob or a file of a tree, and fetches what is not on disk yet.
func (s *server) Read(cancel <-chan struct{}, in *fuse.ReadIn, buf []byte) (result fuse.ReadResult, code fuse.Status) {
	n, wait := 0, &waiter{server: s}
	defer func() {
		if result == nil { // an error, or a panic
			wait.end()
		}
	}()
	code = s.with(in.NodeId, func(l *shown, nid uint64, tree bool) (err error) {
		start, size := int64(0), l.dataSize
		if tree {
			if start, size, err = l.extent(nid); err != nil {
				return err
			}
		}
		off := int64(in.Offset)
		if off < 0 || off >= size {
			return nil
		}
		if l.refused.Load() {
			return ErrRefused
		}
		buf = buf[:min(int64(len(buf)), size-off)]
		wait.buf = buf
		ctx := newInterrupt(context.Background(), cancel, s.closing, in.Pid)
		ctx.waits = wait.begin
		defer ctx.stop()
		n, err = l.layer.ReadAtOnce(ctx, buf, start+off, func() error { return wait.fill(ctx) })
		if errors.Is(err, io.EOF) && n == len(buf) {
			err = nil
		}
		if err == nil {
			s.begins(l, start+off, buf[:n])
		}
		return err
	})
	if !code.Ok() {
		return nil, code
	}
	return reply{buf[:n], wait}, fuse.OK
}

// extent is where the contents of inode nid lie in the address space.
func (l *shown) extent(nid uint64) (start, size int64, err error) {
	in, err := l.image.Inode(nid)
	if err != nil {
		return 0, 0, fmt.Errorf("inode %d: %w", nid, err)
	}
	if in.Mode&unix.S_IFMT != unix.S_IFREG {
		return 0, 0, unix.EINVAL
	}
	return in.Offset, in.Size, nil
}

// Lseek finds data and holes: a file is all data.
func (s *server) Lseek(_ <-chan struct{}, in *fuse.LseekIn, out *fuse.LseekOut) fuse.Status {
	return s.with(in.NodeId, func(l *shown, nid uint64, tree bool) (err error) {
		size := l.dataSize
		if tree {
			if _, size, err = l.extent(nid); err != nil {
				return err
			}
		}
		if in.Offset >= uint64(size) {
			return unix.ENXIO
		}
		switch in.Whence {
		case unix.SEEK_DATA:
			out.Offset = in.Offset
		case unix.SEEK_HOLE:
			out.Offset = uint64(size)
		default:
			return unix.EINVAL
		}
		return nil
	})
}

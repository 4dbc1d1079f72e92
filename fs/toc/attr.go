package toc

import (
	"errors"
	"fmt"
	"math"
	"strings"
	"time"

	"github.com/containerd/stargz-snapshotter/estargz"
	"golang.org/x/sys/unix"

	"github.com/sluice-snapshotter/sluice/fs/metadata"
)

const (
	maxTarget = 4095               // of a symlink: PATH_MAX less the NUL
	maxMajor  = 1<<12 - 1          // Linux's dev_t has 12 bits for the major
	maxMinor  = 1<<20 - 1          // and 20 for the minor number
	maxID     = math.MaxUint32 - 1 // -1 means "leave it" to chown(2)
	modeBits  = 0o7777
)

// newNode makes an inode of an entry of any type but hardlink and chunk.
func newNode(e *estargz.TOCEntry) (*metadata.Node, error) {
	n := new(metadata.Node)
	switch e.Type {
	case "dir":
		n.Mode = unix.S_IFDIR
	case "reg":
		n.Mode, n.Size = unix.S_IFREG, e.Size
	case "symlink":
		n.Mode, n.Target = unix.S_IFLNK|0o777, e.LinkName
		if err := checkTarget(e.LinkName); err != nil {
			return nil, err
		}
	case "char":
		n.Mode = unix.S_IFCHR
	case "block":
		n.Mode = unix.S_IFBLK
	case "fifo":
		n.Mode = unix.S_IFIFO
	default:
		return nil, fmt.Errorf("unknown type %s", quote(e.Type))
	}
	if e.Type == "char" || e.Type == "block" {
		if e.DevMajor < 0 || e.DevMajor > maxMajor || e.DevMinor < 0 || e.DevMinor > maxMinor {
			return nil, fmt.Errorf("device %d:%d, at most %d:%d is possible", e.DevMajor, e.DevMinor, maxMajor, maxMinor)
		}
		n.Rdev = unix.Mkdev(uint32(e.DevMajor), uint32(e.DevMinor))
	}
	return n, setAttributes(n, e)
}

func checkTarget(target string) error {
	switch {
	case target == "":
		return errors.New("symlink without a target")
	case len(target) > maxTarget:
		return fmt.Errorf("symlink target of %d bytes, at most %d are possible", len(target), maxTarget)
	case strings.IndexByte(target, 0) >= 0:
		return errors.New("symlink target holds a NUL")
	}
	return nil
}

// setAttributes gives n what any entry has, as an unpacker does for every header it reads: xattrs come to those that
// n has already, all else is replaced. Owners are the numbers; names of users and groups mean nothing outside the
// container.
func setAttributes(n *metadata.Node, e *estargz.TOCEntry) error {
	if e.UID < 0 || e.UID > maxID || e.GID < 0 || e.GID > maxID {
		return fmt.Errorf("owner %d:%d is out of range", e.UID, e.GID)
	}
	// Docker and buildkit write the file type into a tar header's mode, as Go did before 1.9. The type field is what counts.
	if e.Mode&^(unix.S_IFMT|modeBits) != 0 {
		return fmt.Errorf("mode %#o has bits that mean nothing", e.Mode)
	}
	mtime, err := parseTime(e.ModTime3339)
	if err != nil {
		return err
	}
	n.UID, n.GID, n.Mtime = uint32(e.UID), uint32(e.GID), mtime
	if n.Mode&unix.S_IFMT != unix.S_IFLNK { // a symlink has no mode of its own on Linux
		n.Mode = n.Mode&unix.S_IFMT | uint32(e.Mode)&modeBits
	}
	return addXattrs(n, e.Xattrs)
}

// parseTime reads a modification time; none is the epoch, as estargz leaves that out. Times before it or after 2262
// are the epoch too: containerd's unpacker bounds them so, because nanoseconds in an int64 end there.
func parseTime(s string) (time.Time, error) {
	epoch := time.Unix(0, 0).UTC()
	if s == "" {
		return epoch, nil
	}
	t, err := time.Parse(time.RFC3339, s)
	if err != nil {
		return epoch, fmt.Errorf("modification time %s is not RFC 3339", quote(s))
	}
	if t.Before(epoch) || t.After(time.Unix(0, math.MaxInt64)) {
		return epoch, nil
	}
	return t.UTC(), nil
}

package fs

import (
	"encoding/binary"
	"errors"
	"math"
	"os"
	"path/filepath"
	"runtime"
	"testing"

	"golang.org/x/sys/unix"
)

// aclEntry is one of a POSIX ACL, as posix_acl_xattr.h has it.
type aclEntry struct {
	Tag, Perm uint16
	ID        uint32
}

const aclFriend = 1000 // the user that ACLs of withACL are about

// withACL is a file with an ACL in which aclFriend has permissions of its own.
func withACL(t *testing.T, name string, mode int64, friend, mask, others uint16) file {
	t.Helper()
	const owner, user, group, maskTag, other = 0x01, 0x02, 0x04, 0x10, 0x20
	value, err := binary.Append(binary.LittleEndian.AppendUint32(nil, 2), binary.LittleEndian, []aclEntry{
		{owner, 6, math.MaxUint32}, {user, friend, aclFriend}, {group, others, math.MaxUint32}, {maskTag, mask, math.MaxUint32}, {other, others, math.MaxUint32},
	})
	if err != nil {
		t.Fatal(err)
	}
	f := regular(name, []byte("secret"))
	f.Mode = mode
	f.PAXRecords = map[string]string{"SCHILY.xattr.system.posix_acl_access": string(value)}
	return f
}

// TestACL: an ACL can allow what the mode forbids, and forbid what it allows, in a layer and in an overlay on it.
func TestACL(t *testing.T) {
	denied, granted := withACL(t, "denied", 0o644, 0, 4, 4), withACL(t, "granted", 0o640, 4, 4, 0)
	plain := regular("plain", []byte("secret"))
	l := buildBlob(t, []file{denied, granted, plain})
	for _, kind := range everyKind {
		t.Run(kind.name, func(t *testing.T) {
			n := newNode(t, Options{Mode: kind.mode, NoNative: kind.noNative, Background: true})
			n.mountLayer(t, newRegistry(t, l).source(l))
			n.settled(t, l)
			show := t.TempDir()
			if err := os.Chmod(filepath.Dir(show), 0o755); err != nil {
				t.Fatal(err)
			}
			layerDir, overlay := filepath.Join(show, "layer"), filepath.Join(show, "overlay")
			path := n.path(t, l, "reader")
			mountAt(t, layerDir, path, "", unix.MS_BIND, "")
			mountAt(t, overlay, "overlay", "overlay", unix.MS_RDONLY, "lowerdir="+path+":"+t.TempDir())
			for _, dir := range []string{layerDir, overlay} {
				for _, c := range []struct {
					name string
					uid  int
					want error
				}{
					{"denied", aclFriend, unix.EACCES}, {"denied", aclFriend + 1, nil},
					{"granted", aclFriend, nil}, {"granted", aclFriend + 1, unix.EACCES},
					{"plain", aclFriend, nil},
				} {
					if err := openAs(c.uid, filepath.Join(dir, c.name)); !errors.Is(err, c.want) {
						t.Errorf("%s in %s, opened by %d: %v, want %v", c.name, filepath.Base(dir), c.uid, err, c.want)
					}
				}
			}
		})
	}
}

// mountAt mounts source at point until the test ends.
func mountAt(t *testing.T, point, source, kind string, flags uintptr, options string) {
	t.Helper()
	if err := os.Mkdir(point, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := unix.Mount(source, point, kind, flags, options); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(point, unix.MNT_DETACH); err != nil {
			t.Error(err)
		}
	})
}

// openAs opens a file for reading as another user.
func openAs(uid int, path string) error {
	result := make(chan error)
	go func() {
		runtime.LockOSThread() // which is for ever: this thread has no way back, and ends
		_, _, errno := unix.RawSyscall(unix.SYS_SETRESUID, uintptr(uid), uintptr(uid), uintptr(uid))
		if errno != 0 {
			result <- errno
			return
		}
		fd, err := unix.Open(path, unix.O_RDONLY|unix.O_CLOEXEC, 0)
		if err == nil {
			err = unix.Close(fd)
		}
		result <- err
	}()
	return <-result
}

package prepare

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/sluice-snapshotter/sluice/integration/stack"
)

// watch calls run, with the page cache empty, and returns which files of the file system at root were opened meanwhile, and how much
// of them was read.
func watch(root string, run func() error) (p Profile, err error) {
	r, err := newRecorder(root)
	if err != nil {
		return p, err
	}
	if err := stack.DropCaches(); err != nil {
		return p, errors.Join(err, r.close())
	}
	err = run()
	paths, e := r.stop()
	if err = errors.Join(err, e); err != nil {
		return p, err
	}
	for _, path := range paths {
		n, err := touched(filepath.Join(root, path))
		if errors.Is(err, os.ErrNotExist) {
			continue // a temporary file
		}
		if err != nil {
			return p, err
		}
		p.Files, p.Bytes = append(p.Files, literal(path)), p.Bytes+n
	}
	return p, nil
}

// recorder lists the regular files of one file system in the order in which programs first opened them, in whatever mount namespace.
type recorder struct {
	group *os.File // fanotify(7)
	root  string
	list  chan []string // has the list when the group has been read to its end
	err   error         // valid then
}

// sentinel is opened to say that nothing more is of interest: events come in order.
const sentinel = ".recorded"

func newRecorder(root string) (*recorder, error) {
	fd, err := unix.FanotifyInit(unix.FAN_CLASS_NOTIF|unix.FAN_CLOEXEC|unix.FAN_NONBLOCK|unix.FAN_UNLIMITED_QUEUE, unix.O_RDONLY|unix.O_CLOEXEC)
	if err != nil {
		return nil, fmt.Errorf("fanotify: %w", err)
	}
	r := &recorder{group: os.NewFile(uintptr(fd), "fanotify"), root: root, list: make(chan []string, 1)}
	err = unix.FanotifyMark(fd, unix.FAN_MARK_ADD|unix.FAN_MARK_FILESYSTEM, unix.FAN_OPEN, unix.AT_FDCWD, root)
	if err != nil {
		return nil, errors.Join(fmt.Errorf("watch %s: %w", root, err), r.group.Close())
	}
	go r.read()
	return r, nil
}

func (r *recorder) close() error { return r.group.Close() }

// stop ends the recording and returns the list.
func (r *recorder) stop() (list []string, err error) {
	defer func() { err = errors.Join(err, r.close()) }()
	name := filepath.Join(r.root, sentinel)
	if err := os.WriteFile(name, nil, 0o600); err != nil {
		return nil, err
	}
	list = <-r.list
	return list, errors.Join(r.err, os.Remove(name))
}

// read collects paths until the sentinel, or until the group is closed.
func (r *recorder) read() {
	var list []string
	defer func() { r.list <- list }()
	seen := make(map[string]bool)
	for buf := make([]byte, 1<<16); ; {
		n, err := r.group.Read(buf)
		if err != nil {
			r.err = err
			return
		}
		for p := buf[:n]; len(p) > 0; {
			var e unix.FanotifyEventMetadata
			if _, r.err = binary.Decode(p, binary.NativeEndian, &e); r.err != nil {
				return
			}
			p = p[e.Event_len:]
			path, ok := opened(int(e.Fd))
			if path == filepath.Join(r.root, sentinel) {
				return
			}
			if ok && !seen[path] {
				seen[path] = true
				list = append(list, path)
			}
		}
	}
}

// opened closes an event's descriptor and says which regular file with content it was of.
func opened(fd int) (path string, ok bool) {
	if fd < 0 {
		return "", false
	}
	defer unix.Close(fd)
	var st unix.Stat_t
	if unix.Fstat(fd, &st) != nil {
		return "", false
	}
	// In the container's namespace its root is the root of the path.
	path, err := os.Readlink(fmt.Sprintf("/proc/self/fd/%d", fd))
	return path, err == nil && st.Mode&unix.S_IFMT == unix.S_IFREG && st.Size > 0 && !strings.HasSuffix(path, " (deleted)")
}

// literal writes a path as the pattern that matches it alone.
func literal(path string) string {
	return strings.NewReplacer(`\`, `\\`, "*", `\*`, "?", `\?`, "[", `\[`).Replace(path)
}

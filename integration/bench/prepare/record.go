package prepare

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/moby/sys/mountinfo"
	"golang.org/x/sys/unix"

	"github.com/sluice-snapshotter/sluice/integration/stack"
)

// watch calls run, with the page cache empty, and returns which files of the overlay at root were opened meanwhile, and how much of them was
// read; those that the run has written are left out.
func watch(root string, run func() error) ([]File, error) {
	upper, err := upperOf(root)
	if err != nil {
		return nil, err
	}
	r, err := newRecorder(root)
	if err != nil {
		return nil, err
	}
	if err := stack.DropCaches(); err != nil {
		return nil, errors.Join(err, r.close())
	}
	err = run()
	paths, e := r.stop()
	if err = errors.Join(err, e); err != nil {
		return nil, err
	}
	var files []File
	for _, path := range paths {
		if _, err := os.Lstat(filepath.Join(upper, path)); err == nil {
			continue
		}
		f := File{Path: path}
		err = f.touched(filepath.Join(root, path))
		if errors.Is(err, os.ErrNotExist) {
			continue // written and removed again
		}
		if err != nil {
			return nil, err
		}
		files = append(files, f)
	}
	return files, nil
}

// upperOf is the folder that takes what is written to an overlay.
func upperOf(root string) (string, error) {
	mounts, err := mountinfo.GetMounts(mountinfo.SingleEntryFilter(root))
	if err != nil || len(mounts) == 0 {
		return "", fmt.Errorf("overlay at %s: %w", root, errors.Join(err, os.ErrNotExist))
	}
	for o := range strings.SplitSeq(mounts[0].VFSOptions, ",") {
		if dir, ok := strings.CutPrefix(o, "upperdir="); ok {
			return dir, nil
		}
	}
	return "", fmt.Errorf("%s is no overlay that can be written to", root)
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

// line names a file, and what was read of it, in a prefetch list.
func (f File) line() string {
	if f.Ranges == "" {
		return literal(f.Path)
	}
	return literal(f.Path) + "\t" + f.Ranges
}

// literal writes a path as the pattern that matches it alone.
func literal(path string) string {
	return strings.NewReplacer(`\`, `\\`, "*", `\*`, "?", `\?`, "[", `\[`).Replace(path)
}

package fs

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// below reports whether path is below dir by their names alone, so neither must have symlinks in it.
func below(path, dir string) bool {
	return strings.HasPrefix(path, strings.TrimSuffix(dir, "/")+"/")
}

// isMountPoint reports whether something with a device of its own is mounted at path. Where that cannot be told, something is there that
// fails.
func isMountPoint(path string) bool {
	var at, parent unix.Stat_t
	err := unix.Lstat(path, &at)
	if err == nil {
		err = unix.Lstat(filepath.Dir(path), &parent)
	}
	if err != nil {
		return !errors.Is(err, unix.ENOENT)
	}
	return at.Dev != parent.Dev
}

// mountPoints lists the mount points of this process's mount namespace in the order in which they were mounted.
func mountPoints() ([]string, error) {
	f, err := os.Open("/proc/self/mountinfo")
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return parseMountinfo(f)
}

// parseMountinfo returns the fifth field of each line, as proc_pid_mountinfo(5) has it.
func parseMountinfo(r io.Reader) ([]string, error) {
	var out []string
	lines := bufio.NewScanner(r)
	lines.Buffer(nil, 1<<20) // overlays with many lower directories make long lines
	for lines.Scan() {
		fields := strings.Split(lines.Text(), " ")
		if len(fields) < 5 {
			return nil, fmt.Errorf("mountinfo: line %q", lines.Text())
		}
		out = append(out, unescape(fields[4]))
	}
	if err := lines.Err(); err != nil {
		return nil, fmt.Errorf("mountinfo: %w", err)
	}
	return out, nil
}

// unescape undoes the kernel's octal escapes of space, tab, newline and backslash.
func unescape(s string) string {
	var b strings.Builder
	for i := 0; i < len(s); i++ {
		if s[i] == '\\' && i+4 <= len(s) {
			if c, err := strconv.ParseUint(s[i+1:i+4], 8, 8); err == nil {
				b.WriteByte(byte(c))
				i += 3
				continue
			}
		}
		b.WriteByte(s[i])
	}
	return b.String()
}

// Command check is the program inside the images that images.Posix and its like make: it does with files what programs do with them,
// and says what does not work.
//
//	check posix DIR            do everything with what the Posix image has in DIR, and print what there was to see
//	check crowd DIR N          look up names in DIR, which has the N files entry-000000 and so on, and list it; then once more when
//	                           one has gone and one has come
//	check xattr NAME FILE...   print size and checksum of each file's xattr
//	check at FILE OFFSET...    print the file's size and the 32 bytes at each offset, which are the same read and mapped
//
// What posix needs from another process is this program as well:
//
//	check id                   print real and effective user
//	check raw                  open a raw socket, which takes CAP_NET_RAW
//	check second FILE          print the second line of the file; as the interpreter of a script
//	check say FILE TEXT        open the file, which may be a fifo, and write TEXT to it
package main

import (
	"errors"
	"fmt"
	"os"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// patience is how long a check may wait: one side of a fifo waits for the other, forever if need be.
const patience = 5 * time.Minute

func main() {
	time.AfterFunc(patience, func() {
		fmt.Fprintln(os.Stderr, "check: something waits forever")
		os.Exit(1)
	})
	if err := run(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "check:", err)
		os.Exit(1)
	}
}

var errUsage = errors.New("want posix DIR, crowd DIR N, xattr NAME FILE..., at FILE OFFSET..., id, raw, second FILE or say FILE TEXT")

func run(args []string) error {
	switch {
	case len(args) == 2 && args[0] == "posix":
		return posix(args[1])
	case len(args) == 3 && args[0] == "crowd":
		return crowd(args[1], args[2])
	case len(args) > 2 && args[0] == "xattr":
		return xattr(args[1], args[2:])
	case len(args) > 2 && args[0] == "at":
		return at(args[1], args[2:])
	case len(args) == 1 && args[0] == "id":
		_, err := fmt.Println(os.Getuid(), os.Geteuid())
		return err
	case len(args) == 1 && args[0] == "raw":
		return raw()
	case len(args) == 2 && args[0] == "second":
		return second(args[1])
	case len(args) == 3 && args[0] == "say":
		return os.WriteFile(args[1], []byte(args[2]), 0)
	}
	return errUsage
}

// posix runs every check, and fails if one does. What one returns is the same on every file system.
func posix(dir string) error {
	var seen strings.Builder
	var errs []error
	for _, c := range []struct {
		name string
		do   func(dir string) (string, error)
	}{
		{"mmap", mapping}, {"holes", holes}, {"statfs", statfs}, {"links", links}, {"times", times}, {"exec", programs},
		{"privileges", privileges}, {"devices", devices}, {"fifo", fifo}, {"socket", socket},
	} {
		text, err := c.do(dir)
		if err != nil {
			errs = append(errs, fmt.Errorf("%s: %w", c.name, err))
		}
		fmt.Fprintf(&seen, "%s: %s\n", c.name, text)
	}
	_, err := os.Stdout.WriteString(seen.String())
	return errors.Join(append(errs, err)...)
}

func second(name string) error {
	text, err := os.ReadFile(name)
	if err != nil {
		return err
	}
	lines := strings.Split(string(text), "\n")
	if len(lines) < 2 {
		return fmt.Errorf("%s has no second line", name)
	}
	_, err = fmt.Println(lines[1])
	return err
}

func raw() error {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_RAW, unix.IPPROTO_ICMP)
	if err != nil {
		return fmt.Errorf("raw socket: %w", err)
	}
	return unix.Close(fd)
}

// Package checkout finds what the integration harness keeps in this checkout of the project, and shares it among processes.
//
// Everything that is made from the checkout and worth keeping lies under its .cache folder, which git ignores. Several test
// binaries run at once, so whoever makes something there holds its lock.
package checkout

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"sync"

	"golang.org/x/sys/unix"
)

const module = "module github.com/sluice-snapshotter/sluice\n"

// Root is the folder of this project's go.mod, found upwards from the working directory.
var Root = sync.OnceValues(func() (string, error) {
	start, err := os.Getwd()
	if err != nil {
		return "", err
	}
	for dir := start; ; dir = filepath.Dir(dir) {
		p, err := os.ReadFile(filepath.Join(dir, "go.mod"))
		if err == nil && bytes.Contains(p, []byte(module)) {
			return dir, nil
		}
		if dir == filepath.Dir(dir) {
			return "", fmt.Errorf("%s is not inside a checkout of the project", start)
		}
	}
})

// Cache makes the folder .cache/elem... of the checkout and returns its path.
func Cache(elem ...string) (string, error) {
	root, err := Root()
	if err != nil {
		return "", err
	}
	dir := filepath.Join(append([]string{root, ".cache"}, elem...)...)
	return dir, os.MkdirAll(dir, 0o755)
}

// Lock takes the exclusive lock that path stands for, waiting for other processes, and returns what gives it back.
func Lock(path string) (unlock func() error, err error) {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o644)
	if err != nil {
		return nil, fmt.Errorf("lock: %w", err)
	}
	for {
		err = unix.Flock(int(f.Fd()), unix.LOCK_EX)
		if err != unix.EINTR { //nolint:errorlint // a bare errno
			break
		}
	}
	if err != nil {
		f.Close()
		return nil, fmt.Errorf("lock %s: %w", path, err)
	}
	return f.Close, nil
}

// Build of a command.
type Build struct {
	Dir      string   // of the module, relative to Root; "" is Root itself
	Packages []string // import paths or ./relative ones
	Out      string   // file, or folder if it ends in a slash
	Flags    []string // of go build
	Env      []string // besides the process's own
}

// Run builds with the go command.
func (b Build) Run(ctx context.Context) error {
	root, err := Root()
	if err != nil {
		return err
	}
	args := append([]string{"build", "-o", b.Out}, b.Flags...)
	cmd := exec.CommandContext(ctx, "go", append(args, b.Packages...)...)
	cmd.Dir = filepath.Join(root, b.Dir)
	cmd.Env = append(os.Environ(), b.Env...)
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("go build %v: %w\n%s", b.Packages, err, out)
	}
	return nil
}

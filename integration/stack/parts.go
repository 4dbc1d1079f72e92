package stack

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"

	"github.com/sluice-snapshotter/sluice/integration/checkout"
)

// Version is a line of containerd that Sluice works with.
type Version string

// The versions that integration/parts pins.
const (
	Containerd2  Version = ""             // 2.4
	Containerd17 Version = "containerd17" // 1.7
)

const containerdPath = "github.com/containerd/containerd"

// module is a go.mod of pinned parts and what is built from it.
type module struct {
	dir      string // relative to the checkout
	out      string // folder below .cache/bin
	packages []string
}

var (
	current = module{
		dir: "integration/parts",
		packages: []string{
			containerdPath + "/v2/cmd/containerd", containerdPath + "/v2/cmd/containerd-shim-runc-v2", containerdPath + "/v2/cmd/ctr",
			"github.com/opencontainers/runc", "github.com/distribution/distribution/v3/cmd/registry",
		},
	}
	old = module{
		dir: "integration/parts/containerd17",
		out: string(Containerd17),
		packages: []string{
			containerdPath + "/cmd/containerd", containerdPath + "/cmd/containerd-shim-runc-v2", containerdPath + "/cmd/ctr",
		},
	}
)

// Parts builds the parts of a version if they are not there or their go.mod or go.sum has changed, and returns the folders of the
// programs in the order of a PATH. The first time it needs the network and takes minutes.
func Parts(ctx context.Context, v Version) ([]string, error) {
	bin, err := current.build(ctx)
	if err != nil || v == Containerd2 {
		return []string{bin}, err
	}
	oldBin, err := old.build(ctx)
	return []string{oldBin, bin}, err
}

func (m module) build(ctx context.Context) (_ string, err error) {
	bin, err := checkout.Cache("bin", m.out)
	if err != nil {
		return "", err
	}
	unlock, err := checkout.Lock(filepath.Join(bin, ".lock"))
	if err != nil {
		return "", err
	}
	defer func() { err = errors.Join(err, unlock()) }()
	key, err := m.key()
	if err != nil {
		return "", err
	}
	mark := filepath.Join(bin, ".built-from")
	have, err := os.ReadFile(mark)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return "", err
	}
	if string(have) == key && m.complete(bin) {
		return bin, nil
	}
	if err := needCompiler(ctx); err != nil {
		return "", err
	}
	err = checkout.Build{
		Dir: m.dir, Packages: m.packages, Out: bin + "/", Flags: []string{"-trimpath"},
		Env: []string{"CGO_ENABLED=1", "GOFLAGS=-buildvcs=false"}, // runc enters namespaces in C
	}.Run(ctx)
	if err != nil {
		return "", fmt.Errorf("build parts: %w", err)
	}
	return bin, os.WriteFile(mark, []byte(key), 0o644)
}

// key is a hash of all that the programs depend on.
func (m module) key() (string, error) {
	root, err := checkout.Root()
	if err != nil {
		return "", err
	}
	h := sha256.New()
	fmt.Fprintln(h, runtime.Version(), runtime.GOARCH, m.packages)
	for _, name := range []string{"go.mod", "go.sum"} {
		p, err := os.ReadFile(filepath.Join(root, m.dir, name))
		if err != nil {
			return "", err
		}
		h.Write(p)
	}
	return hex.EncodeToString(h.Sum(nil)), nil
}

func (m module) complete(bin string) bool {
	for _, p := range m.packages {
		if _, err := os.Stat(filepath.Join(bin, filepath.Base(p))); err != nil {
			return false
		}
	}
	return true
}

// needCompiler sees to a C compiler, by apt-get where there is none.
func needCompiler(ctx context.Context) error {
	if _, err := exec.LookPath("gcc"); err == nil {
		return nil
	}
	if err := install(ctx, "gcc", "libc6-dev"); err != nil {
		return fmt.Errorf("building runc needs a C compiler: %w", err)
	}
	return nil
}

// install installs Debian packages.
func install(ctx context.Context, packages ...string) error {
	apt, err := exec.LookPath("apt-get")
	if err != nil {
		return fmt.Errorf("install %v with this machine's package manager: %w", packages, err)
	}
	env := []string{"DEBIAN_FRONTEND=noninteractive"}
	if _, err := output(ctx, env, apt, "update"); err != nil {
		return err
	}
	_, err = output(ctx, env, apt, append([]string{"install", "-y", "--no-install-recommends"}, packages...)...)
	return err
}

// Sluice builds the daemon and ctr-remote of this checkout into dir, as "make build" does. SLUICE_RACE=1 in the environment
// builds them with the race detector.
func Sluice(ctx context.Context, dir string) error {
	root, err := checkout.Root()
	if err != nil {
		return err
	}
	args := []string{"-o", dir + "/", "./cmd/containerd-sluice-grpc", "./cmd/ctr-remote"}
	if os.Getenv("SLUICE_RACE") == "1" {
		args = append([]string{"-race"}, args...)
	}
	if _, err := output(ctx, nil, filepath.Join(root, ".ci/build"), args...); err != nil {
		return fmt.Errorf("build Sluice: %w", err)
	}
	return nil
}

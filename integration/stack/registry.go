package stack

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"

	"github.com/sluice-snapshotter/sluice/integration/images"
	"github.com/sluice-snapshotter/sluice/integration/link"
)

// Registry is a distribution registry, and the link that is the only way to it.
type Registry struct {
	Link *link.Link

	dir     string
	bin     string
	process *process // nil when it is stopped
}

// StartRegistry starts an empty registry behind a link with o's latency and bandwidth.
func StartRegistry(ctx context.Context, o link.Options) (*Registry, error) {
	dir, err := newDir("r")
	if err != nil {
		return nil, err
	}
	return startRegistry(ctx, dir, o)
}

// StartMemoryRegistry is StartRegistry with what is stored in memory: then what reads from the registry does not read from the disk that
// is measured, and DropCaches leaves it as it is.
func StartMemoryRegistry(ctx context.Context, o link.Options) (*Registry, error) {
	dir, err := newDir("r")
	if err != nil {
		return nil, err
	}
	if err := unix.Mount("tmpfs", dir, "tmpfs", unix.MS_NOSUID|unix.MS_NODEV, "size=90%"); err != nil {
		return nil, errors.Join(fmt.Errorf("mount memory for a registry: %w", err), os.Remove(dir))
	}
	return startRegistry(ctx, dir, o)
}

// startRegistry starts a registry in dir, which goes with it, or at once if it cannot be started.
func startRegistry(ctx context.Context, dir string, o link.Options) (_ *Registry, err error) {
	r := &Registry{dir: dir}
	defer func() {
		if err != nil {
			err = errors.Join(err, r.Close())
		}
	}()
	parts, err := Parts(ctx, Containerd2)
	if err != nil {
		return nil, err
	}
	r.bin = filepath.Join(parts[0], "registry")
	if err := os.WriteFile(r.path("config.yml"), fmt.Appendf(nil, registryConfig, r.path("data"), r.path("sock")), 0o644); err != nil {
		return nil, err
	}
	o.Upstream = "unix:" + r.path("sock")
	if r.Link, err = link.Start(o); err != nil {
		return nil, err
	}
	return r, r.Restart(ctx)
}

// A socket needs no free port. https://distribution.github.io/distribution/about/configuration/
const registryConfig = `version: 0.1
log: {level: error, accesslog: {disabled: true}}
storage:
  filesystem: {rootdirectory: %q}
  delete: {enabled: true}
http: {net: unix, addr: %q, relativeurls: true, secret: none}
`

func (r *Registry) path(name string) string { return filepath.Join(r.dir, name) }

// Ref is the reference of "name:tag" in this registry.
func (r *Registry) Ref(name string) string { return r.Link.Addr() + "/" + name }

// Push uploads an image as "name:tag" and returns its reference.
func (r *Registry) Push(ctx context.Context, im *images.Image, name string) (string, error) {
	return r.Ref(name), im.Push(ctx, r.Ref(name))
}

// Stop kills the registry and lets the link refuse connections; what is stored stays.
func (r *Registry) Stop() error {
	if r.process != nil {
		r.process.kill()
		r.process = nil
	}
	return r.Link.Refuse()
}

// Restart undoes Stop.
func (r *Registry) Restart(ctx context.Context) error {
	// A killed registry leaves its socket, on which nobody can listen again.
	if err := os.Remove(r.path("sock")); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	p, err := command{
		name: "registry", log: r.path("registry.log"), path: r.bin, args: []string{"serve", r.path("config.yml")},
		env: []string{"OTEL_TRACES_EXPORTER=none"},
	}.start()
	if err != nil {
		return err
	}
	if err := poll(ctx, p, r.answers); err != nil {
		p.kill()
		return err
	}
	r.process = p
	return r.Link.Accept()
}

// answers asks the registry for its version, past the link.
func (r *Registry) answers(ctx context.Context) error {
	t := &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "unix", r.path("sock"))
	}}
	defer t.CloseIdleConnections()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://registry/v2/", nil)
	if err != nil {
		return err
	}
	resp, err := (&http.Client{Transport: t}).Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return fmt.Errorf("registry answers %s", resp.Status)
	}
	return nil
}

// Close stops the registry and the link and removes what is stored.
func (r *Registry) Close() error {
	var err error
	if r.Link != nil {
		err = r.Link.Close()
	}
	if r.process != nil {
		r.process.kill()
	}
	// Not a mount point unless it is in memory.
	if e := unix.Unmount(r.dir, unix.MNT_DETACH); !errors.Is(e, unix.EINVAL) {
		err = errors.Join(err, e)
	}
	return errors.Join(err, os.RemoveAll(r.dir))
}

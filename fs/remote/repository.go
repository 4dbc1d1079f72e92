package remote

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"path"
	"sync"
	"sync/atomic"

	"github.com/containerd/containerd/v2/core/remotes/docker"
	"github.com/containerd/containerd/v2/pkg/reference"
	"github.com/opencontainers/go-digest"
)

// A repository is one image repository at all of its hosts.
type repository struct {
	registry *Registry
	spec     reference.Spec
	path     string // below the host

	mu   sync.Mutex
	from *hostList // which list was made from
	list []*endpoint
}

var errNoHosts = errors.New("hosts.toml leaves no host to pull from")

// endpoints returns the hosts to pull from, in the order of the configuration as it is now.
func (r *repository) endpoints(ctx context.Context) ([]*endpoint, error) {
	hosts, err := r.registry.hosts.get(ctx, r.spec.Hostname())
	if err != nil {
		return nil, fmt.Errorf("hosts of %s: %w", r.spec.Hostname(), err)
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.from == hosts {
		return r.list, nil
	}
	var list []*endpoint
	for i, h := range hosts.hosts {
		if h.Capabilities.Has(docker.HostCapabilityPull) {
			list = append(list, r.endpoint(h, hosts.fans[i]))
		}
	}
	if len(list) == 0 {
		return nil, errNoHosts
	}
	r.from, r.list = hosts, list
	return list, nil
}

// An endpoint is one host as one repository sees it.
type endpoint struct {
	registry *Registry
	host     string
	site     *site
	fan      *fan
	base     url.URL     // of the repository
	header   http.Header // of requests to the host itself
	auth     *authorizer
	scope    func(context.Context) (context.Context, error)

	rangeless atomic.Bool // answered a range request with the whole blob
}

// first returns the host that is asked first, as far as is known; nil if it is not.
func (r *repository) first() *endpoint {
	r.mu.Lock()
	defer r.mu.Unlock()
	if len(r.list) == 0 {
		return nil
	}
	return r.list[0]
}

func (r *repository) endpoint(h docker.RegistryHost, f *fan) *endpoint {
	e := &endpoint{
		registry: r.registry,
		host:     h.Host,
		fan:      f,
		base:     url.URL{Scheme: h.Scheme, Host: h.Host, Path: path.Join("/", h.Path, r.path)},
		header:   r.registry.header(h),
		auth:     newAuthorizer(func() docker.Authorizer { return r.registry.newAuthorizer(h) }),
		scope: func(ctx context.Context) (context.Context, error) {
			return docker.ContextWithRepositoryScope(ctx, r.spec, false)
		},
	}
	e.site = r.registry.site(&e.base)
	// Mirrors serve several registries and are told which one is meant, as containerd tells them.
	if origin := r.spec.Hostname(); h.Host != origin && (origin != "docker.io" || h.Host != "registry-1.docker.io") {
		e.base.RawQuery = url.Values{"ns": {origin}}.Encode()
	}
	return e
}

// url names a blob ("blobs") or manifest ("manifests").
func (e *endpoint) url(kind string, d digest.Digest) *url.URL {
	u := e.base
	u.Path = path.Join(u.Path, kind, d.String())
	return &u
}

package remote

import (
	"context"
	"net/http"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/containerd/containerd/v2/core/remotes/docker"
	"github.com/containerd/containerd/v2/core/remotes/docker/config"
	"github.com/containerd/errdefs"
)

// A hostTable holds the hosts of each namespace, which is containerd's word for the host part of a reference. It reads
// them again when their folder has changed, so that clients and their connections live as long as they may.
type hostTable struct {
	opts      Options
	dir       func(namespace string) (string, error)
	transport *http.Transport
	fan       *fan // of transport

	mu    sync.Mutex
	lists map[string]*hostList
}

// A hostList is never changed; a new one means a new configuration.
type hostList struct {
	hosts []docker.RegistryHost // all, whatever their capabilities, without authorizers
	fans  []*fan                // of each
	stamp stamp
}

// A stamp tells one state of a host folder from another.
type stamp struct {
	dir       string    // "" when no folder applies
	dirTime   time.Time // changes when certificates come and go
	tomlTime  time.Time
	tomlBytes int64
}

func newHostTable(o Options) *hostTable {
	t := newTransport(o.StallTimeout)
	return &hostTable{
		opts:      o,
		dir:       hostDir(filepath.SplitList(o.ConfigPath)),
		transport: t,
		fan:       newFan(t),
		lists:     make(map[string]*hostList),
	}
}

// hostDir finds a host's folder in the first root that has one, as containerd's CRI plugin does.
func hostDir(roots []string) func(string) (string, error) {
	return func(namespace string) (string, error) {
		for _, root := range roots {
			dir, err := config.HostDirFromRoot(root)(namespace)
			if err == nil || !errdefs.IsNotFound(err) {
				return dir, err
			}
		}
		return "", nil
	}
}

func (t *hostTable) get(ctx context.Context, namespace string) (*hostList, error) {
	s, err := t.stamp(namespace)
	if err != nil {
		return nil, err
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if l := t.lists[namespace]; l != nil && l.stamp == s {
		return l, nil
	}
	hosts, err := t.load(ctx, namespace, s.dir)
	if err != nil {
		return nil, err
	}
	l := &hostList{hosts: hosts, fans: t.fans(hosts), stamp: s}
	t.lists[namespace] = l
	return l, nil
}

func (t *hostTable) fans(hosts []docker.RegistryHost) []*fan {
	fans := make([]*fan, len(hosts))
	for i, h := range hosts {
		if fans[i] = t.fan; h.Client.Transport != t.transport {
			fans[i] = newFan(h.Client.Transport)
		}
	}
	return fans
}

func (t *hostTable) stamp(namespace string) (stamp, error) {
	dir, err := t.dir(namespace)
	if err != nil || dir == "" {
		return stamp{}, err
	}
	s := stamp{dir: dir}
	if info, err := os.Stat(dir); err == nil {
		s.dirTime = info.ModTime()
	}
	if info, err := os.Stat(filepath.Join(dir, "hosts.toml")); err == nil {
		s.tomlTime, s.tomlBytes = info.ModTime(), info.Size()
	}
	return s, nil
}

// load lets containerd read the configuration, and gives the clients that it makes our transport. containerd calls
// UpdateClient first for the client of all hosts without settings of their own, then for each that has some, whose
// transport is a clone with those settings in it.
func (t *hostTable) load(ctx context.Context, namespace, dir string) ([]docker.RegistryHost, error) {
	common := true
	opts := config.HostOptions{
		HostDir: func(string) (string, error) { return dir, nil },
		UpdateClient: func(c *http.Client) error {
			own, ok := c.Transport.(*http.Transport)
			switch {
			case common:
				c.Transport, common = t.transport, false
			case ok && own != t.transport:
				tune(own, t.opts.StallTimeout)
			}
			return nil
		},
	}
	if t.opts.PlainHTTP {
		opts.DefaultScheme = "http"
	}
	hosts, err := config.ConfigureHosts(ctx, opts)(namespace)
	for i := range hosts {
		hosts[i].Authorizer = nil // ours are per repository
	}
	return hosts, err
}

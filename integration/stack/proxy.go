package stack

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// ProxyOptions are another snapshotter than Sluice, as a process of its own that containerd reaches through proxy_plugins. "$NODE" in Command,
// Socket, Files and Exports stands for the node's folder.
type ProxyOptions struct {
	Name    string            // of the proxy plugin, and of the snapshotter for ctr
	Command []string          // program and arguments
	Socket  string            // that it listens on
	Exports map[string]string // of the plugin's configuration
	Files   map[string]string // name below the node's folder to content, written before the start
}

// proxy is one entry of containerd's proxy_plugins.
type proxy struct {
	Name, Socket string
	Exports      map[string]string
	Capabilities []string
}

// proxies are the snapshotters that n's containerd finds besides its own.
func (n *Node) proxies() []proxy {
	var all []proxy
	if n.options.Daemon != nil {
		exports := map[string]string{"root": n.path("sluice"), "enable_remote_snapshot_annotations": "true"}
		all = append(all, proxy{"sluice", n.path("sluice.sock"), exports, n.options.Daemon.Capabilities})
	}
	if o := n.options.Proxy; o != nil {
		exports := maps.Clone(o.Exports)
		for key, value := range exports {
			exports[key] = n.expand(value)
		}
		all = append(all, proxy{o.Name, n.expand(o.Socket), exports, nil})
	}
	return all
}

// expand puts the node's folder into a text.
func (n *Node) expand(text string) string { return strings.ReplaceAll(text, "$NODE", n.dir) }

// startProxy starts the other snapshotter and waits until it listens.
func (n *Node) startProxy(ctx context.Context) error {
	o := n.options.Proxy
	if len(o.Command) == 0 {
		return fmt.Errorf("start %s: no command", o.Name)
	}
	for _, name := range slices.Sorted(maps.Keys(o.Files)) {
		path := n.path(name)
		err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o755), os.WriteFile(path, []byte(n.expand(o.Files[name])), 0o644))
		if err != nil {
			return fmt.Errorf("start %s: %w", o.Name, err)
		}
	}
	args := make([]string, len(o.Command))
	for i, a := range o.Command {
		args[i] = n.expand(a)
	}
	p, err := command{name: o.Name, log: n.path(o.Name + ".log"), path: args[0], args: args[1:], env: n.env()}.start()
	if err != nil {
		return err
	}
	n.proxy = p
	return poll(ctx, p, func(ctx context.Context) error { return dial(ctx, n.expand(o.Socket)) })
}

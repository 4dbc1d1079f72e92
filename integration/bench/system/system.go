// Package system lists what the benchmark suite compares: a snapshotter, the form of image that it starts from, and its configuration.
package system

import (
	"context"
	"fmt"
	"maps"
	"strings"

	"github.com/sluice-snapshotter/sluice/integration/bench/result"
	"github.com/sluice-snapshotter/sluice/integration/stack"
)

// Form is a form of an image: the tag that it has in the registry.
type Form string

// The forms that the suite makes. A peer may bring others, see System.Convert.
const (
	Plain    Form = "plain"         // as a builder makes it
	ESGZ     Form = "esgz"          // eStargz without a prefetch list
	Prefetch Form = "esgz-prefetch" // eStargz with one
	Zstd     Form = "zstd"          // zstd:chunked with the same list
)

// System is one competitor.
type System struct {
	Name        string // in the report
	Snapshotter string // containerd's name of it
	Form        Form
	Convert     string   // shell script that makes the form; "" where the suite makes it
	Version     []string // command that prints the snapshotter's version; nil for Sluice and containerd

	node stack.NodeOptions
}

// Settings are the daemon's configuration: its defaults, and hosts and manifests from the node's own folders.
const Settings = `[registry]
config_path = "$NODE/certs.d"
content_path = "$NODE/root/io.containerd.content.v1.content"
`

// Overlayfs is the baseline: containerd's own snapshotter with the ordinary image.
var Overlayfs = System{Name: result.Baseline, Snapshotter: "overlayfs", Form: Plain}

// Sluice is a system of this checkout's daemon; more is TOML that comes before the suite's own settings.
func Sluice(name string, form Form, more string) System {
	o := stack.NodeOptions{Daemon: &stack.DaemonOptions{TOML: more + Settings, Args: []string{"--log-level", "info"}}}
	return System{Name: name, Snapshotter: "sluice", Form: form, node: o}
}

// Own are the baseline and the ways to use Sluice.
func Own() []System {
	return []System{
		Overlayfs,
		Sluice("sluice", Plain, ""),
		Sluice("sluice esgz", ESGZ, ""),
		Sluice("sluice esgz prefetch", Prefetch, ""),
		Sluice("sluice zstd", Zstd, ""),
	}
}

// Lazy says whether the system starts from pieces of its image: all do but those that bring ordinary images.
func (s System) Lazy() bool { return s.Form != Plain }

// Own says whether it is Sluice.
func (s System) Own() bool { return s.node.Daemon != nil }

// Start starts a node of the system with empty stores, for images in reg. The caller closes it.
func (s System) Start(ctx context.Context, reg *stack.Registry) (*stack.Node, error) {
	o := s.node
	if o.Proxy != nil {
		o.Proxy = forRegistry(o.Proxy, reg.Ref(""))
	}
	n, err := stack.StartNode(ctx, o)
	if err != nil {
		return nil, fmt.Errorf("start %s: %w", s.Name, err)
	}
	return n, nil
}

// forRegistry puts the registry's address for $REGISTRY.
func forRegistry(o *stack.ProxyOptions, address string) *stack.ProxyOptions {
	c := *o
	c.Files = maps.Clone(o.Files)
	for name, text := range c.Files {
		c.Files[name] = strings.ReplaceAll(text, "$REGISTRY", strings.TrimSuffix(address, "/"))
	}
	return &c
}

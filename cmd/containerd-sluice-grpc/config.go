package main

import (
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/sirupsen/logrus"

	"github.com/sluice-snapshotter/sluice/cache"
	"github.com/sluice-snapshotter/sluice/fs"
)

// config is the configuration file. The doc tags are the comments of `config
// default`, and newConfig holds the values, so that neither can drift from what
// the program does. A value that has rules has a type that checks them, and so
// an error can name the line.
type config struct {
	Root           directory `toml:"root" doc:"Directory of what has to survive a reboot: layers and snapshots. containerd's\nconfiguration names it too, as exports.root of the proxy plugin."`
	State          directory `toml:"state" doc:"Directory of what need not: the socket and the mounts."`
	Address        socket    `toml:"address" doc:"Unix socket to serve on. Empty: containerd-sluice-grpc.sock in the state directory."`
	MetricsAddress address   `toml:"metrics_address" doc:"host:port for Prometheus metrics (/metrics) and profiles (/debug/pprof/). Empty: off."`
	LogLevel       level     `toml:"log_level" doc:"One of trace, debug, info, warn, error."`
	Mount          mount     `toml:"mount" doc:"How layers are mounted. \"auto\": by the kernel's EROFS where it has it, else over FUSE.\n\"erofs\", \"fuse\": only so. \"loop\": by EROFS on loop devices, which \"auto\" and \"erofs\"\nuse where the kernel cannot mount a file (before Linux 6.12)."`
	Native         bool      `toml:"native" doc:"Mount layers of which all is on disk without FUSE, for the containers that start from then on."`
	ReadAhead      size      `toml:"readahead" doc:"How far the kernel reads ahead in the files of a mount, in whole KiB. Once all of a layer is there: as\nfar as on the disk of the root directory, if that is more; with EROFS before that: 128KiB at most."`
	Volatile       bool      `toml:"volatile" doc:"Do not sync what containers write (overlayfs's \"volatile\"): faster, and what they wrote may be\nlost or incomplete when the host crashes. A container from before a reboot does not start again."`

	Registry registryConfig `toml:"registry" doc:"Where layers come from."`
	Fetch    fetchConfig    `toml:"fetch" doc:"How layers are fetched."`
	Cache    cacheConfig    `toml:"cache" doc:"What layers may take of the disk of the root directory. Beyond that, layers that no container uses are removed,\nthose first that were not used for the longest time, and then contents of those in use, which are fetched\nagain when they are read. What can't be removed is not stored in the first place."`
}

type registryConfig struct {
	ConfigPath   string   `toml:"config_path" doc:"Folders of hosts.toml files, separated by colons, as in containerd's configuration."`
	ContentPath  string   `toml:"content_path" doc:"Folder of containerd's content store. It has the manifests of the images that are being pulled, which\nare not fetched a second time then. Empty, or not there: they are."`
	MaxAttempts  count    `toml:"max_attempts" doc:"How often one host is tried in a row without a byte of progress; one that says 429 or 503 to us and\nanswers others meanwhile, eight times as often."`
	StallTimeout duration `toml:"stall_timeout" doc:"A response that brings nothing for so long is given up and asked for again."`
}

type fetchConfig struct {
	MemoryLimit        limit    `toml:"memory_limit" doc:"Most memory for everything that is being fetched, however big a layer is."`
	Concurrency        count    `toml:"concurrency" doc:"Most ranges that are fetched at once, over all layers."`
	Background         bool     `toml:"background" doc:"Fetch the rest of each layer when nothing more urgent is to be done."`
	BackgroundLimit    size     `toml:"background_limit" doc:"Most bytes a second that this fetches, over all layers together. \"0\": as many as come."`
	BackgroundPressure percent  `toml:"background_pressure" doc:"It begins nothing while the kernel says that in more than so many percent of the last ten seconds\na task stalled on IO (the first number of /proc/pressure/io). 0: this does not matter."`
	Verify             verify   `toml:"verify" doc:"\"whole\": once all of a lazy layer is there, its tar's digest is computed and compared with what its\nimage says. A layer that is another one is not read any more, and not mounted again. Until then it is read\nthrough FUSE. \"chunks\": only what its TOC says is checked. Empty: \"whole\" where background is on."`
	Plain              bool     `toml:"plain" doc:"Take plain layers, which have no table of contents, too: each is fetched as a whole and checked before\nit is mounted. Otherwise containerd downloads and unpacks them, and all layers above them."`
	SmallLayers        size     `toml:"small_layers" doc:"An image's smallest lazy layers, of at most 1 MiB each, come whole with their tables of contents, so many\nbytes of them together. \"0\": none."`
	PrefetchTimeout    duration `toml:"prefetch_timeout" doc:"Longest time that a container's start waits for the files it is known to read first.\n\"0s\": not at all."`

	Image     []imageConfig     `toml:"image" doc:"Tables for images that are treated otherwise. The first one that matches counts, and each has all of\nthese keys. match is a pattern, where * and ? stand for anything but a slash, of the image's reference\nor of its beginning, up to a slash, a colon or an @.\n  [[fetch.image]]\n  match = \"registry.example.com/ml\"\n  background = false"`
	Untrusted []untrustedConfig `toml:"untrusted" doc:"Tables for images that are not trusted. Each of their layers is fetched as a whole and proven before it is\nmounted, whatever stands above; one that is not what its image says is never mounted, and the pull fails.\nmatch is a pattern as above.\n  [[fetch.untrusted]]\n  match = \"registry.example.com/guests\""`
}

type cacheConfig struct {
	Limit         size    `toml:"limit" doc:"Most bytes for layers. \"0\": as many as the next key allows."`
	LimitPercent  percent `toml:"limit_percent" doc:"Most percent of the file system for layers. 0: as many as the key before allows; if both are 0, all."`
	HighWatermark percent `toml:"high_watermark" doc:"Percent of the limit from which on room is made, and nothing is fetched in the background."`
	LowWatermark  percent `toml:"low_watermark" doc:"Percent of the limit down to which room is made. Above it, layers that become complete stay on FUSE, so that\ntheir contents can be removed."`
}

// leastCache is the least limit that makes sense: a chunk may have several MiB.
const leastCache = 16 << 20

// quota is what the settings make of a file system of size bytes.
func (c cacheConfig) quota(size int64) (q cache.Quota) {
	q.Limit = c.Limit.bytes
	if share := size / 100 * int64(c.LimitPercent); share > 0 && (q.Limit == 0 || share < q.Limit) {
		q.Limit = share
	}
	q.High, q.Low = q.Limit/100*int64(c.HighWatermark), q.Limit/100*int64(c.LowWatermark)
	return q
}

// imageConfig is for images, in place of what stands in fetchConfig.
type imageConfig struct {
	Match      pattern `toml:"match" doc:"Which images this is for."`
	Background bool    `toml:"background" doc:"Fetch the rest of each layer of theirs."`
}

// untrustedConfig names images that are not trusted.
type untrustedConfig struct {
	Match pattern `toml:"match" doc:"Which images are not trusted."`
}

// distrusts says whether layers of an image are proven before they are mounted. Capitals in the name of a host lead to the same one.
func (c fetchConfig) distrusts(ref string) bool {
	return slices.ContainsFunc(c.Untrusted, func(image untrustedConfig) bool {
		return image.Match.matches(ref) || image.Match.matches(strings.ToLower(ref))
	})
}

// background says whether all of an image is fetched.
func (c fetchConfig) background(ref string) bool {
	for _, image := range c.Image {
		if image.Match.matches(ref) {
			return image.Background
		}
	}
	return c.Background
}

// proves says whether layers of an image are proven as a whole.
func (c fetchConfig) proves(ref string) bool {
	if c.Verify.string == "" {
		return c.background(ref)
	}
	return c.Verify.string == verifyWhole
}

// newConfig returns the default configuration.
func newConfig() config {
	return config{
		Root:      directory{"/var/lib/containerd-sluice-grpc"},
		State:     directory{"/run/containerd-sluice-grpc"},
		LogLevel:  level{logrus.InfoLevel},
		Mount:     mount{fs.Auto},
		Native:    true,
		ReadAhead: size{2 << 20},
		Registry: registryConfig{
			ConfigPath:   "/etc/containerd/certs.d",
			ContentPath:  "/var/lib/containerd/io.containerd.content.v1.content",
			MaxAttempts:  8,
			StallTimeout: duration{30 * time.Second},
		},
		Fetch: fetchConfig{
			MemoryLimit:     limit{size{256 << 20}},
			Concurrency:     16,
			Background:      true,
			Plain:           true,
			SmallLayers:     size{2 << 20},
			PrefetchTimeout: duration{10 * time.Second},
		},
		Cache: cacheConfig{LimitPercent: 80, HighWatermark: 95, LowWatermark: 85},
	}
}

// socket is the path of the unix socket.
func (c config) socket() string {
	if c.Address.string != "" {
		return c.Address.string
	}
	return filepath.Join(c.State.string, "containerd-sluice-grpc.sock")
}

// check says what is wrong with keys together, after the flags.
func (c config) check() error {
	if err := (&socket{c.socket()}).check(); err != nil {
		return fmt.Errorf("state: its socket %w", err) // an address of its own is checked already
	}
	if limit := c.Cache.Limit.bytes; limit > 0 && limit < leastCache {
		return fmt.Errorf("cache: limit is %s, which is less than %s", &c.Cache.Limit, &size{leastCache})
	}
	if low, high := c.Cache.LowWatermark, c.Cache.HighWatermark; low == 0 || low >= high {
		return fmt.Errorf("cache: low_watermark is %d, which is not more than 0 and less than high_watermark, %d", low, high)
	}
	return nil
}

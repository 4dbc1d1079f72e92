package fs

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"iter"
	"path"
	"slices"
	"strings"
	"sync/atomic"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/sluice-snapshotter/sluice/fs/linker"
)

// What a container runs is mostly what its image says, and there is time to fetch it while the container is made. Its arguments are in nobody's
// hands yet then, so that those which are given to it later are not known.

const (
	maxCommands = 4 // that are seen to at a time, of a node

	// Of one command, and of each script that it leads to.
	maxArguments = 16      // that are looked at, and folders of PATH
	maxArgument  = 4 << 10 // bytes of one that is, or of such a folder: those of a path
	maxFiles     = 32      // that are looked into, of all together

	scriptLine = 256 // bytes of a script that the kernel looks at (BINPRM_BUF_SIZE)

	// usualPath is the PATH that containerd gives to containers whose image has none.
	usualPath = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
)

// expectCommand begins to fetch what the command of an image with the layers ds, the topmost first, begins with. A prefetch list knows better.
func (f *FS) expectCommand(ds []digest.Digest) {
	if len(ds) == 0 {
		return
	}
	m, err := f.lookup(ds[0])
	if err != nil {
		return
	}
	manifests := []digest.Digest{m.src.Manifest}
	if d := m.shown.topOf.Load(); d != nil {
		manifests = []digest.Digest{*d, m.src.Manifest}
	}
	f.lookAhead(&f.commands, maxCommands, ds, func(ctx context.Context, k *linking) {
		if k.listed {
			return
		}
		config, err := f.config(manifests, ds)
		if err != nil {
			m.shown.logger.WithError(err).Debug("the image's command is not fetched ahead")
			return
		}
		c := &command{linking: k, dirs: folders(config.Env), workingDir: config.WorkingDir}
		c.left.Store(maxFiles)
		c.run(ctx, slices.Concat(config.Entrypoint, config.Cmd))
	})
}

// commanded reports whether it is known what a container of an image runs.
func (f *FS) commanded(manifest digest.Digest) bool {
	_, config, err := f.opts.Registry.Image(manifest)
	return err == nil && len(config.Entrypoint)+len(config.Cmd) > 0
}

// config returns the configuration of the first of some images that has the layers ds, as far as containerd has it.
func (f *FS) config(manifests, ds []digest.Digest) (ocispec.ImageConfig, error) {
	var errs []error
	for _, d := range manifests {
		m, config, err := f.opts.Registry.Image(d)
		if err == nil && !slices.Equal(topmostFirst(m), ds) {
			err = fmt.Errorf("manifest %s: has other layers than the container", d)
		}
		if err == nil {
			return config, nil
		}
		errs = append(errs, err)
	}
	return ocispec.ImageConfig{}, errors.Join(errs...)
}

// topmostFirst are the digests of an image's layers.
func topmostFirst(layers []ocispec.Descriptor) (ds []digest.Digest) {
	for _, desc := range slices.Backward(layers) {
		ds = append(ds, desc.Digest)
	}
	return ds
}

// listed reports whether one of the layers has a prefetch list.
func (f *FS) listed(ds []digest.Digest) (yes bool) {
	f.withChain(ds, func(c chain) { yes = c.listed() })
	return yes
}

func (c chain) listed() bool {
	return slices.ContainsFunc(c, func(l *shown) bool { return l.layer.Store().Info().PrefetchChunks > 0 })
}

// command is what an image's configuration says that is to be run.
type command struct {
	*linking
	dirs       []string // of PATH
	workingDir string
	left       atomic.Int64 // files that may be looked into
}

// run sees to the files that arguments name: programs, and scripts with what interprets them. Many commands are scripts or programs that run what
// their arguments say.
func (c *command) run(ctx context.Context, args []string) {
	for _, arg := range args[:min(len(args), maxArguments)] {
		if arg != "" && arg[0] != '-' && len(arg) <= maxArgument {
			c.wg.Go(func() { c.argument(ctx, arg) })
		}
	}
}

func (c *command) argument(ctx context.Context, arg string) {
	o, ok := c.find(arg)
	if !ok || c.left.Add(-1) < 0 {
		return
	}
	var ends extents
	ends.add(o, o.ends()...)
	c.expect(ends)
	line := make([]byte, min(scriptLine, o.size))
	if err := c.read(ctx, o, line); err != nil {
		o.logger.WithError(err).Debug("an argument of the image's command is not fetched ahead")
		return
	}
	switch {
	case bytes.HasPrefix(line, []byte(linker.Magic)):
		c.imports(o)
		if c.add(o) {
			c.begin(ctx, o)
		}
	case bytes.HasPrefix(line, []byte("#!")):
		line, _, _ = bytes.Cut(line[2:], []byte("\n"))
		c.run(ctx, strings.Fields(string(line)))
	}
}

// find finds the file of the image that an argument names.
func (c *command) find(arg string) (o extent, ok bool) {
	c.fs.withChain(c.chain, func(layers chain) {
		for p := range c.paths(arg) {
			if o, ok = layers.file(p, c.looks); ok {
				return
			}
		}
	})
	return o, ok
}

// paths are those that an argument may mean, the likeliest first.
func (c *command) paths(arg string) iter.Seq[string] {
	return func(yield func(string) bool) {
		if path.IsAbs(arg) {
			yield(arg)
			return
		}
		if !strings.Contains(arg, "/") {
			for _, dir := range c.dirs {
				if !yield(dir + "/" + arg) {
					return
				}
			}
		}
		if len(c.workingDir) <= maxArgument {
			yield(c.workingDir + "/" + arg)
		}
	}
}

// read reads the beginning of a file.
func (c *command) read(ctx context.Context, o extent, p []byte) error {
	c.reading <- struct{}{}
	defer func() { <-c.reading }()
	_, err := contents{ctx, c.expect, o}.ReadAt(p, 0)
	return err
}

// folders are those of the last PATH of an environment.
func folders(env []string) (dirs []string) {
	list := ""
	for _, v := range env {
		if p, ok := strings.CutPrefix(v, "PATH="); ok {
			list = p
		}
	}
	for dir := range strings.SplitSeq(cmp.Or(list, usualPath), ":") {
		if len(dirs) == maxArguments {
			break
		}
		if path.IsAbs(dir) && len(dir) <= maxArgument {
			dirs = append(dirs, dir)
		}
	}
	return dirs
}

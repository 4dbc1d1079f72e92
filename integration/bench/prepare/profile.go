package prepare

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/sluice-snapshotter/sluice/integration/bench/system"
	"github.com/sluice-snapshotter/sluice/integration/checkout"
	"github.com/sluice-snapshotter/sluice/integration/stack"
)

// Profile is what a program needs of its image.
type Profile struct {
	Files  []File `json:"files"`  // that it opens, in order
	Output string `json:"output"` // what it prints
}

// File is a file of an image, and how much of it is in the page cache after a run that began with an empty one: what was read, and what the
// kernel read ahead.
type File struct {
	Path   string        `json:"path"`
	Ranges string        `json:"ranges"` // of the pages, as prefetch lists have them; "" for all of the file
	Bytes  int64         `json:"bytes"`  // of these pages, compressed as an ordinary layer is
	Digest digest.Digest `json:"digest"` // of them
}

// profileVersion is part of a profile's name, so that a change of what is recorded makes another.
const profileVersion = 4

// profile returns what s needs, from the cache or from a run.
func (m *Maker) profile(ctx context.Context, s Subject) (p Profile, err error) {
	dir, err := checkout.Cache("images")
	if err != nil {
		return p, err
	}
	key := digest.FromString(fmt.Sprintf("%d %s %q", profileVersion, s.Image.Target.Digest, s.Args)).Encoded()[:16]
	path := filepath.Join(dir, fmt.Sprintf("bench-%s-%s.json", s.Name, key))
	text, err := os.ReadFile(path)
	if err == nil {
		return p, json.Unmarshal(text, &p)
	}
	if !errors.Is(err, os.ErrNotExist) {
		return p, err
	}
	m.Progress("recording what %s needs", s.Name)
	if p, err = m.record(ctx, s); err != nil {
		return p, fmt.Errorf("record: %w", err)
	}
	if text, err = json.Marshal(p); err != nil {
		return p, err
	}
	if err := os.WriteFile(path+".new", text, 0o644); err != nil {
		return p, err
	}
	return p, os.Rename(path+".new", path)
}

// recording is Sluice as it is when a container starts from an image that has not come yet. Its mounts stay as they are then: nothing is
// fetched but what is read.
var recording = system.Sluice("recording", system.ESGZ, "[fetch]\nbackground = false\n")

// record runs s on a lazy mount that a recorder watches.
func (m *Maker) record(ctx context.Context, s Subject) (p Profile, err error) {
	im, err := m.convert(ctx, s, recording.Form, nil)
	if err != nil {
		return p, err
	}
	if err := im.Push(ctx, m.Ref(s.Name, recording.Form)); err != nil {
		return p, err
	}
	n, err := recording.Start(ctx, m.Registry)
	if err != nil {
		return p, err
	}
	defer func() { err = errors.Join(err, n.Close()) }()
	c := stack.Container{Ref: m.Ref(s.Name, recording.Form), Snapshotter: recording.Snapshotter, Flags: []string{"--rw"}}
	if err := n.Pull(ctx, c); err != nil {
		return p, err
	}
	root, err := os.MkdirTemp("", "record")
	if err != nil {
		return p, err
	}
	defer func() { err = errors.Join(err, os.Remove(root)) }()
	if err := n.Mount(ctx, c, root); err != nil {
		return p, err
	}
	defer func() { err = errors.Join(err, n.Unmount(context.WithoutCancel(ctx), c, root)) }()
	flags, args, err := command(s)
	if err != nil {
		return p, err
	}
	p.Files, err = watch(root, func() (err error) {
		p.Output, err = n.Run(ctx, stack.Container{Ref: root, Args: args, Flags: append(flags, "--rootfs")})
		return err
	})
	return p, err
}

// command is what ctr takes from an image's configuration, for a container without an image.
func command(s Subject) (flags, args []string, err error) {
	text, err := os.ReadFile(filepath.Join(s.Image.Dir, ocispec.ImageBlobsDir, "sha256", s.Image.Manifest.Config.Digest.Encoded()))
	if err != nil {
		return nil, nil, err
	}
	var config ocispec.Image
	if err := json.Unmarshal(text, &config); err != nil {
		return nil, nil, err
	}
	for _, e := range config.Config.Env {
		flags = append(flags, "--env", e)
	}
	if s.Args != nil {
		return flags, s.Args, nil
	}
	return flags, append(config.Config.Entrypoint, config.Config.Cmd...), nil
}

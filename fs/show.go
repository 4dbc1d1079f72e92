package fs

import (
	"context"
	"fmt"
	"path/filepath"

	"github.com/opencontainers/go-digest"
)

// Mounted says whether Path has an answer for a layer.
func (f *FS) Mounted(d digest.Digest) bool {
	m, err := f.lookup(d)
	return err == nil && m.appears.is()
}

// Path returns the best folder of the moment that shows a mounted layer. It stays for holder until Drop; what was mounted
// on top of it by then stays good in any case. The error is fs.ErrNotExist if the layer is not mounted.
func (f *FS) Path(d digest.Digest, holder string) (string, error) {
	m, err := f.lookup(d)
	if err != nil {
		return "", fmt.Errorf("path of layer %s: %w", d, err)
	}
	path, err := m.ways.hold(holder)
	if err != nil {
		return "", fmt.Errorf("path of layer %s: %w", d, err)
	}
	m.used.take(m.shown.layer.Store())
	return path, nil
}

// HasWhiteouts reports whether a mounted layer takes names from those below it, or that cannot be told. It takes as long as a walk through
// the layer.
func (f *FS) HasWhiteouts(d digest.Digest) bool {
	l, ok := f.enter(d)
	if !ok {
		return true
	}
	defer l.users.Done()
	return l.image.HasWhiteouts()
}

// Drop ends what Path has promised to holder, for all layers.
func (f *FS) Drop(holder string) {
	had := false
	for _, m := range f.allStanding() {
		if m.ways.drop(holder) {
			m.used.touch(m.shown.layer.Store())
			f.drops.Add(1)
			had = true
		}
	}
	if had {
		f.opts.Store.Press()
	}
}

// MountDir is where this process mounts layers: a folder in Options.MountDir.
func (f *FS) MountDir() string { return f.opts.MountDir }

// show mounts the layer for the first time.
func (f *FS) show(ctx context.Context, m *mounted) error {
	st := m.shown.layer.Store()
	if f.native() && st.Sealed() && !f.proves(m) { // one that is complete, but not sealed, may have to be hashed first: complete does that
		err := f.showNative(ctx, m)
		if err == nil {
			return nil
		}
		m.shown.logger.WithError(err).Warn(staysLazy)
	}
	if f.erofs == nil {
		m.ways.add(fuseTree, filepath.Join(f.server.full.dir, treeName(m.shown.id)))
		return nil
	}
	path, err := f.lazy(ctx, m)
	if err != nil {
		return err
	}
	m.ways.add(erofsOnFUSE, path)
	return nil
}

// lazy mounts a layer on its blob.
func (f *FS) lazy(ctx context.Context, m *mounted) (string, error) {
	st := m.shown.layer.Store()
	blob := filepath.Join(f.server.full.dir, blobName(m.shown.id))
	path, err := f.erofs.lazy(ctx, m.shown.id, st.MetadataPath(), blob)
	if err != nil {
		if !f.server.check() {
			err = fmt.Errorf("%w: %w", errCutOff, err)
		}
		return "", err
	}
	if st.Complete() { // it is mounted again: complete has seen to the mount before
		f.erofs.readFarAhead(ctx, m.shown.id, st.DataPath())
	}
	return path, nil
}

// native says whether complete layers get native mounts.
func (f *FS) native() bool { return f.erofs != nil && !f.opts.NoNative }

// showNative mounts a layer that is complete on its data file.
func (f *FS) showNative(ctx context.Context, m *mounted) error {
	st := m.shown.layer.Store()
	if err := st.Seal(ctx); err != nil {
		return err
	}
	path, err := f.onDataFile(ctx, m)
	if err != nil {
		return err
	}
	m.ways.add(erofsNative, path)
	return nil
}

func (f *FS) onDataFile(ctx context.Context, m *mounted) (string, error) {
	st := m.shown.layer.Store()
	return f.erofs.native(ctx, m.shown.id, st.MetadataPath(), st.DataPath())
}

// standing reports whether a way is mounted where it was.
func (f *FS) standing(w way) bool {
	if w.kind == fuseTree {
		return f.server.check()
	}
	return isMountPoint(w.path)
}

// remount mounts one that is not.
func (f *FS) remount(ctx context.Context, m *mounted, w way) (err error) {
	switch w.kind {
	case erofsNative:
		_, err = f.onDataFile(ctx, m)
	case erofsOnFUSE:
		_, err = f.lazy(ctx, m)
	default:
		err = errCutOff
	}
	return err
}

func (f *FS) unmountWay(w way) error {
	if w.kind == fuseTree { // a folder of the server's own mount
		return nil
	}
	return f.erofs.unmount(w.path)
}

package fs

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/sluice-snapshotter/sluice/cache"
	"github.com/sluice-snapshotter/sluice/fs/metadata"
)

// State is how far a layer is.
type State string

// The states of a layer.
const (
	Lazy     State = "lazy"     // some of it has to be fetched when it is read
	Complete State = "complete" // all of it is on disk
	Failed   State = "failed"   // fetching it failed, last time; or it is not what its image claims, and cannot be read
)

// Status is what is to be said of one mounted layer.
type Status struct {
	Digest  digest.Digest
	Image   string // reference that it was mounted for first
	Format  string // of the blob: estargz, zstd:chunked; of a plain layer gzip, zstd, tar
	State   State
	Size    int64 // bytes, uncompressed
	Fetched int64 // of those, bytes on disk
	InUse   bool  // by a container
	LastUse time.Time
	// Unproven says that it is mounted on the word of its TOC: what it has to be is known, and it is compared with that once all of it is there.
	Unproven bool
	Mounts   []string // kinds of its mounts: erofs, erofs-fuse or fuse; the last is that of the next container
}

// Mount is the kind of mount that the next container gets, "" if the layer is on its way out.
func (s Status) Mount() string {
	if len(s.Mounts) == 0 {
		return ""
	}
	return s.Mounts[len(s.Mounts)-1]
}

// Status returns that of all mounted layers, in the order of their digests.
func (f *FS) Status() []Status {
	var out []Status
	for _, m := range f.all() {
		out = append(out, f.status(m))
	}
	slices.SortFunc(out, func(a, b Status) int { return strings.Compare(string(a.Digest), string(b.Digest)) })
	return out
}

func (f *FS) status(m *mounted) Status {
	st := m.shown.layer.Status()
	state := Lazy
	switch {
	case m.shown.refused.Load():
		state = Failed
	case st.Complete:
		state = Complete
	case st.Err != nil:
		state = Failed
	}
	return Status{
		Digest:   m.src.Digest,
		Image:    m.src.Ref,
		Format:   st.Format,
		State:    state,
		Size:     st.Size,
		Fetched:  st.Fetched,
		InUse:    m.ways.held(),
		LastUse:  time.Unix(0, m.used.at.Load()),
		Unproven: f.proves(m),
		Mounts:   m.ways.kinds(),
	}
}

// Usage returns the bytes on disk and the inodes of a layer in the store, mounted or not. The error is fs.ErrNotExist
// if it is not there.
func (f *FS) Usage(d digest.Digest) (bytes, inodes int64, err error) {
	l, err := f.opts.Store.Get(d)
	if err != nil {
		return 0, 0, fmt.Errorf("usage: %w", err)
	}
	bytes, inodes, err = usage(l)
	if err = errors.Join(err, l.Close()); err != nil {
		return 0, 0, fmt.Errorf("usage of layer %s: %w", d, err)
	}
	return bytes, inodes, nil
}

func usage(l *cache.Layer) (bytes, inodes int64, err error) {
	if bytes, err = l.Usage(); err != nil {
		return 0, 0, err
	}
	im, err := metadata.Open(l.MetadataPath())
	if err != nil {
		return 0, 0, err
	}
	return bytes, int64(im.NumInodes()), im.Close()
}

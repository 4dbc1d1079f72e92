package endpoint

import (
	"archive/tar"
	"context"
	"errors"
	"fmt"
	"os"
	"sync"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// NewArchiveTarget writes a new image to a tar of an OCI image layout. It grows in a file beside its own place and
// replaces what is there when it is whole.
func NewArchiveTarget(file, tag string) (Target, error) {
	t := &archiveTarget{spec: Spec{KindArchive, file, orDefault(tag)}, have: make(map[digest.Digest]bool)}
	if info, err := os.Stat(file); err == nil && !info.Mode().IsRegular() {
		return nil, fmt.Errorf("open %s: not a regular file", t.spec)
	}
	f, err := createBeside(file)
	if err != nil {
		return nil, fmt.Errorf("open %s: %w", t.spec, err)
	}
	t.file, t.tar = f, tar.NewWriter(f)
	return t, nil
}

type archiveTarget struct {
	spec   Spec
	tagged bool

	mu   sync.Mutex // a tar takes one member at a time
	file *os.File
	tar  *tar.Writer
	have map[digest.Digest]bool
	err  error // of a member that was not written whole: nothing can follow it
}

func (t *archiveTarget) String() string { return t.spec.String() }

func (t *archiveTarget) Push(ctx context.Context, desc ocispec.Descriptor, open Opener) error {
	if err := desc.Digest.Validate(); err != nil {
		return fmt.Errorf("write blob %q: %w", desc.Digest, err)
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.err != nil || t.have[desc.Digest] {
		return t.err
	}
	if t.err = t.write(ctx, blobPath(desc.Digest), desc, open); t.err != nil {
		t.err = fmt.Errorf("write blob %s: %w", desc.Digest, t.err)
		return t.err
	}
	t.have[desc.Digest] = true
	return nil
}

func (t *archiveTarget) write(ctx context.Context, name string, desc ocispec.Descriptor, open Opener) error {
	err := t.tar.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: name, Mode: 0o644, Size: desc.Size})
	if err != nil {
		return err
	}
	return pour(ctx, t.tar, desc, open)
}

func (t *archiveTarget) document(ctx context.Context, name string, raw []byte) error {
	desc := ocispec.Descriptor{Digest: digest.FromBytes(raw), Size: int64(len(raw))}
	return t.write(ctx, name, desc, Bytes(raw))
}

func (t *archiveTarget) Tag(ctx context.Context, root ocispec.Descriptor, raw []byte) error {
	if err := t.Push(ctx, root, Bytes(raw)); err != nil {
		return err
	}
	index, err := setTag(nil, root, t.spec.Name)
	if err != nil {
		return fmt.Errorf("tag %s: %w", t.spec, err)
	}
	err = errors.Join(
		t.document(ctx, ocispec.ImageLayoutFile, []byte(layoutVersion)),
		t.document(ctx, ocispec.ImageIndexFile, index),
		t.tar.Close(), t.file.Sync())
	if err != nil {
		return fmt.Errorf("write %s: %w", t.spec, err)
	}
	if err := os.Rename(t.file.Name(), t.spec.Path); err != nil {
		return err
	}
	t.tagged = true
	return nil
}

func (t *archiveTarget) Close() error {
	err := t.file.Close()
	if !t.tagged {
		err = errors.Join(err, os.Remove(t.file.Name()))
	}
	return err
}

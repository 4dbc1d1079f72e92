package endpoint

import (
	"archive/tar"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// NewArchiveSource reads an image from an uncompressed tar of an OCI image layout, in place. Tags as with
// NewLayoutSource.
func NewArchiveSource(file, tag string) (Source, error) {
	s := &archiveSource{spec: Spec{KindArchive, file, tag}}
	f, err := os.Open(file)
	if err != nil {
		return nil, fmt.Errorf("open %s: %w", s.spec, err)
	}
	s.file = f
	if s.members, err = indexTar(f); err != nil {
		return nil, errors.Join(fmt.Errorf("open %s: %w", s.spec, err), f.Close())
	}
	if _, ok := s.members[ocispec.ImageIndexFile]; !ok {
		return nil, errors.Join(fmt.Errorf("open %s: not an OCI archive: no %s in it", s.spec, ocispec.ImageIndexFile), f.Close())
	}
	return s, nil
}

type archiveSource struct {
	spec    Spec
	file    *os.File
	members map[string]member
}

// member is where a regular file's bytes lie in the archive.
type member struct{ offset, size int64 }

// indexTar finds the regular files of a tar. archive/tar seeks over their contents and reads nothing ahead, so
// after each header the file stands at the content.
func indexTar(f *os.File) (map[string]member, error) {
	members := make(map[string]member)
	tr := tar.NewReader(f)
	for {
		h, err := tr.Next()
		if errors.Is(err, io.EOF) {
			return members, nil
		}
		if err != nil {
			return nil, fmt.Errorf("read as uncompressed tar: %w", err)
		}
		if h.Typeflag != tar.TypeReg {
			continue
		}
		offset, err := f.Seek(0, io.SeekCurrent)
		if err != nil {
			return nil, err
		}
		members[path.Clean(h.Name)] = member{offset, h.Size}
	}
}

func (s *archiveSource) String() string { return s.spec.String() }
func (s *archiveSource) Close() error   { return s.file.Close() }

func (s *archiveSource) Resolve(context.Context) (ocispec.Descriptor, error) {
	r, err := s.open(ocispec.ImageIndexFile)
	if err != nil {
		return ocispec.Descriptor{}, err
	}
	if r.Size() > MaxDocument {
		return ocispec.Descriptor{}, fmt.Errorf("read %s: more than %d bytes", ocispec.ImageIndexFile, MaxDocument)
	}
	raw, err := io.ReadAll(r)
	if err != nil {
		return ocispec.Descriptor{}, err
	}
	return resolveTag(raw, s.spec.Name)
}

func (s *archiveSource) Fetch(_ context.Context, desc ocispec.Descriptor) (io.ReadCloser, error) {
	return s.blob(desc)
}

func (s *archiveSource) ReaderAt(_ context.Context, desc ocispec.Descriptor) (ReaderAt, error) {
	return s.blob(desc)
}

func (s *archiveSource) blob(desc ocispec.Descriptor) (section, error) {
	if err := desc.Digest.Validate(); err != nil {
		return section{}, fmt.Errorf("blob %q: %w", desc.Digest, err)
	}
	return s.open(blobPath(desc.Digest))
}

func (s *archiveSource) open(name string) (section, error) {
	m, ok := s.members[name]
	if !ok {
		return section{}, &fs.PathError{Op: "open", Path: s.spec.Path + "/" + name, Err: fs.ErrNotExist}
	}
	return section{io.NewSectionReader(s.file, m.offset, m.size)}, nil
}

// section is a piece of a file that somebody else closes.
type section struct{ *io.SectionReader }

func (section) Close() error { return nil }

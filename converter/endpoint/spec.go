package endpoint

import (
	"fmt"
	"path/filepath"
	"strings"

	"github.com/distribution/reference"
)

// Kind says what sort of place a Spec names.
type Kind string

// The kinds of places, as their prefixes on the command line.
const (
	KindRegistry   Kind = "registry"
	KindLayout     Kind = "oci"
	KindArchive    Kind = "oci-archive"
	KindContainerd Kind = "containerd"
)

// DefaultTag is the name that an image gets in a layout or archive when none is given.
const DefaultTag = "latest"

// Spec is a place as it is written on the command line, taken apart.
type Spec struct {
	Kind Kind
	Path string // layouts and archives
	Name string // a full reference (registry, containerd) or a tag; "" where an optional tag was left out
}

// ParseSpec reads `oci:DIR[:TAG]`, `oci-archive:FILE[:TAG]`, `containerd:REF`, or a registry's reference, which
// may be short as Docker's may ("alpine"). The path of a layout or archive ends at its first colon.
func ParseSpec(s string) (Spec, error) {
	prefix, rest, found := strings.Cut(s, ":")
	switch kind := Kind(prefix); {
	case found && (kind == KindLayout || kind == KindArchive):
		path, tag, tagged := strings.Cut(rest, ":")
		if path == "" {
			return Spec{}, fmt.Errorf("image %q: no path after %q", s, prefix+":")
		}
		if tagged && tag == "" {
			return Spec{}, fmt.Errorf("image %q: empty tag", s)
		}
		return Spec{Kind: kind, Path: path, Name: tag}, nil
	case found && kind == KindContainerd:
		if rest == "" {
			return Spec{}, fmt.Errorf("image %q: no reference after %q", s, prefix+":")
		}
		return Spec{Kind: kind, Name: rest}, nil
	}
	named, err := reference.ParseDockerRef(s)
	if err != nil {
		return Spec{}, fmt.Errorf("image %q: %w", s, err)
	}
	return Spec{Kind: KindRegistry, Name: named.String()}, nil
}

// Host is the registry host in a registry's reference, "" for other kinds.
func (s Spec) Host() string {
	if s.Kind != KindRegistry {
		return ""
	}
	host, _, _ := strings.Cut(s.Name, "/")
	return host
}

func (s Spec) String() string {
	switch s.Kind {
	case KindRegistry:
		return s.Name
	case KindContainerd:
		return string(s.Kind) + ":" + s.Name
	}
	if s.Name == "" {
		return string(s.Kind) + ":" + s.Path
	}
	return string(s.Kind) + ":" + s.Path + ":" + s.Name
}

// Same tells whether writing to dst would replace what src reads. An archive is replaced whole, whatever the tag.
func Same(src, dst Spec) bool {
	if src.Kind != dst.Kind {
		return false
	}
	switch src.Kind {
	case KindArchive:
		return realPath(src.Path) == realPath(dst.Path)
	case KindLayout:
		return realPath(src.Path) == realPath(dst.Path) && orDefault(src.Name) == orDefault(dst.Name)
	}
	return src.Name == dst.Name
}

func orDefault(tag string) string {
	if tag == "" {
		return DefaultTag
	}
	return tag
}

// realPath follows links as far as the path exists.
func realPath(path string) string {
	if abs, err := filepath.Abs(path); err == nil {
		path = abs
	}
	if real, err := filepath.EvalSymlinks(path); err == nil {
		return real
	}
	return path
}

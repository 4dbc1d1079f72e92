package toc

import (
	"errors"
	"fmt"
	"path"
	"strings"
)

const (
	maxComponent = 255  // NAME_MAX
	maxPath      = 4096 // PATH_MAX
)

// cleanName gives the name of an entry the one spelling it has in this package: components joined by slashes, the
// root being "". A tar may say "./a", "a/" and "a/./b"; whatever could leave the root, or name one file in ways that
// tools disagree about, is refused.
func cleanName(name string) (string, error) {
	switch {
	case name == "":
		return "", errors.New("empty name")
	case len(name) > maxPath:
		return "", fmt.Errorf("path of %d bytes, at most %d are possible", len(name), maxPath)
	case name[0] == '/':
		return "", errors.New("absolute path")
	case strings.IndexByte(name, 0) >= 0:
		return "", errors.New("name holds a NUL")
	}
	name = strings.TrimSuffix(name, "/")
	dots := false
	for c := range strings.SplitSeq(name, "/") {
		switch {
		case c == "":
			return "", errors.New("empty component in path")
		case c == "..":
			return "", errors.New(`path holds ".."`)
		case len(c) > maxComponent:
			return "", fmt.Errorf("name of %d bytes, at most %d are possible", len(c), maxComponent)
		case c == ".":
			dots = true
		}
	}
	if dots {
		name = path.Clean(name)
	}
	if name == "." {
		name = ""
	}
	return name, nil
}

// splitName splits a clean name at its last slash.
func splitName(name string) (dir, base string) {
	i := strings.LastIndexByte(name, '/')
	return name[:max(i, 0)], name[i+1:]
}

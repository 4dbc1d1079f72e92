// Package prefetch reads prefetch lists: which files of an image should arrive first, and in which order.
//
// A list is text, one path a line. Blank lines and lines that begin with `#` are comments, a leading slash is
// optional; spaces belong to the path. `*`, `?`, `[...]` and the backslash mean what they mean to Go's path.Match within each element of the
// path; `*` does not match a slash. A path that is a link means the link: what it points to must be listed too.
//
// A List is immutable and may be used by several goroutines.
package prefetch

import (
	"bufio"
	"fmt"
	"io"
	"path"
	"strings"
)

// maxLine is bytes in a line. Linux's PATH_MAX is 4096; patterns may be somewhat longer.
const maxLine = 64 << 10

// List is a prefetch list. The zero value is empty.
type List struct{ patterns []pattern }

// pattern is one line. Its elements are matched one by one; a literal has no special character.
type pattern struct {
	text     string // clean, without leading slash
	elements []string
	literal  bool
}

// Parse reads a list. Errors name the line.
func Parse(r io.Reader) (List, error) {
	var l List
	lines := bufio.NewScanner(r)
	lines.Buffer(nil, maxLine)
	n := 0
	for lines.Scan() {
		n++
		line := lines.Text()
		if strings.TrimSpace(line) == "" || strings.HasPrefix(line, "#") {
			continue
		}
		p, err := parseLine(line)
		if err != nil {
			return List{}, fmt.Errorf("line %d: %w", n, err)
		}
		l.patterns = append(l.patterns, p)
	}
	if err := lines.Err(); err != nil {
		return List{}, fmt.Errorf("line %d: %w", n+1, err)
	}
	return l, nil
}

func parseLine(line string) (pattern, error) {
	if strings.ContainsAny(line, "\x00\r") {
		return pattern{}, fmt.Errorf("path %q: contains a control character", line)
	}
	text := strings.TrimPrefix(path.Clean("/"+line), "/")
	if text == "" {
		return pattern{}, fmt.Errorf("path %q: the root is not a file", line)
	}
	p := pattern{text: text, elements: strings.Split(text, "/"), literal: !strings.ContainsAny(text, `*?[\`)}
	for _, e := range p.elements {
		if _, err := path.Match(e, ""); err != nil {
			return pattern{}, fmt.Errorf("path %q: %w", line, err)
		}
	}
	return p, nil
}

// Empty tells whether the list names nothing.
func (l List) Empty() bool { return len(l.patterns) == 0 }

// Lines are the list's paths and patterns, clean and with a leading slash.
func (l List) Lines() []string {
	lines := make([]string, len(l.patterns))
	for i, p := range l.patterns {
		lines[i] = "/" + p.text
	}
	return lines
}

// Match picks the list's files out of names (clean, without leading slash), in the list's order; what one pattern
// picks keeps the order of names. hit has one element per line of the list: whether it picked something.
func (l List) Match(names []string) (picked []string, hit []bool) {
	hit = make([]bool, len(l.patterns))
	known := make(map[string]bool, len(names))
	for _, name := range names {
		known[name] = true
	}
	taken := make(map[string]bool)
	take := func(i int, name string) {
		hit[i] = true
		if !taken[name] {
			taken[name] = true
			picked = append(picked, name)
		}
	}
	for i, p := range l.patterns {
		if p.literal {
			if known[p.text] {
				take(i, p.text)
			}
			continue
		}
		for _, name := range names {
			if p.match(name) {
				take(i, name)
			}
		}
	}
	return picked, hit
}

func (p pattern) match(name string) bool {
	if strings.Count(name, "/") != len(p.elements)-1 {
		return false
	}
	for _, e := range p.elements {
		var part string
		part, name, _ = strings.Cut(name, "/")
		// parseLine has seen to it that the pattern is well-formed.
		if ok, err := path.Match(e, part); err != nil || !ok {
			return false
		}
	}
	return true
}

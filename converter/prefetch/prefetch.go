// Package prefetch reads prefetch lists: which files of an image should arrive first, and in which order.
//
// A list is text, one path a line. Blank lines and lines that begin with `#` are comments, a leading slash is
// optional; spaces belong to the path. `*`, `?`, `[...]` and the backslash mean what they mean to Go's path.Match within each element of the
// path; `*` does not match a slash. A path that is a link means the link: what it points to must be listed too.
//
// Behind a path, after a tab, may stand which bytes of the file are meant, as in "0-4095,65536-81919": offsets of the first byte and of the last
// one of each range. Other bytes of the file are no more urgent than those of files that are not listed. A path has no tab in it; a glob has `?`
// for one.
//
// A List is immutable and may be used by several goroutines.
package prefetch

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"path"
	"slices"
	"strconv"
	"strings"
)

// maxLine is bytes in a line: room for a path, of which Linux has at most 4096, and for hundreds of thousands of ranges.
const maxLine = 8 << 20

// List is a prefetch list. The zero value is empty.
type List struct{ patterns []pattern }

// pattern is one line. Its elements are matched one by one; a literal has no special character.
type pattern struct {
	text     string // clean, without leading slash
	elements []string
	literal  bool
	ranges   []Range // nil: all of the file
}

// Pick is a file that a list names.
type Pick struct {
	Name   string  // clean, without leading slash
	Ranges []Range // which bytes of it; nil: all
}

// Range is bytes of a file, both ends included.
type Range struct{ First, Last int64 }

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
	line, ranges, err := cutRanges(line)
	if err != nil {
		return pattern{}, err
	}
	text := strings.TrimPrefix(path.Clean("/"+line), "/")
	if text == "" {
		return pattern{}, fmt.Errorf("path %q: the root is not a file", line)
	}
	p := pattern{text: text, elements: strings.Split(text, "/"), literal: !strings.ContainsAny(text, `*?[\`), ranges: ranges}
	for _, e := range p.elements {
		if _, err := path.Match(e, ""); err != nil {
			return pattern{}, fmt.Errorf("path %q: %w", line, err)
		}
	}
	return p, nil
}

// cutRanges takes the ranges from the end of a line, if there are any.
func cutRanges(line string) (path string, ranges []Range, err error) {
	path, text, found := strings.Cut(line, "\t")
	if !found {
		return line, nil, nil
	}
	for part := range strings.SplitSeq(text, ",") {
		first, last, _ := strings.Cut(part, "-")
		var r Range
		var errs [2]error
		r.First, errs[0] = strconv.ParseInt(first, 10, 64)
		r.Last, errs[1] = strconv.ParseInt(last, 10, 64)
		if errors.Join(errs[:]...) != nil || r.First < 0 || r.Last < r.First {
			return "", nil, fmt.Errorf("path %q: range %q: not the first and the last byte, as in 0-4095", path, part)
		}
		ranges = append(ranges, r)
	}
	return path, ranges, nil
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
// picks keeps the order of names, and what several pick has the ranges of all. hit has one element per line of the list: whether it picked
// something.
func (l List) Match(names []string) (picked []Pick, hit []bool) {
	hit = make([]bool, len(l.patterns))
	known := make(map[string]bool, len(names))
	for _, name := range names {
		known[name] = true
	}
	taken := make(map[string]int)
	take := func(i int, name string) {
		hit[i] = true
		ranges := l.patterns[i].ranges
		at, again := taken[name]
		switch {
		case !again:
			taken[name] = len(picked)
			picked = append(picked, Pick{name, slices.Clone(ranges)})
		case ranges == nil:
			picked[at].Ranges = nil
		case picked[at].Ranges != nil:
			picked[at].Ranges = append(picked[at].Ranges, ranges...)
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

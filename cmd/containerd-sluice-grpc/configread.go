package main

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"math"
	"os"
	"reflect"
	"strings"

	"github.com/pelletier/go-toml/v2"
)

// readConfig reads a configuration file over the defaults. A file that is not
// there is the same as an empty one unless required. An error has a line
// "FILE:LINE: cause" for everything that is wrong.
func readConfig(path string, required bool) (config, error) {
	c := newConfig()
	b, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) && !required {
		return c, nil
	}
	if err != nil {
		return c, err
	}
	if err := checkConfig(path, b); err != nil {
		return c, err
	}
	if err := toml.NewDecoder(bytes.NewReader(b)).DisallowUnknownFields().Decode(&c); err != nil {
		return c, fmt.Errorf("%s: %w", path, err) // not for any file that passes the check
	}
	return c, nil
}

// suggest names the known key that is nearest to an unknown one, which may be
// misspelt, cut short, or in the wrong table.
func suggest(key string) string {
	var nearest string
	best := math.MaxInt
	for _, known := range keys(reflect.TypeFor[config](), "") {
		if d := distance(key, known); d < best {
			nearest, best = known, d
		}
	}
	return fmt.Sprintf(" (nearest known: %q)", nearest)
}

// distance is how many edits lie between the last parts of two keys, where a
// cut short name counts as two, and another table as one.
func distance(key, known string) int {
	a, b := last(key), last(known)
	d := edits(a, b)
	if len(a) > 2 && strings.HasPrefix(b, a) {
		d = min(d, 2)
	}
	if strings.TrimSuffix(key, a) != strings.TrimSuffix(known, b) {
		d++
	}
	return d
}

func last(key string) string { return key[strings.LastIndexByte(key, '.')+1:] }

// keys lists the full name of each key and table.
func keys(t reflect.Type, prefix string) (names []string) {
	for i := range t.NumField() {
		field := t.Field(i)
		name := prefix + field.Tag.Get("toml")
		names = append(names, name)
		if isTable(field.Type) {
			names = append(names, keys(field.Type, name+".")...)
		}
		if isTables(field.Type) {
			names = append(names, keys(field.Type.Elem(), name+".")...)
		}
	}
	return names
}

// edits is the Levenshtein distance: how many bytes to insert, delete or
// replace to make b of a.
func edits(a, b string) int {
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		diagonal := row[0]
		row[0] = i + 1
		for j := range len(b) {
			cost := diagonal
			if a[i] != b[j] {
				cost++
			}
			diagonal = row[j+1]
			row[j+1] = min(cost, row[j]+1, row[j+1]+1)
		}
	}
	return row[len(b)]
}

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
// there is the same as an empty one unless required. An error names the file
// and, one cause a line, the lines that are wrong.
func readConfig(path string, required bool) (config, error) {
	c := newConfig()
	b, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) && !required {
		return c, nil
	}
	if err != nil {
		return c, err
	}
	if err := decode(b, &c); err != nil {
		return c, explain(path, b, err)
	}
	return c, nil
}

func decode(text []byte, c *config) error {
	return toml.NewDecoder(bytes.NewReader(text)).DisallowUnknownFields().Decode(c)
}

// explain turns what the TOML package says into lines of "FILE:LINE: cause".
func explain(path string, text []byte, err error) error {
	var (
		missing *toml.StrictMissingError
		bad     *toml.DecodeError
	)
	switch {
	case errors.As(err, &missing):
		var errs []error
		for _, e := range missing.Errors {
			line, _ := e.Position()
			key := strings.Join(e.Key(), ".")
			errs = append(errs, fmt.Errorf("%s:%d: unknown key %q%s", path, line, key, suggest(key)))
		}
		return errors.Join(errs...)
	case errors.As(err, &bad):
		line, _ := bad.Position()
		key := strings.Join(bad.Key(), ".")
		if key != "" {
			key += ": "
		}
		return fmt.Errorf("%s:%d: %s%s", path, line, key, strings.TrimPrefix(bad.Error(), "toml: "))
	}
	return fmt.Errorf("%s:%d: %w", path, lineOf(text, err), err)
}

// lineOf finds the line of an error that came without one, as the TOML package
// hands on what UnmarshalText says of a bare number: the first line after
// which the file is wrong in the same way.
func lineOf(text []byte, err error) int {
	line, end := 0, 0
	for l := range bytes.Lines(text) {
		line++
		end += len(l)
		var c config
		if e := decode(text[:end], &c); e != nil && e.Error() == err.Error() {
			break
		}
	}
	return line
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

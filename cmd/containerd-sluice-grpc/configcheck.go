package main

import (
	"errors"
	"fmt"
	"maps"
	"math"
	"reflect"
	"slices"
	"strconv"
	"strings"

	"github.com/pelletier/go-toml/v2"
	"github.com/pelletier/go-toml/v2/unstable"
)

// checkConfig finds everything that is wrong with a configuration file, in the
// order of its lines. The TOML package's own decoder ends at the first wrong
// value, and speaks of Go's types.
func checkConfig(path string, text []byte) error {
	k := checker{defaults: newConfig(), seen: make(map[string]int)}
	k.parser.Reset(text)
	k.walk()
	var syntax *unstable.ParserError
	if errors.As(k.parser.Error(), &syntax) {
		k.problems = append(k.problems, problem{k.line(k.parser.Range(syntax.Highlight)), syntax.Message})
	}
	// What the walk does not see, such as a table that is also made by its keys.
	var bad *toml.DecodeError
	if err := toml.Unmarshal(text, &map[string]any{}); errors.As(err, &bad) {
		line, _ := bad.Position()
		if !slices.ContainsFunc(k.problems, func(p problem) bool { return p.line == line }) {
			k.problems = append(k.problems, problem{line, strings.TrimPrefix(bad.Error(), "toml: ")})
		}
	}
	slices.SortStableFunc(k.problems, func(a, b problem) int { return a.line - b.line })
	var errs []error
	for _, p := range k.problems {
		errs = append(errs, fmt.Errorf("%s:%d: %s", path, p.line, p.cause))
	}
	return errors.Join(errs...)
}

// problem is what is wrong with a line.
type problem struct {
	line  int
	cause string
}

// checker compares a file with the type of the configuration.
type checker struct {
	parser   unstable.Parser
	defaults config
	seen     map[string]int // keys and headers of tables, and their lines
	element  element
	problems []problem
}

func (k *checker) walk() {
	root := reflect.ValueOf(&k.defaults).Elem()
	table, prefix := root, ""
	for k.parser.NextExpression() {
		switch e := k.parser.Expression(); e.Kind {
		case unstable.Table, unstable.ArrayTable:
			k.finish()
			var name string
			table, name = k.find(root, "", e)
			prefix = name + "."
			switch {
			case !table.IsValid(): // said already
			case isTables(table.Type()) && e.Kind == unstable.ArrayTable:
				table = k.begin(e, name, table)
			case !isTable(table.Type()):
				k.report(e, name, want(table), "a table")
				table = reflect.Value{}
			case e.Kind == unstable.ArrayTable:
				k.report(e, name, "one table, ["+name+"]", "an array of them")
			default:
				k.once(e, name)
			}
		case unstable.KeyValue:
			if table.IsValid() {
				k.keyValue(table, prefix, e)
			}
		}
	}
	if k.parser.Error() == nil {
		k.finish()
	}
}

// element is a table of an array.
type element struct {
	name  string
	table reflect.Value
	line  int // of its header
}

// begin begins a table of an array. Its keys may be in others too. To the TOML package a header that is written otherwise begins
// another array, in place of the one before.
func (k *checker) begin(e *unstable.Node, name string, tables reflect.Value) reflect.Value {
	if found := written(e); found != name {
		k.report(e, name, "[["+name+"]]", "[["+found+"]]")
	}
	maps.DeleteFunc(k.seen, func(key string, _ int) bool { return strings.HasPrefix(key, name+".") })
	k.element = element{name, reflect.New(tables.Type().Elem()).Elem(), k.lineOf(e)}
	return k.element.table
}

// finish reports the keys that are missing in a table of an array: they have no defaults.
func (k *checker) finish() {
	e := k.element
	k.element = element{}
	if !e.table.IsValid() {
		return
	}
	for i := range e.table.NumField() {
		key := e.table.Type().Field(i).Tag.Get("toml")
		if _, ok := k.seen[e.name+"."+key]; !ok {
			k.problems = append(k.problems, problem{e.line, fmt.Sprintf("%s: has no %s", e.name, key)})
		}
	}
}

// keyValue checks KEY = VALUE, where the key is below a table.
func (k *checker) keyValue(table reflect.Value, prefix string, e *unstable.Node) {
	v, name := k.find(table, prefix, e)
	found := e.Value()
	switch {
	case !v.IsValid(): // said already
	case !isTable(v.Type()):
		k.once(e, name)
		if wrong := checkValue(v, found); wrong != nil {
			k.add(e, name+": "+wrong.Error())
		}
	case found.Kind == unstable.InlineTable:
		for i := found.Children(); i.Next(); {
			k.keyValue(v, name+".", i.Node())
		}
	default:
		k.report(e, name, want(v), show(found))
	}
}

// find follows the key of an expression from a table down, and returns what it
// leads to, with its full name. It reports a key that leads nowhere.
func (k *checker) find(table reflect.Value, prefix string, e *unstable.Node) (reflect.Value, string) {
	v, name := table, strings.TrimSuffix(prefix, ".")
	for i := e.Key(); i.Next(); {
		if !isTable(v.Type()) {
			k.report(e, name, want(v), "a table")
			return reflect.Value{}, name
		}
		part := string(i.Node().Data)
		if name != "" {
			name += "."
		}
		v, part = field(v, part)
		name += part
		if !v.IsValid() {
			for i.Next() {
				name += "." + string(i.Node().Data)
			}
			k.add(e, fmt.Sprintf("unknown key %q%s", name, suggest(name)))
			return v, name
		}
	}
	return v, name
}

// written is the key of an expression as it stands in the file.
func written(e *unstable.Node) string {
	var parts []string
	for i := e.Key(); i.Next(); {
		parts = append(parts, string(i.Node().Data))
	}
	return strings.Join(parts, ".")
}

// field is the field of a struct that a key stands for, without regard to case,
// as the TOML package has it, and the name of it.
func field(v reflect.Value, key string) (reflect.Value, string) {
	for i := range v.NumField() {
		if name := v.Type().Field(i).Tag.Get("toml"); strings.EqualFold(name, key) {
			return v.Field(i), name
		}
	}
	return reflect.Value{}, key
}

func (k *checker) report(e *unstable.Node, name, want, found string) {
	k.add(e, fmt.Sprintf("%s: want %s, found %s", name, want, found))
}

func (k *checker) add(e *unstable.Node, cause string) {
	k.problems = append(k.problems, problem{k.lineOf(e), cause})
}

// once reports a name that was there before.
func (k *checker) once(e *unstable.Node, name string) {
	if line, ok := k.seen[name]; ok {
		k.add(e, fmt.Sprintf("%s: stands on line %d already", name, line))
		return
	}
	k.seen[name] = k.lineOf(e)
}

// lineOf is the line of an expression's key.
func (k *checker) lineOf(e *unstable.Node) int {
	i := e.Key()
	i.Next()
	return k.line(i.Node().Raw)
}

func (k *checker) line(r unstable.Range) int { return k.parser.Shape(r).Start.Line }

// checkValue says what is wrong with the value of a key. The key's default
// shows what is wanted; checking overwrites it.
func checkValue(v reflect.Value, found *unstable.Node) error {
	wrong := fmt.Errorf("want %s, found %s", want(v), show(found))
	if typed, ok := v.Addr().Interface().(value); ok {
		if found.Kind != unstable.String {
			return wrong
		}
		return typed.UnmarshalText(found.Data)
	}
	kinds := map[reflect.Kind]unstable.Kind{
		reflect.String: unstable.String, reflect.Bool: unstable.Bool, reflect.Uint32: unstable.Integer, reflect.Uint8: unstable.Integer,
	}
	if found.Kind != kinds[v.Kind()] {
		return wrong
	}
	if least, most, ok := bounds(v); ok {
		n, err := strconv.ParseInt(string(found.Data), 0, 64)
		switch {
		case err != nil || n > most:
			return wrong
		case n < least:
			return fmt.Errorf("must be at least %d, found %d", least, n)
		}
	}
	return nil
}

// bounds are the whole numbers that a key takes, if it takes any.
func bounds(v reflect.Value) (least, most int64, ok bool) {
	switch v.Interface().(type) {
	case count:
		return 1, math.MaxUint32, true
	case percent:
		return 0, 100, true
	}
	return 0, 0, false
}

// want says what kind of value a key takes.
func want(v reflect.Value) string {
	if least, most, ok := bounds(v); ok {
		return fmt.Sprintf("a whole number from %d to %d", least, most)
	}
	switch {
	case isTables(v.Type()):
		return "tables, each below a [[header]]"
	case isTable(v.Type()):
		return "a table"
	case v.Kind() == reflect.Bool:
		return "true or false"
	}
	if example := literal(v); example != `""` {
		return "a string such as " + example
	}
	return "a string"
}

// show says what stands in the file.
func show(n *unstable.Node) string {
	switch n.Kind {
	case unstable.String:
		return quote(string(n.Data))
	case unstable.Array:
		return "an array"
	case unstable.InlineTable:
		return "a table"
	}
	return string(n.Data)
}

package main

import (
	"encoding/json"
	"fmt"
	"io"
	"reflect"
	"strings"
)

// writeConfig prints a configuration with the comment of each key.
func writeConfig(w io.Writer, c config) error {
	var b strings.Builder
	b.WriteString("# Configuration of containerd-sluice-grpc. Every key is optional; these are the defaults.\n")
	b.WriteString("# Flags win over this file. Check it with: containerd-sluice-grpc config check FILE\n")
	writeTable(&b, reflect.ValueOf(&c).Elem(), "")
	_, err := io.WriteString(w, b.String())
	return err
}

// writeTable prints the keys of a struct, and then its tables.
func writeTable(b *strings.Builder, v reflect.Value, name string) {
	var tables []int
	for i := range v.NumField() {
		field := v.Type().Field(i)
		if isTable(field.Type) || isTables(field.Type) {
			tables = append(tables, i)
			continue
		}
		b.WriteString("\n")
		writeDoc(b, field)
		fmt.Fprintf(b, "%s = %s\n", field.Tag.Get("toml"), literal(v.Field(i)))
	}
	for _, i := range tables {
		field := v.Type().Field(i)
		full := name + field.Tag.Get("toml")
		b.WriteString("\n")
		writeDoc(b, field)
		if isTables(field.Type) {
			for j := range v.Field(i).Len() {
				fmt.Fprintf(b, "[[%s]]\n", full)
				writeTable(b, v.Field(i).Index(j), full+".")
			}
			continue
		}
		fmt.Fprintf(b, "[%s]\n", full)
		writeTable(b, v.Field(i), full+".")
	}
}

// isTables says whether a type holds any number of tables.
func isTables(t reflect.Type) bool { return t.Kind() == reflect.Slice && isTable(t.Elem()) }

// isTable says whether a type holds keys, and not a value.
func isTable(t reflect.Type) bool {
	return t.Kind() == reflect.Struct && !reflect.PointerTo(t).Implements(reflect.TypeFor[value]())
}

func writeDoc(b *strings.Builder, field reflect.StructField) {
	for line := range strings.Lines(field.Tag.Get("doc")) {
		b.WriteString("# " + strings.TrimSuffix(line, "\n") + "\n")
	}
}

// literal is the value of a key in TOML.
func literal(v reflect.Value) string {
	if t, ok := v.Addr().Interface().(value); ok {
		return quote(t.String())
	}
	if v.Kind() == reflect.String {
		return quote(v.String())
	}
	return fmt.Sprint(v.Interface())
}

// quote writes a TOML string: JSON's escapes are a subset of TOML's.
func quote(s string) string {
	b, err := json.Marshal(s)
	if err != nil {
		panic(err) // a string always has a JSON form
	}
	return string(b)
}

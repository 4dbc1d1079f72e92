package main

import (
	"os"
	"path/filepath"
	"testing"
)

func TestChecksum(t *testing.T) {
	name := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(name, []byte("123456789"), 0o600); err != nil {
		t.Fatal(err)
	}
	sum := checksum{}
	if err := sum.file(name); err != nil {
		t.Fatal(err)
	}
	if got, want := sum.String(), "e3069283"; got != want { // RFC 3720's polynomial, the catalogue's check value
		t.Errorf("got %s, want %s", got, want)
	}
	for _, c := range []struct {
		name string
		args []string
		ok   bool
	}{
		{"right", []string{"sum", "-want", "e3069283", name}, true},
		{"wrong", []string{"sum", "-want", "e3069283", name, name}, false},
		{"no file", []string{"sum"}, false},
		{"missing", []string{"sum", name + "x"}, false},
		{"model read", []string{"model", "read", name}, true},
		{"no whole page", []string{"model", "map", name, "1", "1"}, false},
		{"no seed", []string{"model", "map", name, "x", "1"}, false},
		{"no model", []string{"model"}, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			if err := run(c.args); (err == nil) != c.ok {
				t.Errorf("%v: %v", c.args, err)
			}
		})
	}
}

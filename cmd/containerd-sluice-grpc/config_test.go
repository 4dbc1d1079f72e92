package main

import (
	"bytes"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/sirupsen/logrus"

	"github.com/sluice-snapshotter/sluice/fs"
)

// TestDefaultConfigRoundTrip checks that what `config default` prints is the
// configuration that the program has without a file, all of it documented.
func TestDefaultConfigRoundTrip(t *testing.T) {
	var out bytes.Buffer
	if err := writeConfig(&out, newConfig()); err != nil {
		t.Fatal(err)
	}
	name := filepath.Join(t.TempDir(), "config.toml")
	if err := os.WriteFile(name, out.Bytes(), 0o600); err != nil {
		t.Fatal(err)
	}
	got, err := readConfig(name, true)
	if err != nil {
		t.Fatalf("%v\n%s", err, out.String())
	}
	if got != newConfig() {
		t.Errorf("read back %+v, want %+v", got, newConfig())
	}
	for i, line := range strings.Split(out.String(), "\n") {
		if strings.Contains(line, " = ") && !strings.HasPrefix(line, "#") {
			if before := strings.Split(out.String(), "\n")[i-1]; !strings.HasPrefix(before, "# ") {
				t.Errorf("no comment above %q", line)
			}
		}
	}
}

func TestReadConfig(t *testing.T) {
	set := func(change func(*config)) config {
		c := newConfig()
		change(&c)
		return c
	}
	for _, test := range []struct {
		name, text string
		want       config
		err        string // "" for none; FILE stands for the path
	}{
		{name: "empty", want: newConfig()},
		{name: "every kind", text: "root = \"/r\"\nmount = \"fuse\"\nlog_level = \"warning\"\n[fetch]\nmemory_limit = \"1GiB\"\nconcurrency = 7\nbackground = false\nprefetch_timeout = \"1500ms\"\n",
			want: set(func(c *config) {
				c.Root, c.Mount, c.LogLevel = path{"/r"}, mount{fs.FUSE}, level{logrus.WarnLevel}
				c.Fetch = fetchConfig{MemoryLimit: size{1 << 30}, Concurrency: 7, PrefetchTimeout: duration{1500 * time.Millisecond}}
			})},
		{name: "unknown key", text: "\nrooot = \"/x\"\n", err: `FILE:2: unknown key "rooot" (nearest known: "root")`},
		{name: "unknown key in a table", text: "[fetch]\nmemory = \"1GiB\"\n", err: `FILE:2: unknown key "fetch.memory" (nearest known: "fetch.memory_limit")`},
		{name: "wrong table", text: "[registry]\nconcurrency = 1\n", err: `FILE:2: unknown key "registry.concurrency" (nearest known: "fetch.concurrency")`},
		{name: "two unknown keys", text: "rot = 1\nstat = \"/x\"\n", err: "FILE:1: unknown key \"rot\" (nearest known: \"root\")\nFILE:2: unknown key \"stat\" (nearest known: \"state\")"},
		{name: "unknown table", text: "[regsitry]\nmax_attempts = 1\n", err: `FILE:1: unknown key "regsitry" (nearest known: "registry")`},
		{name: "syntax", text: "root = \"/x\"\nstate = \n", err: "FILE:2: "},
		{name: "relative path", text: "root = \"x\"\n", err: `FILE:1: root: "x" is not an absolute path`},
		{name: "path with a colon", text: "root = \"/a:b\"\n", err: `FILE:1: root: "/a:b" has a colon`},
		{name: "not a port", text: "metrics_address = \"localhost:http!\"\n", err: `FILE:1: metrics_address: "localhost:http!": "http!" is not a port number`},
		{name: "no port", text: "metrics_address = \"localhost\"\n", err: `FILE:1: metrics_address: "localhost" is not host:port`},
		{name: "level", text: "log_level = \"loud\"\n", err: `FILE:1: log_level: "loud" is not one of trace`},
		{name: "mount", text: "mount = \"nfs\"\n", err: `FILE:1: mount: "nfs" is not one of auto, erofs, fuse`},
		{name: "duration without a unit", text: "[registry]\nstall_timeout = \"30\"\n", err: `FILE:2: registry.stall_timeout: "30" is not a duration`},
		{name: "size with a wrong unit", text: "[fetch]\nmemory_limit = \"1GB\"\n", err: `FILE:2: fetch.memory_limit: "1GB" is not a size`},
		{name: "size too big", text: "[fetch]\nmemory_limit = \"9999999TiB\"\n", err: `FILE:2: fetch.memory_limit: "9999999TiB" is not a size`},
		{name: "negative count", text: "[fetch]\nconcurrency = -1\n", err: "FILE:2: fetch.concurrency: "},
		{name: "wrong type", text: "[fetch]\nbackground = \"yes\"\n", err: "FILE:2: fetch.background: "},
		{name: "number for a path", text: "root = 3\n", err: `FILE:1: "3" is not an absolute path`},
		{name: "number for a duration", text: "mount = \"fuse\"\n[registry]\nstall_timeout = 30\n", err: `FILE:3: "30" is not a duration`},
	} {
		t.Run(test.name, func(t *testing.T) {
			name := filepath.Join(t.TempDir(), "config.toml")
			if err := os.WriteFile(name, []byte(test.text), 0o600); err != nil {
				t.Fatal(err)
			}
			got, err := readConfig(name, true)
			if test.err == "" {
				if err != nil || got != test.want {
					t.Errorf("got %+v, %v, want %+v", got, err, test.want)
				}
				return
			}
			want := strings.ReplaceAll(test.err, "FILE", name)
			if err == nil || !strings.HasPrefix(err.Error(), want) {
				t.Errorf("got error\n%v\nwant\n%s", err, want)
			}
		})
	}
}

func TestMissingConfig(t *testing.T) {
	name := filepath.Join(t.TempDir(), "none.toml")
	if c, err := readConfig(name, false); err != nil || c != newConfig() {
		t.Errorf("optional: got %+v, %v", c, err)
	}
	if _, err := readConfig(name, true); err == nil {
		t.Error("required: got no error")
	}
}

// TestKeysAreDocumented checks what the type system cannot.
func TestKeysAreDocumented(t *testing.T) {
	var check func(reflect.Type)
	check = func(s reflect.Type) {
		for i := range s.NumField() {
			field := s.Field(i)
			if field.Tag.Get("toml") == "" || field.Tag.Get("doc") == "" {
				t.Errorf("%s.%s has no name or no comment", s, field.Name)
			}
			if isTable(field.Type) {
				check(field.Type)
			}
		}
	}
	check(reflect.TypeFor[config]())
}

func FuzzReadConfig(f *testing.F) {
	f.Add([]byte("root = \"/x\"\n[fetch]\nmemory_limit = \"1MiB\"\n"))
	f.Add([]byte("roott = 1\n[a.b]\n"))
	f.Fuzz(func(t *testing.T, text []byte) {
		name := filepath.Join(t.TempDir(), "config.toml")
		if err := os.WriteFile(name, text, 0o600); err != nil {
			t.Fatal(err)
		}
		c, err := readConfig(name, true)
		if err != nil {
			return
		}
		// What was accepted prints as a file that reads back the same.
		var out bytes.Buffer
		if err := writeConfig(&out, c); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(name, out.Bytes(), 0o600); err != nil {
			t.Fatal(err)
		}
		if again, err := readConfig(name, true); err != nil || again != c {
			t.Fatalf("%+v reads back as %+v, %v", c, again, err)
		}
	})
}

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
	long := strings.Repeat("x", 107)
	for _, test := range []struct {
		name, text string
		want       config
		err        string // "" for none; FILE stands for the path
	}{
		{name: "empty", want: newConfig()},
		{name: "every kind", text: "root = \"/r\"\nmount = \"fuse\"\nlog_level = \"warning\"\n[fetch]\nmemory_limit = \"1GiB\"\nconcurrency = 7\nbackground = false\nplain = false\nprefetch_timeout = \"1500ms\"\n",
			want: set(func(c *config) {
				c.Root, c.Mount, c.LogLevel = directory{"/r"}, mount{fs.FUSE}, level{logrus.WarnLevel}
				c.Fetch = fetchConfig{MemoryLimit: limit{size{1 << 30}}, Concurrency: 7, PrefetchTimeout: duration{1500 * time.Millisecond}}
			})},
		{name: "unknown key", text: "\nrooot = \"/x\"\n", err: `FILE:2: unknown key "rooot" (nearest known: "root")`},
		{name: "unknown key in a table", text: "[fetch]\nmemory = \"1GiB\"\n", err: `FILE:2: unknown key "fetch.memory" (nearest known: "fetch.memory_limit")`},
		{name: "wrong table", text: "[registry]\nconcurrency = 1\n", err: `FILE:2: unknown key "registry.concurrency" (nearest known: "fetch.concurrency")`},
		{name: "two unknown keys", text: "rot = 1\nstat = \"/x\"\n", err: "FILE:1: unknown key \"rot\" (nearest known: \"root\")\nFILE:2: unknown key \"stat\" (nearest known: \"state\")"},
		{name: "unknown table", text: "[regsitry]\nmax_attempts = 1\n", err: `FILE:1: unknown key "regsitry" (nearest known: "registry")`},
		{name: "syntax", text: "root = \"/x\"\nstate = \n", err: "FILE:2: "},
		{name: "relative path", text: "root = \"x\"\n", err: `FILE:1: root: "x" is not an absolute path`},
		{name: "path with a colon", text: "root = \"/a:b\"\n", err: `FILE:1: root: "/a:b" has a colon`},
		{name: "path with a comma", text: "state = \"/a,b\"\n", err: `FILE:1: state: "/a,b" has a colon, a comma`},
		{name: "path with a backslash", text: "state = '/a\\b'\n", err: `FILE:1: state: "/a\\b" has a colon, a comma or a backslash`},
		{name: "empty paths", text: "root = \"\"\nstate = \"\"\n", err: "FILE:1: root: must not be empty\nFILE:2: state: must not be empty"},
		{name: "socket too long", text: "address = \"/" + long + "\"\n", err: `FILE:1: address: "/` + long + `" is 108 bytes long, and the path of a unix socket has at most 107`},
		{name: "not a port", text: "metrics_address = \"localhost:http!\"\n", err: `FILE:1: metrics_address: "localhost:http!": "http!" is not a port number`},
		{name: "no port", text: "metrics_address = \"localhost\"\n", err: `FILE:1: metrics_address: "localhost" is not host:port`},
		{name: "level", text: "log_level = \"loud\"\n", err: `FILE:1: log_level: "loud" is not one of trace`},
		{name: "mount", text: "mount = \"nfs\"\n", err: `FILE:1: mount: "nfs" is not one of auto, erofs, loop, fuse`},
		{name: "duration without a unit", text: "[registry]\nstall_timeout = \"30\"\n", err: `FILE:2: registry.stall_timeout: "30" is not a duration`},
		{name: "size with a wrong unit", text: "[fetch]\nmemory_limit = \"1GB\"\n", err: `FILE:2: fetch.memory_limit: "1GB" is not a size`},
		{name: "size too big", text: "[fetch]\nmemory_limit = \"9999999TiB\"\n", err: `FILE:2: fetch.memory_limit: "9999999TiB" is not a size`},
		{name: "other forms", text: "Root = '/r'\nfetch = { concurrency = 0x1_0 }\nregistry.max_attempts = +3\n",
			want: set(func(c *config) { c.Root, c.Fetch.Concurrency, c.Registry.MaxAttempts = directory{"/r"}, 16, 3 })},
		{name: "negative count", text: "[fetch]\nconcurrency = -1\n", err: "FILE:2: fetch.concurrency: must be at least 1, found -1"},
		{name: "nothing", text: "[fetch]\nconcurrency = 0\nmemory_limit = \"0MiB\"\n[registry]\nmax_attempts = 0\n",
			err: "FILE:2: fetch.concurrency: must be at least 1, found 0\nFILE:3: fetch.memory_limit: must be at least 1, found \"0MiB\"\nFILE:5: registry.max_attempts: must be at least 1, found 0"},
		{name: "count too big", text: "fetch.concurrency = 4294967296\n", err: "FILE:1: fetch.concurrency: want a whole number from 1 to 4294967295, found 4294967296"},
		{name: "no whole number", text: "fetch = { concurrency = 1.5 }\n", err: "FILE:1: fetch.concurrency: want a whole number from 1 to 4294967295, found 1.5"},
		{name: "wrong type", text: "[fetch]\nbackground = \"yes\"\n", err: `FILE:2: fetch.background: want true or false, found "yes"`},
		{name: "number for a string", text: "[registry]\nconfig_path = 3\n", err: `FILE:2: registry.config_path: want a string such as "/etc/containerd/certs.d", found 3`},
		{name: "number for a path", text: "root = 5\n", err: `FILE:1: root: want a string such as "/var/lib/containerd-sluice-grpc", found 5`},
		{name: "number for a size", text: "readahead = 5\n", err: `FILE:1: readahead: want a string such as "2MiB", found 5`},
		{name: "number for a duration", text: "mount = \"fuse\"\n[registry]\nstall_timeout = 30\n", err: `FILE:3: registry.stall_timeout: want a string such as "30s", found 30`},
		{name: "array for an address", text: "metrics_address = [\n\"a:1\"]\n", err: "FILE:1: metrics_address: want a string, found an array"},
		{name: "date for a level", text: "log_level = 2020-01-01\n", err: `FILE:1: log_level: want a string such as "info", found 2020-01-01`},
		{name: "value for a table", text: "\nfetch = true\n", err: "FILE:2: fetch: want a table, found true"},
		{name: "table for a value", text: "[mount]\nkind = 1\n", err: `FILE:1: mount: want a string such as "auto", found a table`},
		{name: "key below a value", text: "mount.kind = 1\n", err: `FILE:1: mount: want a string such as "auto", found a table`},
		{name: "array of tables", text: "[[fetch]]\n", err: "FILE:1: fetch: want one table, [fetch], found an array of them"},
		{name: "twice", text: "root = \"/a\"\nmount = 1\nroot = \"/b\"\n", err: "FILE:2: mount: want a string such as \"auto\", found 1\nFILE:3: root: stands on line 1 already"},
		{name: "table twice", text: "[fetch]\nbackground = true\n[fetch]\nbackground = 1\nconcurrency =\n", err: "FILE:3: fetch: stands on line 1 already\n" +
			"FILE:4: fetch.background: stands on line 2 already\nFILE:4: fetch.background: want true or false, found 1\nFILE:5: "},
		{name: "table of keys", text: "fetch.background = true\n[fetch]\n", err: "FILE:2: "},
		{name: "syntax after a big number", text: "fetch.concurrency = 99999999999999999999\nfetch.background = [1\n", err: "FILE:1: fetch.concurrency: want a whole number from 1 to 4294967295, found 99999999999999999999\nFILE:2: "},
		{name: "everything at once", text: "rot = \"/x\"\nmount = 1\n[fetch]\nbackground = 3\nconcurency = 4\nprefetch_timeout = \"3\"\nmemory_limit = \n",
			err: "FILE:1: unknown key \"rot\" (nearest known: \"root\")\n" +
				"FILE:2: mount: want a string such as \"auto\", found 1\n" +
				"FILE:4: fetch.background: want true or false, found 3\n" +
				"FILE:5: unknown key \"fetch.concurency\" (nearest known: \"fetch.concurrency\")\n" +
				"FILE:6: fetch.prefetch_timeout: \"3\" is not a duration like \"30s\" or \"1m30s\"\n" +
				"FILE:7: "},
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
			if err := checkConfig(name, text); err == nil {
				t.Fatal("only the TOML package's decoder refuses it")
			}
			if !strings.HasPrefix(err.Error(), name+":") || strings.Contains(err.Error(), "struct") && !bytes.Contains(text, []byte("struct")) {
				t.Fatalf("not in plain words, with a line: %v", err)
			}
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

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
	if !reflect.DeepEqual(got, newConfig()) {
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
				c.Fetch = fetchConfig{MemoryLimit: limit{size{1 << 30}}, Concurrency: 7, SmallLayers: size{2 << 20}, PrefetchTimeout: duration{1500 * time.Millisecond}}
			})},
		{name: "limits", text: "[fetch]\nbackground_limit = \"20MiB\"\nbackground_pressure = 100\n",
			want: set(func(c *config) { c.Fetch.BackgroundLimit, c.Fetch.BackgroundPressure = size{20 << 20}, 100 })},
		{name: "verify", text: "fetch.verify = \"chunks\"\n", want: set(func(c *config) { c.Fetch.Verify = verify{"chunks"} })},
		{name: "verify otherwise", text: "[fetch]\nverify = \"all\"\n", err: `FILE:2: fetch.verify: "all" is not one of whole, chunks`},
		{name: "no limits", text: "[fetch]\nbackground_limit = \"0\"\nbackground_pressure = 0\n", want: newConfig()},
		{name: "small layers", text: "[fetch]\nsmall_layers = \"500KiB\"\n", want: set(func(c *config) { c.Fetch.SmallLayers = size{500 << 10} })},
		{name: "no small layers", text: "[fetch]\nsmall_layers = \"0\"\n", want: set(func(c *config) { c.Fetch.SmallLayers = size{} })},
		{name: "limit without a unit", text: "[fetch]\nbackground_limit = 5\n", err: `FILE:2: fetch.background_limit: want a string such as "0", found 5`},
		{name: "percents", text: "fetch.background_pressure = 101\n[registry]\n", err: "FILE:1: fetch.background_pressure: want a whole number from 0 to 100, found 101"},
		{name: "negative percents", text: "fetch.background_pressure = -1\n", err: "FILE:1: fetch.background_pressure: must be at least 0, found -1"},
		{name: "percents as a string", text: "fetch.background_pressure = \"5%\"\n", err: `FILE:1: fetch.background_pressure: want a whole number from 0 to 100, found "5%"`},
		{name: "images", text: "[fetch]\nplain = false\n[[fetch.image]]\nmatch = \"a.example.com/*\"\nbackground = false\n[[fetch.image]]\nBackground = true\nmatch = \"b\"\n[registry]\nmax_attempts = 2\n",
			want: set(func(c *config) {
				c.Fetch.Plain, c.Registry.MaxAttempts = false, 2
				c.Fetch.Image = []imageConfig{{pattern{"a.example.com/*"}, false}, {pattern{"b"}, true}}
			})},
		{name: "untrusted", text: "[[fetch.untrusted]]\nmatch = \"a.example.com/*\"\n[[fetch.untrusted]]\nmatch = \"b\"\n",
			want: set(func(c *config) { c.Fetch.Untrusted = []untrustedConfig{{pattern{"a.example.com/*"}}, {pattern{"b"}}} })},
		{name: "untrusted with mistakes", text: "[[fetch.untrusted]]\n[[fetch.untrusted]]\nmatch = \"\"\nbackground = true\n",
			err: "FILE:1: fetch.untrusted: has no match\n" +
				"FILE:3: fetch.untrusted.match: must not be empty\n" +
				"FILE:4: unknown key \"fetch.untrusted.background\" (nearest known: \"fetch.background\")"},
		{name: "images with mistakes", text: "[[fetch.image]]\nmatch = \"\"\nbackground = 1\n[[fetch.image]]\nmatch = \"[\"\nmatch = \"b\"\nback = true\n[[fetch.image]]\n",
			err: "FILE:2: fetch.image.match: must not be empty\n" +
				"FILE:3: fetch.image.background: want true or false, found 1\n" +
				"FILE:4: fetch.image: has no background\n" +
				"FILE:5: fetch.image.match: \"[\" is not a pattern like \"registry.example.com/*/app\"\n" +
				"FILE:6: fetch.image.match: stands on line 5 already\n" +
				"FILE:7: unknown key \"fetch.image.back\" (nearest known: \"fetch.image.background\")\n" +
				"FILE:8: fetch.image: has no match\n" +
				"FILE:8: fetch.image: has no background"},
		{name: "images, written otherwise", text: "[[fetch.Image]]\nmatch = \"x\"\nbackground = true\n", err: "FILE:1: fetch.image: want [[fetch.image]], found [[fetch.Image]]"},
		{name: "one image", text: "[fetch.image]\nmatch = \"x\"\n", err: "FILE:1: fetch.image: want tables, each below a [[header]], found a table"},
		{name: "images inline", text: "[fetch]\nimage = [{match = \"x\", background = true}]\n", err: "FILE:2: fetch.image: want tables, each below a [[header]], found an array"},
		{name: "key of all images", text: "fetch.image.match = \"x\"\n", err: "FILE:1: fetch.image: want tables, each below a [[header]], found a table"},
		{name: "twice, written otherwise", text: "root = \"/a\"\nRoot = \"/b\"\n", err: "FILE:2: root: stands on line 1 already"},
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
				if err != nil || !reflect.DeepEqual(got, test.want) {
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
	if c, err := readConfig(name, false); err != nil || !reflect.DeepEqual(c, newConfig()) {
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
			if isTables(field.Type) {
				check(field.Type.Elem())
			}
		}
	}
	check(reflect.TypeFor[config]())
}

// TestImageExample checks the example that `config default` has, and which images get what.
func TestImageExample(t *testing.T) {
	var out bytes.Buffer
	if err := writeConfig(&out, newConfig()); err != nil {
		t.Fatal(err)
	}
	name := filepath.Join(t.TempDir(), "config.toml")
	if err := os.WriteFile(name, []byte(strings.ReplaceAll(out.String(), "\n#   ", "\n")), 0o600); err != nil {
		t.Fatal(err)
	}
	c, err := readConfig(name, true)
	if err != nil || len(c.Fetch.Image) != 1 || len(c.Fetch.Untrusted) != 1 {
		t.Fatalf("got %+v, %+v, %v", c.Fetch.Image, c.Fetch.Untrusted, err)
	}
	for ref, want := range map[string]bool{
		"registry.example.com/ml/torch:2.1":            false,
		"registry.example.com/ml@sha256:0123":          false,
		"registry.example.com/mlops/app:1":             true,
		"docker.io/registry.example.com/ml/torch:2.1":  true,
		"registry.example.com/web/registry.example:ml": true,
	} {
		if got := c.Fetch.background(ref); got != want {
			t.Errorf("%s: background %v", ref, got)
		}
	}
	for ref, want := range map[string]bool{
		"registry.example.com/guests/app:1":          true,
		"registry.example.com/guests@sha256:0123":    true,
		"Registry.Example.com/guests/app:1":          true,
		"registry.example.com/guestbook:1":           false,
		"registry.example.com/web/guests:1":          false,
		"mirror.example.com/registry.example.com:1":  false,
		"docker.io/registry.example.com/guests/x:2.": false,
	} {
		if got := c.Fetch.distrusts(ref); got != want {
			t.Errorf("%s: untrusted %t", ref, got)
		}
	}
}

func TestBackgroundOfImages(t *testing.T) {
	c := fetchConfig{Background: false, Image: []imageConfig{
		{pattern{"*/library/python:3.?"}, true}, {pattern{"docker.io/library"}, false}, {pattern{"localhost:5000/*/app"}, true}, {pattern{"*"}, false}, {pattern{"docker.io"}, true},
	}}
	for ref, want := range map[string]bool{
		"docker.io/library/python:3.9":  true,
		"docker.io/library/python:3.12": false,
		"docker.io/library/redis:7":     false,
		"localhost:5000/team/app:1":     true,
		"localhost:5000/team/app2:1":    false,
		"docker.io/team/app:1":          false, // the first that matches
	} {
		if got := c.background(ref); got != want {
			t.Errorf("%s: background %v", ref, got)
		}
	}
	for _, c := range []fetchConfig{{Background: true}, {Background: false}} {
		if c.background("docker.io/library/redis:7") != c.Background {
			t.Error("an image without a table of its own is not like all")
		}
	}
}

func FuzzReadConfig(f *testing.F) {
	f.Add([]byte("[[fetch.image]]\nmatch = \"a/*\"\nbackground = true\n[[fetch.image]]\nmatch = 'b'\nbackground = false\n"))
	f.Add([]byte("[fetch]\nbackground_pressure = 20\nimage = [{}]\n"))
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
		if again, err := readConfig(name, true); err != nil || !reflect.DeepEqual(again, c) {
			t.Fatalf("%+v reads back as %+v, %v", c, again, err)
		}
	})
}

// TestProves: layers are proven where all of them comes in the background, and as the configuration says otherwise.
func TestProves(t *testing.T) {
	const lazy, other = "a.example.com/lazy:1", "b.example.com/app:1"
	for _, c := range []struct {
		verify      string
		background  bool
		lazy, other bool
	}{
		{"", true, false, true},
		{"", false, false, false},
		{verifyWhole, false, true, true},
		{verifyChunks, true, false, false},
	} {
		f := newConfig().Fetch
		f.Verify, f.Background = verify{c.verify}, c.background
		f.Image = []imageConfig{{Match: pattern{"a.example.com"}, Background: false}}
		if a, b := f.proves(lazy), f.proves(other); a != c.lazy || b != c.other {
			t.Errorf("%+v: %t, %t", c, a, b)
		}
	}
}

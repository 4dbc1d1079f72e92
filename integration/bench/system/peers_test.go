package system

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

const good = `
[[system]]
name = "other"
snapshotter = "o"
command = ["/bin/true", "--address", "$NODE/o.sock"]
socket = "$NODE/o.sock"
image = "esgz"
version = ["/bin/true", "--version"]
[system.exports]
enable_remote_snapshot_annotations = "true"
[system.files]
"o.toml" = "host = '$REGISTRY'"

[[system]]
name = "not here"
snapshotter = "n"
command = ["/no/such/program"]
socket = "$NODE/n.sock"
image = "n"
convert = "make $DST from $SRC"
`

func read(t *testing.T, text string) ([]System, []string, error) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "peers.toml")
	if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
	return ReadPeers(path)
}

func TestReadPeers(t *testing.T) {
	there, absent, err := read(t, good)
	if err != nil || !slices.Equal(absent, []string{"not here"}) || len(there) != 1 {
		t.Fatal(there, absent, err)
	}
	s := there[0]
	if s.Name != "other" || s.Snapshotter != "o" || s.Form != ESGZ || !s.Lazy() || s.node.Daemon != nil {
		t.Errorf("%+v", s)
	}
	p := forRegistry(s.node.Proxy, "127.0.0.1:5000/")
	if p.Files["o.toml"] != "host = '127.0.0.1:5000'" || s.node.Proxy.Files["o.toml"] != "host = '$REGISTRY'" {
		t.Errorf("files %v of %v", p.Files, s.node.Proxy.Files)
	}
}

func TestReadBadPeers(t *testing.T) {
	replace := func(old, with string) string {
		text := strings.Replace(good, old, with, 1)
		if text == good {
			t.Fatalf("%q is not in the file", old)
		}
		return text
	}
	for want, text := range map[string]string{
		"unknown key":                      replace(`socket =`, `sockets =`),
		`system 1 (""): no name`:           replace(`name = "other"`, ``),
		`("overlayfs"): the name is taken`: replace(`"other"`, `"overlayfs"`),
		`("other"): the name is taken`:     replace(`"not here"`, `"other"`),
		"no snapshotter":                   replace(`snapshotter = "o"`, ``),
		"no command":                       replace(`command = ["/bin/true", "--address", "$NODE/o.sock"]`, ``),
		"no socket":                        replace(`socket = "$NODE/o.sock"`, ``),
		`image "tar": want plain, esgz`:    replace(`image = "esgz"`, `image = "tar"`),
		`convert makes "zstd", which`:      replace(`image = "n"`, `image = "zstd"`),
		"convert without image":            replace(`image = "n"`, ``),
		"peers.toml: toml: ":               "[[system]",
	} {
		t.Run(want, func(t *testing.T) {
			if _, _, err := read(t, text); err == nil || !strings.Contains(err.Error(), want) {
				t.Errorf("got %v, want %q", err, want)
			}
		})
	}
	if _, _, err := ReadPeers("/no/such/file"); err == nil {
		t.Error("a file that is not there was read")
	}
}

func TestOwn(t *testing.T) {
	all := Own()
	if all[0].Name != Overlayfs.Name || all[0].Own() || all[0].Lazy() {
		t.Errorf("the first is %+v", all[0])
	}
	for _, s := range all[1:] {
		if !s.Own() || s.Lazy() != (s.Form != Plain) || s.Convert != "" {
			t.Errorf("%+v", s)
		}
	}
}

package system

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"

	"github.com/pelletier/go-toml/v2"

	"github.com/sluice-snapshotter/sluice/integration/stack"
)

// peer is one [[system]] table of a file of peers; docs/benchmarks.md describes them.
type peer struct {
	Name        string            `toml:"name"`
	Snapshotter string            `toml:"snapshotter"`
	Command     []string          `toml:"command"`
	Socket      string            `toml:"socket"`
	Image       Form              `toml:"image"`
	Convert     string            `toml:"convert"`
	Version     []string          `toml:"version"`
	Exports     map[string]string `toml:"exports"`
	Files       map[string]string `toml:"files"`
}

// ReadPeers reads the proxy snapshotters that a TOML file describes. Those whose program is not on this machine are left out; their names are
// the second result.
func ReadPeers(path string) (there []System, absent []string, err error) {
	text, err := os.ReadFile(path)
	if err != nil {
		return nil, nil, fmt.Errorf("peers: %w", err)
	}
	var file struct {
		System []peer `toml:"system"`
	}
	d := toml.NewDecoder(bytes.NewReader(text)).DisallowUnknownFields()
	if err := d.Decode(&file); err != nil {
		if strict := (*toml.StrictMissingError)(nil); errors.As(err, &strict) {
			return nil, nil, fmt.Errorf("peers %s: unknown key:\n%s", path, strict.String())
		}
		return nil, nil, fmt.Errorf("peers %s: %w", path, err)
	}
	taken := []string{}
	for _, s := range Own() {
		taken = append(taken, s.Name)
	}
	for i, p := range file.System {
		if err := p.check(taken); err != nil {
			return nil, nil, fmt.Errorf("peers %s: system %d (%q): %w", path, i+1, p.Name, err)
		}
		taken = append(taken, p.Name)
		if _, err := os.Stat(p.Command[0]); err != nil {
			absent = append(absent, p.Name)
			continue
		}
		there = append(there, p.system())
	}
	return there, absent, nil
}

func (p peer) check(taken []string) error {
	switch {
	case p.Name == "":
		return errors.New("no name")
	case strings.HasPrefix(p.Name, "sluice"):
		return errors.New("names that begin with sluice are Sluice's")
	case slices.Contains(taken, p.Name):
		return errors.New("the name is taken")
	case p.Snapshotter == "":
		return errors.New("no snapshotter: the name of containerd's proxy plugin")
	case len(p.Command) == 0:
		return errors.New("no command")
	case p.Socket == "":
		return errors.New("no socket")
	case p.Convert == "" && !slices.Contains([]Form{Plain, ESGZ, Prefetch, Zstd}, p.Image):
		return fmt.Errorf("image %q: want plain, esgz, esgz-prefetch or zstd, or convert, a script that makes it", p.Image)
	case p.Convert != "" && p.Image == "":
		return errors.New("convert without image: the tag for what it makes")
	case p.Convert != "" && slices.Contains([]Form{Plain, ESGZ, Prefetch, Zstd}, p.Image):
		return fmt.Errorf("convert makes %q, which the suite makes: take another name", p.Image)
	}
	return nil
}

func (p peer) system() System {
	o := stack.NodeOptions{Proxy: &stack.ProxyOptions{
		Name: p.Snapshotter, Command: p.Command, Socket: p.Socket, Exports: p.Exports, Files: p.Files,
	}}
	return System{Name: p.Name, Snapshotter: p.Snapshotter, Form: p.Image, Convert: p.Convert, Version: p.Version, node: o}
}

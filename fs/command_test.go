package fs

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/sluice-snapshotter/sluice/fs/layer"
	"github.com/sluice-snapshotter/sluice/fs/remote"
)

// configured returns the manifest of the registry's image with a configuration, after putting both into a content store as containerd has one.
func (r *registry) configured(t *testing.T, content string, config ocispec.ImageConfig) digest.Digest {
	t.Helper()
	put := func(v any) digest.Digest {
		p, err := json.Marshal(v)
		d := digest.FromBytes(p)
		name := filepath.Join(content, "blobs", "sha256", d.Encoded())
		if err := errors.Join(err, os.MkdirAll(filepath.Dir(name), 0o700), os.WriteFile(name, p, 0o600)); err != nil {
			t.Fatal(err)
		}
		return d
	}
	var m ocispec.Manifest
	if err := json.Unmarshal(r.content[r.manifest], &m); err != nil {
		t.Fatal(err)
	}
	m.Config.Digest = put(ocispec.Image{Config: config})
	return put(m)
}

// commandNode is a programNode whose image has a configuration.
func commandNode(t *testing.T, layers []blob, config ocispec.ImageConfig) *programNode {
	t.Helper()
	r := newRegistry(t, upward(layers)...)
	return mountCommand(t, r, layers, config, r.source)
}

func mountCommand(t *testing.T, r *registry, layers []blob, config ocispec.ImageConfig, source func(blob) Source,
	change ...func(*Options),
) *programNode {
	t.Helper()
	content, plain := t.TempDir(), r.manifest
	r.manifest = r.configured(t, content, config)
	o := Options{Registry: remote.New(remote.Options{
		ConfigPath: "/nonexistent", ContentPath: content, PlainHTTP: true, MaxAttempts: 1, Backoff: remote.Backoff{Min: time.Millisecond, Max: time.Millisecond},
		Credentials: func(string) (string, string, error) { return "", "", nil },
	})}
	for _, c := range change {
		c(&o)
	}
	p := mountProgram(t, o, r, layers, source)
	r.manifest, p.content = plain, content
	return p
}

// longName is of a folder, and longPath leads to the root over more of them than an argument may have.
var (
	longName = strings.Repeat("x", 255)
	longPath = "/" + strings.Repeat(longName+"/../", maxArgument/len(longName)+1)
)

// scripts are a layer of scripts on top of the layers of a program.
func scripts(t *testing.T, layers []blob, prefetch ...string) []blob {
	t.Helper()
	program := layers[0].files[slices.IndexFunc(layers[0].files, func(f file) bool { return f.Name == "usr/bin/program" })].data
	files := []file{dir("usr"), dir("usr/bin"), dir("scripts"), dir(longName), regular("scripts/-program", program), regular("data", noise(7, 4<<20))}
	for name, content := range map[string]string{
		"run":      "#!/usr/bin/nothing\n",
		"program":  "#!/usr/bin/program -x\nwhatever\n",
		"env":      "#! /usr/bin/env\tprogram",
		"indirect": "#!/scripts/program\n",
		"loop":     "#!/scripts/loop /scripts/loop /scripts/loop\n",
		"last":     "#!/usr/bin/program\n",
	} {
		files = append(files, text("scripts/"+name, content))
	}
	for i := range maxFiles { // the first leads to the program over so many that it is one too many
		next := fmt.Sprintf("/scripts/%d", i+1)
		if i == maxFiles-1 {
			next = "/usr/bin/program"
		}
		files = append(files, text(fmt.Sprintf("scripts/%d", i), "#!"+next))
	}
	return append([]blob{buildBlob(t, files, prefetch...)}, layers...)
}

// arrivesAll fails the test unless what a linker reads of all objects that the program needs comes.
func (p *programNode) arrivesAll(t *testing.T) {
	t.Helper()
	for _, name := range append(neededAbove, neededBelow...) {
		p.arrives(t, name, 0, headSize)
		p.arrives(t, name, -tailSize, 0)
	}
}

// hasNone fails the test if anything of files came.
func (p *programNode) hasNone(t *testing.T, names ...string) {
	t.Helper()
	for _, name := range names {
		if n, _ := p.has(t, name, 0, 0); n > 0 {
			t.Errorf("%d chunks of %s came", n, name)
		}
	}
}

// TestCommand: when a container is about to start, what its image's command needs comes before anybody reads it.
func TestCommand(t *testing.T) {
	layers := scripts(t, programImage(t))
	for name, config := range map[string]ocispec.ImageConfig{
		"command":             {Cmd: []string{"/usr/bin/program", "-v"}},
		"entry point":         {Entrypoint: []string{"/usr/bin/program"}, Cmd: []string{"x"}},
		"usual path":          {Cmd: []string{"program"}},
		"path":                {Cmd: []string{"program"}, Env: []string{"PATH=/bin", "X=Y", "PATH=relative:/lib64:/usr/bin"}},
		"relative":            {Cmd: []string{"./program"}, WorkingDir: "/usr/bin"},
		"relative to nothing": {Cmd: []string{"usr/bin/program"}},
		"argument":            {Cmd: []string{"/scripts/nothing", "--", "program"}},
		"file as an argument": {Cmd: []string{"nothing", "program"}, Env: []string{"PATH=/data"}, WorkingDir: "/usr/bin"},
		"script":              {Entrypoint: []string{"/scripts/program"}},
		"script of a script":  {Entrypoint: []string{"/scripts/indirect"}},
		"scripts":             {Entrypoint: []string{"/scripts/1"}},
		"script by env":       {Entrypoint: []string{"/scripts/env"}},
		"script and command":  {Entrypoint: []string{"/scripts/run"}, Cmd: []string{"program"}},
	} {
		t.Run(name, func(t *testing.T) {
			p := commandNode(t, layers, config)
			p.wait(t)
			p.arrives(t, "usr/bin/program", 0, 0)
			p.arrivesAll(t)
			p.hasNone(t, unneeded...)
		})
	}
}

// TestNoCommand: where there is no command to be known, or a prefetch list that knows better, nothing comes but what most containers need.
func TestNoCommand(t *testing.T) {
	programs := programImage(t)
	plain, listed := scripts(t, programs), scripts(t, programs, "scripts/run")
	for name, c := range map[string]struct {
		layers []blob
		config ocispec.ImageConfig
	}{
		"none":             {layers: plain},
		"missing":          {plain, ocispec.ImageConfig{Cmd: []string{"nothing"}}},
		"option":           {plain, ocispec.ImageConfig{Cmd: []string{"-program", ""}, WorkingDir: "/scripts"}},
		"folder":           {plain, ocispec.ImageConfig{Cmd: []string{"/usr/bin"}}},
		"no object":        {plain, ocispec.ImageConfig{Cmd: []string{"/data"}}},
		"loop":             {plain, ocispec.ImageConfig{Cmd: []string{"/scripts/loop"}}},
		"many scripts":     {plain, ocispec.ImageConfig{Cmd: []string{"/scripts/0"}}},
		"many arguments":   {plain, ocispec.ImageConfig{Cmd: append(make([]string, maxArguments), "/usr/bin/program")}},
		"many folders":     {plain, ocispec.ImageConfig{Cmd: []string{"program"}, Env: []string{"PATH=" + strings.Repeat("/none:", maxArguments) + "/usr/bin"}}},
		"long folder":      {plain, ocispec.ImageConfig{Cmd: []string{"program"}, Env: []string{"PATH=" + longPath + "usr/bin"}}},
		"long working dir": {plain, ocispec.ImageConfig{Cmd: []string{"program"}, Env: []string{"PATH=/none"}, WorkingDir: longPath + "usr/bin"}},
		"long argument":    {plain, ocispec.ImageConfig{Cmd: []string{longPath + "usr/bin/program"}}},
		"listed":           {listed, ocispec.ImageConfig{Cmd: []string{"/usr/bin/program"}}},
	} {
		t.Run(name, func(t *testing.T) {
			p := commandNode(t, c.layers, c.config)
			p.quiet(t)
			p.wait(t)
			p.quiet(t)
			p.hasNone(t, append(neededAbove, neededBelow...)...)
			if n, all := p.has(t, "data", headSize, -tailSize); n > all/4 {
				t.Errorf("%d of %d chunks of a file that is no program came", n, all)
			}
		})
	}
}

// TestCommandOfTwoImages: of images that differ in their commands only, the one that was pulled last counts.
func TestCommandOfTwoImages(t *testing.T) {
	layers := programImage(t)
	p := commandNode(t, layers, ocispec.ImageConfig{Cmd: []string{"/none"}})
	p.registry.manifest = p.registry.configured(t, p.content, ocispec.ImageConfig{Cmd: []string{"/usr/bin/program"}})
	for _, l := range upward(layers) {
		p.mountLayer(t, p.registry.source(l))
	}
	p.wait(t)
	p.arrivesAll(t)
}

// TestCommandOfAnother: that an image has the same topmost layer says nothing of what is run.
func TestCommandOfAnother(t *testing.T) {
	layers := programImage(t)
	p := commandNode(t, layers, ocispec.ImageConfig{Cmd: []string{"/usr/bin/program"}})
	p.quiet(t)
	if err := p.Wait(t.Context(), p.chain[:1]); err != nil {
		t.Fatal(err)
	}
	p.quiet(t)
	p.hasNone(t, neededAbove...)
}

// TestCommandOfPull: where all is wanted, what a container begins with comes first, before there is one.
func TestCommandOfPull(t *testing.T) {
	layers := programImage(t)
	r := newRegistry(t, upward(layers)...)
	p := mountCommand(t, r, layers, ocispec.ImageConfig{Cmd: []string{"/usr/bin/program"}}, r.source, func(o *Options) {
		o.Background = true
		o.Scheduler = layer.NewScheduler(layer.SchedulerOptions{TailMemory: -1, BackgroundLimit: 1}) // all but the first ranges never come
	})
	p.arrives(t, "etc/group", 0, 0)
	p.arrivesAll(t)
}

// TestCommanded: it is known of an image whether its configuration says what to run, if containerd has it.
func TestCommanded(t *testing.T) {
	layers := programImage(t)[:1]
	for name, c := range map[string]struct {
		config ocispec.ImageConfig
		want   bool
	}{
		"command":    {ocispec.ImageConfig{Cmd: []string{"/usr/bin/program"}}, true},
		"entrypoint": {ocispec.ImageConfig{Entrypoint: []string{"/usr/bin/program"}}, true},
		"none":       {ocispec.ImageConfig{}, false},
	} {
		t.Run(name, func(t *testing.T) {
			p := commandNode(t, layers, c.config)
			src, err := p.Source(layers[0].digest)
			if err != nil {
				t.Fatal(err)
			}
			if got := p.commanded(src.Manifest); got != c.want {
				t.Errorf("it is said to have a command: %v", got)
			}
			if p.commanded(layers[0].digest) || p.commanded("") {
				t.Error("what is not a manifest is said to have a command")
			}
		})
	}
}

// restNode is a commandNode where all is wanted, and nothing comes of what nobody is expected to read.
func restNode(t *testing.T, layers []blob, cmd []string, limit int64) *programNode {
	t.Helper()
	r := newRegistry(t, upward(layers)...)
	return mountCommand(t, r, layers, ocispec.ImageConfig{Cmd: cmd}, r.source, func(o *Options) {
		o.Background = true
		o.Scheduler = layer.NewScheduler(layer.SchedulerOptions{
			TailMemory: -1, BackgroundLimit: limit, BackgroundPressure: 1, IOPressure: func() (float64, error) { return 100, nil },
		})
	})
}

// TestRestOfCode: where all is wanted anyway, objects come whole, the large ones when all have been found, and for one who only opens a library too.
func TestRestOfCode(t *testing.T) {
	for name, cmd := range map[string][]string{"command": {"/usr/bin/program"}, "library": nil} {
		t.Run(name, func(t *testing.T) {
			layers := programImage(t)
			p := restNode(t, layers, cmd, 0)
			if cmd == nil {
				p.wait(t)
				p.quiet(t)
				p.hasNone(t, neededBig)
				p.program = filepath.Join(p.path(t, layers[1], "below"), "usr/lib/libtwo.so")
				p.readFirst(t, 4096, 4096)
			}
			p.arrives(t, neededBig, 0, 0)
			p.quiet(t)
			p.hasNone(t, unneeded[:1]...) // the others lie where one reads ahead
		})
	}
}

// TestRestOfCodeLimited: who limits how fast the rest comes does not get it as what a program needs.
func TestRestOfCodeLimited(t *testing.T) {
	p := restNode(t, programImage(t), []string{"/usr/bin/program"}, 1<<40)
	p.arrives(t, neededBig, 0, headSize)
	p.quiet(t)
	if n, _ := p.has(t, neededBig, 256<<10, 512<<10); n > 0 {
		t.Errorf("%d chunks of the middle of %s came", n, neededBig)
	}
}

// TestCommandOfKnownLayers: the first container of layers that were not pulled just now, as after a restart, has all as well.
func TestCommandOfKnownLayers(t *testing.T) {
	layers := programImage(t)
	r := newRegistry(t, upward(layers)...)
	p := mountCommand(t, r, layers, ocispec.ImageConfig{Cmd: []string{"/usr/bin/program"}}, r.told)
	p.quiet(t)
	p.hasNone(t, "etc/group")
	p.wait(t)
	p.arrives(t, "etc/group", 0, 0)
	p.arrivesAll(t)
}

// TestCommandWithoutRegistry: what failed to come for a command comes when the program is read.
func TestCommandWithoutRegistry(t *testing.T) {
	p := commandNode(t, programImage(t), ocispec.ImageConfig{Cmd: []string{"/usr/bin/program"}})
	p.quiet(t)
	p.registry.fail.Store(503)
	p.wait(t)
	p.quiet(t)
	p.hasNone(t, append(neededAbove, neededBelow...)...)
	p.registry.fail.Store(0)
	p.readFirst(t, 4096, 4096)
	p.arrivesAll(t)
}

// TestManyPrograms: what was not looked at because there were too many is, when it is read again.
func TestManyPrograms(t *testing.T) {
	layers := programImage(t)
	p := newProgramNode(t, FUSE, layers)
	p.wait(t)
	p.programs.Add(maxPrograms)
	p.quiet(t)
	p.begin(t, layers)
	if p.running() > len(layers) {
		t.Error("a program too many is looked at")
	}
	p.programs.Add(-maxPrograms)
	p.begin(t, layers)
	p.arrivesAll(t)
}

// TestMuchCode: of a program with very much code only the first comes by itself.
func TestMuchCode(t *testing.T) {
	m := &maker{t: t, dir: t.TempDir(), padding: codeObject - (256 << 10)}
	count := 2 * maxCode / codeObject
	var libs []file
	args := []string{"-pie"}
	for i := range count {
		name := fmt.Sprintf("lib%d.so", i)
		libs = append(libs, regular("usr/lib/"+name, m.object(name)))
		args = append(args, "-l:"+name)
	}
	m.padding = padding
	l := buildBlob(t, append([]file{dir("usr"), dir("usr/bin"), dir("usr/lib"), regular("usr/bin/program", m.object("program", args...))}, libs...))
	p := newProgramNode(t, FUSE, []blob{l})
	p.wait(t)
	p.readFirst(t, 4096, 4096)
	for _, lib := range libs {
		p.arrives(t, lib.Name, 0, headSize)
		p.arrives(t, lib.Name, -tailSize, 0)
	}
	p.quiet(t)
	whole := 0
	for _, lib := range libs {
		if n, all := p.has(t, lib.Name, 0, 0); n == all {
			whole++
		}
	}
	if least, most := maxCode/codeObject, maxCode/(codeObject-headSize-tailSize-(512<<10)); whole < least || whole > most {
		t.Errorf("%d of %d libraries came whole, want %d to %d", whole, count, least, most)
	}
}

// TestImports: what an interpreter imports by itself comes with it, compiled if it is, and no other module.
func TestImports(t *testing.T) {
	m := &maker{t: t, dir: t.TempDir(), padding: padding}
	const lib = "opt/lib/python3.99"
	files := []file{
		dir("opt"), dir("opt/bin"), dir("opt/lib"), dir(lib), dir(lib + "/__pycache__"), dir(lib + "/encodings"), dir(lib + "/encodings/__pycache__"),
		regular("opt/bin/python3.99", m.object("program", "-pie")), symlink("opt/bin/python3", "python3.99"),
	}
	wanted := []string{lib + "/encodings/__pycache__/__init__.cpython-399.pyc", lib + "/__pycache__/io.cpython-399.pyc", lib + "/site.py"}
	others := []string{
		lib + "/io.py", lib + "/tarfile.py", lib + "/__pycache__/tarfile.cpython-399.pyc", lib + "/__pycache__/io.cpython-398.pyc", lib + "/encodings/big5.py",
		"opt/site.py",
	}
	for i, name := range slices.Concat(wanted, others) {
		files = append(files, regular(name, noise(uint64(i), 300<<10))) // or those next to each other would come together
	}
	p := commandNode(t, []blob{buildBlob(t, files)}, ocispec.ImageConfig{Cmd: []string{"python3", "site.py"}, Env: []string{"PATH=/opt/bin"}})
	p.wait(t)
	for _, name := range wanted {
		p.arrives(t, name, 0, 0)
	}
	p.quiet(t)
	p.hasNone(t, others...)
}

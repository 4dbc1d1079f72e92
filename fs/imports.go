package fs

import (
	"path"
	"regexp"

	"github.com/sluice-snapshotter/sluice/fs/layer"
)

// What an interpreter reads before the first line of a script is in no table of its own, and is read file by file.

// python are the programs that Python's versions are.
var python = regexp.MustCompile(`^python3\.(\d{1,3})$`)

// pythonModules are what Python imports by itself, below its folder of modules: codecs, and what its module site needs, which versions from 3.11 on
// have in themselves for the most part.
var pythonModules = []string{
	"encodings/__init__", "encodings/aliases", "encodings/utf_8", "codecs", "io", "abc", "site", "sitecustomize", "os", "stat", "posixpath", "genericpath",
	"_collections_abc", "_sitebuiltins",
}

// imports begins to fetch what a program, whose name is known, imports before it runs anything.
func (k *linking) imports(o extent) {
	version := python.FindStringSubmatch(o.name)
	if version == nil {
		return
	}
	modules := path.Join(o.dir, "../lib", o.name)
	var wanted extents
	k.fs.withChain(k.chain, func(c chain) {
		for _, name := range pythonModules {
			dir, module := path.Split(path.Join(modules, name))
			compiled := path.Join(dir, "__pycache__", module+".cpython-3"+version[1]+".pyc")
			if found, ok := c.first([]string{compiled, dir + module + ".py"}, k.looks); ok {
				wanted.add(found, layer.Extent{Size: min(found.size, maxStartFile)})
			}
		}
	})
	k.expect(wanted)
}

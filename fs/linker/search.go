package linker

import (
	"debug/elf"
	"iter"
	"strings"
)

// triplets are the names of Debian's folders by machine, where they are of 64 bits and little endian.
var triplets = map[elf.Machine]string{
	elf.EM_X86_64:  "x86_64-linux-gnu",
	elf.EM_AARCH64: "aarch64-linux-gnu",
	elf.EM_RISCV:   "riscv64-linux-gnu",
	elf.EM_PPC64:   "powerpc64le-linux-gnu",
	elf.EM_S390:    "s390x-linux-gnu",
}

// maxFolders is how many of an RPath or RunPath are looked at, and how many of those of all that need an object.
const maxFolders = 128

// usual are the folders of dynamic linkers that have no cache, and of musl's.
var usual = []string{"/lib64", "/usr/lib64", "/lib", "/usr/lib", "/usr/local/lib"}

// Loads lists, for each object that a dynamic linker loads for o, the paths where it looks for it, the likeliest first: for the interpreter,
// where there is one, and for what o needs. origin is the folder of o, "" if it is not known, and rpath are the folders of its RPath and of
// those of the objects that need it. What LD_LIBRARY_PATH says is not known here.
func (o *Object) Loads(origin string, rpath []string, cache Cache) iter.Seq[[]string] {
	return func(yield func([]string) bool) {
		if o.Interpreter != "" && !yield([]string{o.Interpreter}) {
			return
		}
		dirs := rpath[:min(len(rpath), maxFolders)]
		if o.RunPath != "" { // then no RPATH counts
			dirs = Folders(o.RunPath, origin)
		}
		for _, name := range o.Needed {
			if !yield(o.candidates(name, origin, dirs, cache)) {
				return
			}
		}
	}
}

func (o *Object) candidates(name, origin string, dirs []string, cache Cache) (paths []string) {
	if strings.Contains(name, "/") { // a path, for which nothing is searched
		return Folders(name, origin) // of one, as names of libraries have no colons
	}
	for _, dir := range dirs {
		paths = append(paths, dir+"/"+name) // as it is: what .. means is up to the symlinks before it
	}
	if p, ok := cache[name]; ok {
		paths = append(paths, p)
	}
	if triplet, ok := triplets[o.Machine]; ok {
		paths = append(paths, "/lib/"+triplet+"/"+name, "/usr/lib/"+triplet+"/"+name)
	}
	for _, dir := range usual {
		paths = append(paths, dir+"/"+name)
	}
	return paths
}

// Folders are those of an RPath or RunPath, of an object in the folder origin; "" if that is not known. Those that have others of $ORIGIN's
// kind, $LIB and $PLATFORM, which are hardly ever used, are left out.
func Folders(list, origin string) (dirs []string) {
	for dir := range strings.SplitSeq(list, ":") {
		if origin != "" {
			dir = strings.NewReplacer("$ORIGIN", origin, "${ORIGIN}", origin).Replace(dir)
		}
		if strings.HasPrefix(dir, "/") && !strings.Contains(dir, "$") && len(dir) <= maxPath && len(dirs) < maxFolders {
			dirs = append(dirs, dir)
		}
	}
	return dirs
}

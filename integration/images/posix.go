package images

import (
	"archive/tar"
	"context"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"time"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/sluice-snapshotter/sluice/integration/checkout"
)

// PosixDir holds what the image that Posix makes has besides its program.
const PosixDir = "/posix"

// Posix makes an image of what programs do more with than read it: map it, run it, seek in it, write to it. Its command does all that
// and prints the same on every file system, or fails. It wants to run as root and to be allowed new privileges.
func Posix(ctx context.Context) (*Image, error) {
	program, err := checker(ctx)
	if err != nil {
		return nil, err
	}
	return checked(recipe{
		name: "posix", key: keyOf(posixSources, string(program)), layers: []layer{asLayer(nil, posixFiles(program))},
	}, program).make(ctx)
}

func posixFiles(program []byte) func(t *tree) {
	return func(t *tree) {
		t.file("posix/map", noise(11, 5<<20+1234))
		t.file("posix/holes", slices.Concat(noise(12, 64<<10), make([]byte, 5<<20), noise(13, 64<<10)))
		t.file("posix/exec/program", program, mode(0o755))
		t.text("posix/exec/script", "#!/posix/exec/program second\nthe second line\n", mode(0o755))
		t.file("posix/setuid/program", program, mode(0o4755))
		t.file("posix/capable/program", program, mode(0o755), xattr("security.capability", capNetRaw))

		t.file("posix/links/one", noise(14, 10_000))
		t.hardlink("posix/links/elsewhere/two", "posix/links/one")
		t.hardlink("posix/three", "posix/links/one")
		t.text("posix/times/file", "file", at(time.Unix(1_500_000_000, 123_456_789)))
		t.dir("posix/times/folder", at(time.Unix(1_500_000_001, 1)))
		t.symlink("posix/times/symlink", "file", at(time.Unix(1_500_000_002, 999_999_999)))

		t.device(tar.TypeChar, "posix/devices/null", 1, 3, mode(0o666))
		t.device(tar.TypeChar, "posix/devices/zero", 1, 5, mode(0o666))
		t.device(tar.TypeFifo, "posix/fifo", 0, 0)
		t.text("posix/folder/file", "file")
	}
}

// checked puts base and the program, as /check, below the layers of an image. Its command checks PosixDir.
func checked(r recipe, program []byte) recipe {
	r.layers = append([]layer{base(), asLayer(nil, func(t *tree) { t.file("check", program, mode(0o755)) })}, r.layers...)
	r.config = ocispec.ImageConfig{Entrypoint: []string{"/check"}, Cmd: []string{"posix", PosixDir}, Env: []string{"PATH=/"}}
	return r
}

// checker builds the program that does things with files. It is none of probe's commands because that is in the name of every image in
// the cache, also of those that take minutes and a network to make.
func checker(ctx context.Context) (_ []byte, err error) {
	dir, err := checkout.Cache("images")
	if err != nil {
		return nil, err
	}
	out := filepath.Join(dir, "check")
	unlock, err := checkout.Lock(out + ".lock")
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, unlock()) }()
	err = checkout.Build{
		Packages: []string{"./integration/images/check"},
		Out:      out,
		Flags:    []string{"-trimpath", "-buildvcs=false", "-ldflags=-s -w -buildid="},
		Env:      []string{"CGO_ENABLED=0", "GOOS=linux", "GOFLAGS="},
	}.Run(ctx)
	if err != nil {
		return nil, err
	}
	return os.ReadFile(out)
}

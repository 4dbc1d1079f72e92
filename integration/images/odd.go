package images

import (
	"archive/tar"
	"context"
	"fmt"
	"strings"
	"time"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// OddDir holds everything odd in the image that Odd makes.
const OddDir = "/odd"

// Odd makes a small image of seven layers in which everything is unusual: every type of file, every attribute, whiteouts and opaque
// folders in most positions. Its entrypoint is /probe, its command "hello".
//
// Every layer names each folder that leads to its entries, because what a folder has that a layer only implies differs
// from one unpacker to another.
func Odd(ctx context.Context) (*Image, error) {
	program, err := probe(ctx)
	if err != nil {
		return nil, err
	}
	return oddRecipe(program).make(ctx)
}

func oddRecipe(program []byte) recipe {
	fills := []func(*tree){oddFiles, oddAttributes, oddNames, oddRemovals, oddReturns}
	layers := []layer{base(), withProbe(program)}
	for _, fill := range fills {
		layers = append(layers, asLayer(oddDirs, fill))
	}
	return recipe{
		name: "odd", key: keyOf(oddSources, string(program)), layers: layers,
		config: ocispec.ImageConfig{Entrypoint: []string{"/probe"}, Cmd: []string{"hello"}, Env: []string{"PATH=/"}},
	}
}

// oddDirs are the folders that are not plain.
var oddDirs = map[string]tar.Header{
	"odd/attributes/sticky":  {Mode: 0o1777},
	"odd/attributes/setgid":  {Mode: 0o2775, Gid: 70_000},
	"odd/attributes/private": {Mode: 0o700, Uid: 65_534, Gid: 65_534, ModTime: time.Unix(1_234_567_890, 0)},
	"odd/removed":            {Mode: 0o750, Gid: 50, ModTime: time.Unix(1_000_000_000, 0)},
}

// oddFiles is regular files of all sizes, and every kind of link.
func oddFiles(t *tree) {
	t.text("odd/files/empty", "")
	t.text("odd/files/byte", "x")
	t.file("odd/files/page", noise(1, 4096))
	t.file("odd/files/page and a byte", noise(2, 4097))
	t.file("odd/files/zeros", make([]byte, 5<<20))
	t.file("odd/files/many chunks", noise(3, 9<<20+123))
	t.file("odd/files/text", []byte(strings.Repeat("the same line again and again\n", 300_000)))
	t.dir("odd/empty folder")
	for i := range 300 {
		t.text(fmt.Sprintf("odd/many/entry-%03d", i), fmt.Sprint(i))
	}

	t.file("odd/links/original", noise(4, 100_000), mode(0o640), owner(12, 34))
	t.hardlink("odd/links/again", "odd/links/original")
	t.hardlink("odd/links/elsewhere/again", "odd/links/original")
	t.text("odd/links/empty", "")
	t.hardlink("odd/links/empty again", "odd/links/empty")
	t.symlink("odd/links/relative", "original")
	t.symlink("odd/links/upwards", "../files/byte", owner(7, 8))
	t.symlink("odd/links/absolute", "/odd/files/byte")
	t.symlink("odd/links/dangling", "nowhere/at/all")
	t.symlink("odd/links/to a folder", "elsewhere")
	t.symlink("odd/links/itself", "itself")
	t.symlink("odd/links/long", strings.Repeat("very/", 200)+"long", at(time.Unix(5, 0)))
	t.device(tar.TypeFifo, "odd/links/fifo", 0, 0)
	t.hardlink("odd/links/fifo again", "odd/links/fifo")
}

// capNetRaw is security.capability as setcap cap_net_raw+ep writes it: VFS_CAP_REVISION_2 and the effective bit, then permitted and
// inheritable sets in two words each (linux/capability.h).
const capNetRaw = "\x01\x00\x00\x02\x00\x20\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00"

// oddAttributes is modes, owners, times, device numbers and xattrs.
func oddAttributes(t *tree) {
	for _, m := range []int64{0, 0o400, 0o111, 0o4755, 0o2755, 0o1644, 0o6711, 0o7777} {
		t.text(fmt.Sprintf("odd/attributes/mode-%04o", m), "mode", mode(m))
	}
	t.dir("odd/attributes/sticky")
	t.dir("odd/attributes/setgid")
	t.text("odd/attributes/private/file", "private", mode(0o600))
	t.text("odd/attributes/owner-70000", "owner", owner(70_000, 80_000))
	t.text("odd/attributes/owner-large", "owner", owner(2_000_000_000, 4_294_967_000))
	for i, when := range []time.Time{
		time.Unix(1_500_000_000, 123_456_789), time.Unix(1_500_000_000, 500_000_000), time.Unix(0, 0), time.Unix(1, 0),
		time.Unix(-2_140_000_000, 0), time.Unix(1<<31, 0), time.Unix(4_102_444_800, 0), // 1902, 2038, 2100
	} {
		t.text(fmt.Sprintf("odd/attributes/time-%d", i), when.UTC().String(), at(when))
	}

	t.device(tar.TypeChar, "odd/devices/null", 1, 3, mode(0o666))
	t.device(tar.TypeChar, "odd/devices/large minor", 10, 70_000)
	t.device(tar.TypeChar, "odd/devices/largest", 4095, 1<<20-1, owner(70_000, 6))
	t.device(tar.TypeBlock, "odd/devices/loop", 7, 200, mode(0o660))
	t.device(tar.TypeBlock, "odd/devices/blkext", 259, 300_000)
	t.device(tar.TypeFifo, "odd/devices/fifo", 0, 0, mode(0o622), owner(1, 2))

	t.text("odd/xattrs/user", "user", xattr("user.simple", "value"), xattr("user.another", "also"))
	t.text("odd/xattrs/binary", "binary", xattr("user.binary", "\x00\x01\xff\xfe\x80="))
	t.text("odd/xattrs/empty", "empty", xattr("user.empty", ""), xattr("user.x", "y"))
	t.text("odd/xattrs/large", "large", xattr("user.large", strings.Repeat("0123456789", 200)))
	t.text("odd/xattrs/capability", "capability", mode(0o755), xattr("security.capability", capNetRaw))
	t.text("odd/xattrs/trusted", "trusted", xattr("trusted.sluice.test", "trusted"))
	t.dir("odd/xattrs/folder", xattr("user.folder", "yes"), xattr("trusted.folder", "yes"))
	t.symlink("odd/xattrs/symlink", "user", xattr("trusted.symlink", "yes"))
}

// oddNames is long, deep and strange names.
func oddNames(t *tree) {
	t.text("odd/names/"+strings.Repeat("n", 255), "long")
	t.text("odd/names/"+strings.Repeat("é", 127), "long in UTF-8")
	for _, name := range []string{
		" ", " leading", "trailing ", "new\nline", "tab\ttab", `back\slash`, `"quoted"`, "-rf", "...", "..x", "*", "#", "%41", "日本語", "\x7f",
	} {
		t.text("odd/names/"+name, name)
	}
	deep := "odd/names"
	for i := range 12 {
		deep += fmt.Sprintf("/%02d-%s", i, strings.Repeat("d", 60))
	}
	t.text(deep+"/bottom", "deep")
}

// oddRemovals prepares and does what a Dockerfile's RUN rm, mv and the like do; what oddReturns puts back is among it.
func oddRemovals(t *tree) {
	for i := 0; i < 300; i += 3 {
		t.whiteout(fmt.Sprintf("odd/many/entry-%03d", i))
	}
	t.whiteout("odd/files/byte")
	t.whiteout("odd/links/again") // one name of three
	t.whiteout("odd/empty folder")
	t.whiteout("odd/never was")
	t.opaque("odd/links/elsewhere")
	t.text("odd/links/elsewhere/new", "behind an opaque folder")

	t.dir("odd/attributes/mode-0400") // a file becomes a folder
	t.text("odd/attributes/mode-0400/inside", "inside")
	t.text("odd/attributes/sticky", "a folder becomes a file")
	t.symlink("odd/attributes/mode-0111", "mode-4755") // a file becomes a link
	t.text("odd/xattrs/symlink", "a link becomes a file")
	t.text("odd/xattrs/user", "fewer xattrs", xattr("user.simple", "other"))
	t.text("odd/attributes/mode-4755", "mode", mode(0o711), owner(3, 4)) // chmod and chown

	t.text("odd/removed/file", "soon gone")
	t.text("odd/removed/folder/a/b/c", "soon gone")
	t.text("odd/removed/opaque/old", "soon hidden")
	t.text("odd/removed/opaque/deep/old", "soon hidden")
	t.file("odd/removed/hard", noise(5, 10_000))
	t.hardlink("odd/removed/hard again", "odd/removed/hard")
}

// oddReturns removes and puts back over the layer below.
func oddReturns(t *tree) {
	t.whiteout("odd/removed/file")
	t.opaque("odd/removed/folder")
	t.text("odd/removed/folder/a/new", "put back")
	t.opaque("odd/removed/opaque")
	t.dir("odd/removed/opaque/deep")
	t.opaque("odd/links/elsewhere")
	t.text("odd/links/elsewhere/newer", "opaque twice")
	t.text("odd/files/byte", "y", owner(9, 9))
	t.dir("odd/empty folder", mode(0o711))
	t.text("odd/many/entry-000", "back")
	t.whiteout("odd/attributes/mode-0400")
	t.whiteout("odd/removed/hard")
	t.file("odd/files/page", noise(6, 4095))
}

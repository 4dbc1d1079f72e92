package prepare

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/sluice-snapshotter/sluice/integration/bench/system"
	"github.com/sluice-snapshotter/sluice/integration/checkout"
	"github.com/sluice-snapshotter/sluice/integration/images"
	"github.com/sluice-snapshotter/sluice/integration/stack"
)

// level is of eStargz: what builders' gzip layers have, so that sizes compare.
const level = "6"

// convert returns s as ctr-remote rewrites it, from the cache if it is there.
func (m *Maker) convert(ctx context.Context, s Subject, form system.Form, list []string) (_ *images.Image, err error) {
	args := []string{"image", "convert", "--estargz-compression-level", level}
	if form == system.Zstd {
		args = []string{"image", "convert", "--zstdchunked"}
	}
	text := strings.Join(list, "\n") + "\n"
	dir, prefix, err := place(s, form, append(args, text))
	if err != nil {
		return nil, err
	}
	unlock, err := checkout.Lock(prefix + "-lock")
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, unlock()) }()
	if im, err := images.Open(dir); err == nil || !errors.Is(err, fs.ErrNotExist) {
		return im, err
	}
	m.Progress("converting %s to %s", s.Name, form)
	if err := removeAll(prefix + ".*"); err != nil {
		return nil, err
	}
	if list != nil {
		file := filepath.Join(os.TempDir(), "prefetch.list")
		if err := os.WriteFile(file, []byte(text), 0o644); err != nil {
			return nil, err
		}
		args = append(args, "--prefetch-list", file)
	}
	unfinished := prefix + ".new"
	_, err = stack.CtrRemote(ctx, append(args, "oci:"+s.Image.Dir+":latest", "oci:"+unfinished+":latest")...)
	if err != nil {
		return nil, errors.Join(err, os.RemoveAll(unfinished))
	}
	if err := os.Rename(unfinished, dir); err != nil {
		return nil, err
	}
	return images.Open(dir)
}

// place is where a conversion lies in the cache, and the path that all conversions of this image to this form begin with: only the last
// one is kept.
func place(s Subject, form system.Form, args []string) (dir, prefix string, err error) {
	cache, err := checkout.Cache("images")
	if err != nil {
		return "", "", err
	}
	program, err := stack.Program("ctr-remote")
	if err != nil {
		return "", "", err
	}
	f, err := os.Open(program)
	if err != nil {
		return "", "", err
	}
	defer f.Close()
	h := sha256.New()
	if _, err := io.Copy(h, f); err != nil {
		return "", "", err
	}
	fmt.Fprintf(h, "%s %q", s.Image.Target.Digest, args)
	prefix = filepath.Join(cache, fmt.Sprintf("bench-%s.%s", s.Name, form))
	return prefix + "." + hex.EncodeToString(h.Sum(nil))[:16], prefix, nil
}

func removeAll(pattern string) error {
	names, err := filepath.Glob(pattern)
	if err != nil {
		return err
	}
	var errs []error
	for _, name := range names {
		errs = append(errs, os.RemoveAll(name))
	}
	return errors.Join(errs...)
}

// script lets a peer's own tool make its form, with a containerd to use.
func (m *Maker) script(ctx context.Context, s Subject, sys system.System) (err error) {
	m.Progress("converting %s to %s with %s's own tool", s.Name, sys.Form, sys.Name)
	src, dst := m.Ref(s.Name, system.Plain), m.Ref(s.Name, sys.Form)
	n, err := stack.StartNode(ctx, stack.NodeOptions{Env: []string{"SRC=" + src, "DST=" + dst}})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, n.Close()) }()
	return n.Script(ctx, sys.Convert)
}

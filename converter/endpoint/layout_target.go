package endpoint

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"sync"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sys/unix"
)

const layoutVersion = `{"imageLayoutVersion":"` + ocispec.ImageLayoutVersion + `"}`

// NewLayoutTarget names a new image in the OCI image layout at dir, which is made if its parent is there. Several
// processes may write to one layout at once.
func NewLayoutTarget(dir, tag string) (_ Target, retErr error) {
	t := &layoutTarget{spec: Spec{KindLayout, dir, orDefault(tag)}}
	defer func() {
		if retErr != nil {
			retErr = errors.Join(fmt.Errorf("open %s: %w", t.spec, retErr), t.Close())
		}
	}()
	if err := t.mkdir(dir); err != nil {
		return nil, err
	}
	lock, err := os.Open(dir)
	if err != nil {
		return nil, err
	}
	t.lock = lock
	if err := unix.Flock(int(lock.Fd()), unix.LOCK_SH); err != nil {
		return nil, err
	}
	if err := t.mkdir(filepath.Join(dir, ocispec.ImageBlobsDir)); err != nil {
		return nil, err
	}
	return t, t.writeVersion()
}

// layoutTarget holds a shared lock on its folder for as long as it is open: whoever failed and can turn it into
// an exclusive one may remove the blobs it made, since nobody else can have built on them.
type layoutTarget struct {
	spec   Spec
	lock   *os.File
	tagged bool

	mu   sync.Mutex
	made []string // files and folders that were not there before, in order
}

func (t *layoutTarget) String() string { return t.spec.String() }

// mkdir makes a folder, if it is not there. Whoever finds it there puts something into it, which has to be remembered behind it.
func (t *layoutTarget) mkdir(dir string) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	err := os.Mkdir(dir, 0o777)
	if err == nil {
		t.made = append(t.made, dir)
	}
	if errors.Is(err, fs.ErrExist) {
		return nil
	}
	return err
}

func (t *layoutTarget) remember(path string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.made = append(t.made, path)
}

func (t *layoutTarget) writeVersion() error {
	name := filepath.Join(t.spec.Path, ocispec.ImageLayoutFile)
	f, err := os.OpenFile(name, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o666)
	if errors.Is(err, fs.ErrExist) {
		return nil
	}
	if err != nil {
		return err
	}
	t.remember(name)
	_, err = f.WriteString(layoutVersion)
	return errors.Join(err, f.Close())
}

func (t *layoutTarget) Push(ctx context.Context, desc ocispec.Descriptor, open Opener) error {
	if err := desc.Digest.Validate(); err != nil {
		return fmt.Errorf("write blob %q: %w", desc.Digest, err)
	}
	name := filepath.Join(t.spec.Path, blobPath(desc.Digest))
	if info, err := os.Stat(name); err == nil && info.Size() == desc.Size {
		return nil
	}
	if err := t.mkdir(filepath.Dir(name)); err != nil {
		return err
	}
	err := replace(name, func(f *os.File) error { return pour(ctx, f, desc, open) })
	if err != nil {
		return fmt.Errorf("write blob %s: %w", desc.Digest, err)
	}
	t.remember(name)
	return nil
}

func (t *layoutTarget) Tag(ctx context.Context, root ocispec.Descriptor, raw []byte) error {
	if err := t.Push(ctx, root, Bytes(raw)); err != nil {
		return err
	}
	// index.json is read, changed and replaced; the lock on the blobs folder is for that alone.
	blobs, err := os.Open(filepath.Join(t.spec.Path, ocispec.ImageBlobsDir))
	if err != nil {
		return err
	}
	defer blobs.Close()
	if err := unix.Flock(int(blobs.Fd()), unix.LOCK_EX); err != nil {
		return fmt.Errorf("lock %s: %w", blobs.Name(), err)
	}
	name := filepath.Join(t.spec.Path, ocispec.ImageIndexFile)
	old, err := readBounded(name)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	index, err := setTag(old, root, t.spec.Name)
	if err != nil {
		return fmt.Errorf("tag %s: %w", t.spec, err)
	}
	err = replace(name, func(f *os.File) error {
		_, err := f.Write(index)
		return err
	})
	t.tagged = err == nil
	return err
}

func (t *layoutTarget) Close() error {
	if t.lock == nil {
		return t.clean()
	}
	defer t.lock.Close()
	if t.tagged || unix.Flock(int(t.lock.Fd()), unix.LOCK_EX|unix.LOCK_NB) != nil {
		return nil
	}
	return t.clean()
}

// clean removes what this target made, newest first; a folder that somebody else has put something into stays.
func (t *layoutTarget) clean() error {
	if t.tagged {
		return nil
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	var errs []error
	for _, name := range slices.Backward(t.made) {
		err := os.Remove(name)
		if err != nil && !errors.Is(err, fs.ErrNotExist) && !errors.Is(err, unix.ENOTEMPTY) {
			errs = append(errs, err)
		}
	}
	t.made = nil
	return errors.Join(errs...)
}

// replace writes a file beside name and renames it over name: readers see the old one or the whole new one.
func replace(name string, write func(*os.File) error) error {
	f, err := createBeside(name)
	if err != nil {
		return err
	}
	err = write(f)
	if err = errors.Join(err, f.Close()); err == nil {
		err = os.Rename(f.Name(), name)
	}
	if err != nil {
		return errors.Join(err, os.Remove(f.Name()))
	}
	return nil
}

// createBeside is os.CreateTemp in name's folder, with the permissions that the umask allows: the file is to stay.
func createBeside(name string) (*os.File, error) {
	dir, base := filepath.Split(name)
	return os.OpenFile(filepath.Join(dir, "."+base+"."+rand.Text()), os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o666)
}

package cache

import (
	"errors"
	"io/fs"
	"os"
	"testing"
)

// TestCheckMetadata: what the disk has made of the files that say what a layer is, is found out while it is open.
func TestCheckMetadata(t *testing.T) {
	for _, name := range []string{metaName, chunksName} {
		t.Run(name, func(t *testing.T) {
			store := openStore(t, t.TempDir(), bootA)
			l := newSample("layer", 5000, 100).create(t, store)
			defer closeAll(t, l, store)
			if err := l.CheckMetadata(); err != nil {
				t.Fatal(err)
			}
			f, err := os.OpenFile(l.dir+"/"+name, os.O_WRONLY, 0)
			if err != nil {
				t.Fatal(err)
			}
			_, err = f.WriteAt([]byte("lost"), 3)
			if err := errors.Join(err, f.Close()); err != nil {
				t.Fatal(err)
			}
			if err := l.CheckMetadata(); !errors.Is(err, fs.ErrNotExist) { // as for damage that is found when it is opened
				t.Errorf("error %v", err)
			}
		})
	}
}

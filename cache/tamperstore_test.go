package cache

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/opencontainers/go-digest"
)

// TestTamperedStore tampers with what is the store's own.
func TestTamperedStore(t *testing.T) {
	for how, tamper := range tamperings {
		for _, name := range []string{"lock", "format", "serial", "clean", refusalsName, "tmp", "sha256", "."} {
			t.Run(how+" "+name, func(t *testing.T) {
				s := states["sealed"](t, memoryDir(t), ends["closed"])
				file := filepath.Join(s.root, "layers", name)
				if name == refusalsName {
					refuse(t, s.root, 1)
				}
				if name == "tmp" || name == "sha256" || name == "." {
					switch how {
					case "deleted":
						if err := os.RemoveAll(file); err != nil && name != "." {
							t.Fatal(err)
						}
					case "emptied": // a file in its place
						if err := errors.Join(os.RemoveAll(filepath.Clean(file)), os.WriteFile(filepath.Clean(file), nil, 0o600)); err != nil {
							t.Fatal(err)
						}
					case "unreadable":
						if err := os.Chmod(file, 0); err != nil {
							t.Fatal(err)
						}
					default:
						return
					}
				} else if err := tamper(file); err != nil {
					t.Skip(err)
				}
				if name == "." && how == "emptied" {
					for range 2 {
						if l, err := open(s.root, bootA); err == nil || !strings.Contains(err.Error(), s.root) {
							t.Errorf("open: %v, %v, want an error that names it", l, err)
						}
					}
					return
				}
				s.examine(t, bootA)
				s.examine(t, bootB)
				refuse(t, s.root, 2)
			})
		}
	}
}

// refuse has a store remember a refusal, which it remembers when it is opened again.
func refuse(t *testing.T, root string, which int) {
	t.Helper()
	s := openStore(t, root, bootA)
	if err := s.Refuse(refusalOf(which)); err != nil {
		t.Error(err)
	}
	closeAll(t, s)
	s = openStore(t, root, bootA)
	remembers(t, s, map[int]bool{which: true})
	closeAll(t, s)
}

// TestIDsRunOut: no number in the file makes it impossible to make layers.
func TestIDsRunOut(t *testing.T) {
	for _, serial := range []string{"4294967295\n", "2147483648", "99999999999999999999", "-1", "\x00\x00", ""} {
		root := memoryDir(t)
		closeAll(t, openStore(t, root, bootA))
		if err := os.WriteFile(filepath.Join(root, "layers", "serial"), []byte(serial), 0o600); err != nil {
			t.Fatal(err)
		}
		s := openStore(t, root, bootA)
		l, err := s.Create(tamperSample.digest, tamperSample.info(), tamperSample.build)
		if err != nil {
			t.Errorf("serial %q: %v", serial, err)
			continue
		}
		closeAll(t, l, s)
	}
}

// TestForeignEntries: what lies in the store and is no layer does not keep it from working.
func TestForeignEntries(t *testing.T) {
	s := states["sealed"](t, memoryDir(t), ends["closed"])
	layers := filepath.Join(s.root, "layers", "sha256")
	file, empty := digest.FromString("file"), digest.FromString("empty")
	err := errors.Join(
		os.WriteFile(filepath.Join(layers, file.Encoded()), []byte("no folder"), 0o600),
		os.Mkdir(filepath.Join(layers, empty.Encoded()), 0o700),
		os.WriteFile(filepath.Join(layers, "lost+found"), nil, 0o600),
		os.WriteFile(s.file("notes.txt"), nil, 0o600),
		os.Mkdir(s.file("folder"), 0o700),
	)
	if err != nil {
		t.Fatal(err)
	}
	store := openStore(t, s.root, bootA)
	if _, err := store.Usage(); err != nil {
		t.Error(err)
	}
	for _, d := range []digest.Digest{file, empty} {
		if _, err := store.Get(d); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("get: %v", err)
		}
		if l, err := store.Create(d, s.info(), s.build); err != nil {
			t.Errorf("create: %v", err)
		} else {
			closeAll(t, l)
		}
	}
	closeAll(t, store)
	if right := s.examine(t, bootA); right != s.bytes() {
		t.Errorf("%d of %d bytes were there", right, s.bytes())
	}
}

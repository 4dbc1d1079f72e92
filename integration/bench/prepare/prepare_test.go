package prepare

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/sluice-snapshotter/sluice/integration/bench/system"
	"github.com/sluice-snapshotter/sluice/integration/images"
	"github.com/sluice-snapshotter/sluice/integration/link"
	"github.com/sluice-snapshotter/sluice/integration/stack"
)

func TestMain(m *testing.M) { os.Exit(stack.Isolate(m.Run)) }

// TestProfile records an image of which it is known what its command reads.
func TestProfile(t *testing.T) {
	m, s := fixture(t)
	if err := s.Image.Push(t.Context(), m.Ref(s.Name, system.Plain)); err != nil {
		t.Fatal(err)
	}
	p, err := m.record(t.Context(), s)
	if err != nil {
		t.Fatal(err)
	}
	_, args, err := command(s)
	if err != nil {
		t.Fatal(err)
	}
	read := slices.DeleteFunc(args, func(a string) bool { return !strings.HasPrefix(a, "/") })
	var paths []string
	for _, f := range p.Files {
		paths = append(paths, f.Path)
	}
	i := slices.Index(paths, read[0])
	if i < 0 || !slices.Equal(paths[i:], read) {
		t.Errorf("recorded %q, want it to end in %q", paths, read)
	}
	if want := images.SampleLine + "\n"; p.Output != want {
		t.Errorf("it printed %q, want %q", p.Output, want)
	}
	// 20 files of 50 kB, which compress to less than a half, and the program.
	m.profiles = map[string]Profile{"a": p, "b": p}
	if n := m.Needed("a", "b"); n < 200_000 || n > 2_500_000 || n != m.Needed("a") {
		t.Errorf("%d bytes of pages were read, of both %d", m.Needed("a"), n)
	}
}

// TestMake makes all forms, and says why there is none where a tool fails.
func TestMake(t *testing.T) {
	m, s := fixture(t)
	bad := peer(t, "echo cannot convert $SRC >&2; exit 1")
	m.Systems = append(system.Own(), bad)
	if err := m.Make(t.Context(), s); err != nil {
		t.Fatal(err)
	}
	for _, sys := range m.Systems {
		err := m.Missing(s.Name, sys.Form)
		if sys.Form == bad.Form {
			if err == nil || !strings.Contains(err.Error(), "cannot convert "+m.Ref(s.Name, system.Plain)) {
				t.Errorf("%s: %v", sys.Form, err)
			}
		} else if err != nil {
			t.Errorf("%s: %v", sys.Form, err)
		}
	}
	if m.Needed(s.Name) == 0 {
		t.Error("nothing is needed")
	}
	m.Systems = system.Own()
	m.Progress = func(format string, args ...any) { t.Errorf("made again: "+format, args...) }
	if err := m.Make(t.Context(), s); err != nil {
		t.Error(err)
	}
}

func fixture(t *testing.T) (*Maker, Subject) {
	t.Helper()
	reg, err := stack.StartMemoryRegistry(t.Context(), link.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := reg.Close(); err != nil {
			t.Error(err)
		}
	})
	im, err := images.Distinct(t.Context(), 0)
	if err != nil {
		t.Fatal(err)
	}
	return &Maker{Registry: reg, Progress: t.Logf}, Subject{Name: "distinct-0", Image: im}
}

func peer(t *testing.T, script string) system.System {
	t.Helper()
	path := filepath.Join(t.TempDir(), "peers.toml")
	text := "[[system]]\nname = \"peer\"\nsnapshotter = \"peer\"\ncommand = [\"/bin/true\"]\nsocket = \"x\"\nimage = \"own\"\nconvert = '" + script + "'\n"
	if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
	there, _, err := system.ReadPeers(path)
	if err != nil {
		t.Fatal(err)
	}
	return there[0]
}

func TestLiteral(t *testing.T) {
	if got, want := literal(`/a*b?c[d]\e`), `/a\*b\?c\[d]\\e`; got != want {
		t.Errorf("%s, want %s", got, want)
	}
}

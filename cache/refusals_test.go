package cache

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/opencontainers/go-digest"
)

func refusalOf(i int) Refusal {
	return Refusal{Digest: digest.FromString(fmt.Sprint("blob", i)), TOCDigest: digest.FromString("toc"), DiffID: digest.FromString(fmt.Sprint("tar", i))}
}

// remembers checks which refusals a store knows.
func remembers(t *testing.T, s *Store, want map[int]bool) {
	t.Helper()
	for i, known := range want {
		r := refusalOf(i)
		if got := s.Refused(r.Digest, r.TOCDigest); slices.Contains(got, r.DiffID) != known || len(got) > 0 && !known {
			t.Errorf("refusal %d: %q, want %t", i, got, known)
		}
		if got := s.Refused(r.Digest, digest.FromString("another TOC")); len(got) > 0 {
			t.Errorf("refusal %d: %s by another TOC", i, got)
		}
	}
}

// TestRefusals: the newest are remembered, across restarts and reboots, whatever becomes of the layers.
func TestRefusals(t *testing.T) {
	root := t.TempDir()
	s := openStore(t, root, bootA)
	remembers(t, s, map[int]bool{0: false})
	for _, i := range []int{0, 1, 0} {
		if err := s.Refuse(refusalOf(i)); err != nil {
			t.Fatal(err)
		}
	}
	if err := s.Remove(refusalOf(0).Digest); err != nil {
		t.Fatal(err)
	}
	closeAll(t, s)
	s = openStore(t, root, bootB)
	remembers(t, s, map[int]bool{0: true, 1: true, 2: false})
	for i := range maxRefusals - 2 {
		s.refusals.list = append(s.refusals.list, refusalOf(10+i))
	}
	for i := maxRefusals - 2; i < maxRefusals; i++ {
		if err := s.Refuse(refusalOf(10 + i)); err != nil {
			t.Fatal(err)
		}
	}
	want := map[int]bool{0: false, 1: false, 10: true, 9 + maxRefusals: true}
	remembers(t, s, want)
	closeAll(t, s)
	s = openStore(t, root, bootB)
	remembers(t, s, want)
	if n := len(s.refusals.list); n != maxRefusals {
		t.Errorf("%d are remembered", n)
	}
	changed := refusalOf(10)
	changed.DiffID = digest.FromString("another tar")
	changed.Padded = []digest.Digest{changed.DiffID, digest.FromString("the same with zeros")}
	if err := s.Refuse(changed); err != nil || !slices.Equal(s.Refused(changed.Digest, changed.TOCDigest), changed.Padded) || len(s.refusals.list) != maxRefusals {
		t.Errorf("one that is found out anew: %s, %v", s.Refused(changed.Digest, changed.TOCDigest), err)
	}
	closeAll(t, s)
}

// TestRefusalsDamaged: a file that makes no sense keeps nobody from anything.
func TestRefusalsDamaged(t *testing.T) {
	for name, text := range map[string]string{
		"empty": "", "cut": `[{"digest":`, "another type": `{"a": 1}`, "null": "null",
		"nonsense": `[{"digest": "../x", "tocDigest": "", "diffID": ""}, {"digest": "` + refusalOf(1).Digest.String() + `"}]`,
	} {
		t.Run(name, func(t *testing.T) {
			s := openStore(t, t.TempDir(), bootA)
			defer closeAll(t, s)
			if err := os.WriteFile(s.refusalsPath(), []byte(text), 0o600); err != nil {
				t.Fatal(err)
			}
			remembers(t, s, map[int]bool{1: false})
			if err := s.Refuse(refusalOf(1)); err != nil {
				t.Fatal(err)
			}
			remembers(t, s, map[int]bool{1: true})
		})
	}
}

// TestRefuseFullDisk: what the disk does not take is remembered by the process.
func TestRefuseFullDisk(t *testing.T) {
	s := openStore(t, t.TempDir(), bootA)
	defer closeAll(t, s)
	if err := os.Mkdir(s.refusalsPath(), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := s.Refuse(refusalOf(1)); err == nil {
		t.Error("no error")
	}
	remembers(t, s, map[int]bool{1: true})
}

// TestRefusalsMisplaced: what is no file keeps nobody waiting.
func TestRefusalsMisplaced(t *testing.T) {
	for _, name := range []string{refusalsName, refusalsName + newSuffix} {
		for _, how := range []string{"fifo", "loop"} {
			t.Run(how+" "+name, func(t *testing.T) {
				s := openStore(t, t.TempDir(), bootA)
				defer closeAll(t, s)
				file := filepath.Join(s.dir, name)
				if err := errors.Join(os.WriteFile(file, nil, 0o600), tamperings[how](file)); err != nil {
					t.Fatal(err)
				}
				remembers(t, s, map[int]bool{1: false})
				if err := s.Refuse(refusalOf(1)); err != nil {
					t.Error(err)
				}
				remembers(t, s, map[int]bool{1: true})
			})
		}
	}
}

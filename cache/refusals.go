package cache

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"slices"
	"sync"

	"github.com/opencontainers/go-digest"
)

const (
	refusalsName = "refused.json"
	// maxRefusals is how many are remembered. Each takes up to 2 KiB.
	maxRefusals = 1024
)

// Refusal is what is remembered of a layer that was another one than an image claimed, after it is gone from the store. What a blob and a TOC
// make together never changes.
type Refusal struct {
	Digest    digest.Digest `json:"digest"`    // of the blob
	TOCDigest digest.Digest `json:"tocDigest"` // by which it was mounted
	DiffID    digest.Digest `json:"diffID"`    // that was found

	// Padded is Info.Padded: who claims one of those later is right.
	Padded []digest.Digest `json:"padded,omitempty"`
}

// refusals are those of a store, in a file in its folder.
type refusals struct {
	mu   sync.Mutex
	list []Refusal // the oldest first; nil until the file was read
}

// Refuse remembers a refusal, across restarts, as one of the newest 1024. After an error it is remembered by this process.
func (s *Store) Refuse(r Refusal) error {
	s.refusals.mu.Lock()
	defer s.refusals.mu.Unlock()
	s.readRefusals()
	if slices.ContainsFunc(s.refusals.list, r.saysTheSame) {
		return nil
	}
	list := slices.DeleteFunc(s.refusals.list, r.sameLayer)
	if n := len(list) - maxRefusals + 1; n > 0 {
		list = slices.Delete(list, 0, n)
	}
	s.refusals.list = append(list, r)
	b, err := json.MarshalIndent(s.refusals.list, "", "  ")
	if err == nil {
		err = writeSynced(s.refusalsPath(), append(b, '\n'))
	}
	if err != nil {
		return fmt.Errorf("remember that layer %s was refused: %w", r.Digest, err)
	}
	return nil
}

// Refused returns the diffIDs that a blob with a TOC was found to go by when it was refused; none if it was not, or is forgotten.
func (s *Store) Refused(d, toc digest.Digest) []digest.Digest {
	s.refusals.mu.Lock()
	defer s.refusals.mu.Unlock()
	s.readRefusals()
	if i := slices.IndexFunc(s.refusals.list, (Refusal{Digest: d, TOCDigest: toc}).sameLayer); i >= 0 {
		return allOf(s.refusals.list[i].DiffID, s.refusals.list[i].Padded)
	}
	return nil
}

func (r Refusal) saysTheSame(other Refusal) bool {
	return r.sameLayer(other) && r.DiffID == other.DiffID && slices.Equal(r.Padded, other.Padded)
}

func (r Refusal) sameLayer(other Refusal) bool {
	return r.Digest == other.Digest && r.TOCDigest == other.TOCDigest
}

func (s *Store) refusalsPath() string { return filepath.Join(s.dir, refusalsName) }

// readRefusals reads the file, once. One that is damaged is as good as none, and what it says that makes no sense is dropped: all that is
// lost is that a layer is found out a second time.
func (s *Store) readRefusals() {
	if s.refusals.list != nil {
		return
	}
	s.refusals.list = []Refusal{}
	b, err := readFile(s.refusalsPath())
	if err != nil {
		if !errors.Is(err, fs.ErrNotExist) {
			s.refusals.list = nil // it is tried again
		}
		return
	}
	var list []Refusal
	if json.Unmarshal(b, &list) != nil {
		return
	}
	list = slices.DeleteFunc(list, func(r Refusal) bool {
		return r.Digest.Validate() != nil || r.TOCDigest.Validate() != nil || r.DiffID == ""
	})
	s.refusals.list = append(s.refusals.list, list[max(0, len(list)-maxRefusals):]...)
}

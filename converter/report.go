package converter

import (
	"fmt"
	"slices"
	"strings"

	"github.com/opencontainers/go-digest"

	"github.com/sluice-snapshotter/sluice/converter/image"
)

// Report is what a conversion did. Its JSON form is `ctr-remote`'s --json.
type Report struct {
	Source       string        `json:"source"`
	SourceDigest digest.Digest `json:"source_digest"`
	Target       string        `json:"target"`
	Digest       digest.Digest `json:"digest"` // of the document that the target's name now stands for
	MediaType    string        `json:"media_type"`
	Layers       []LayerReport `json:"layers"`
	// Missing are the lines of the prefetch list that named nothing in at least one of the images.
	Missing []string `json:"missing,omitempty"`
	// Skipped are listed files that are there and yet could not be put first: that takes an entry for the folder that a
	// file is in, and for what a hard link means, in the same layer.
	Skipped []string `json:"skipped,omitempty"`
	Seconds float64  `json:"seconds"`
}

// LayerReport is what happened to one layer of one image. A layer of several images is reported for each.
type LayerReport struct {
	Platform      string        `json:"platform"`
	Action        Action        `json:"action"`
	Source        digest.Digest `json:"source"`
	SourceSize    int64         `json:"source_size"` // bytes of the blob
	Target        digest.Digest `json:"target"`
	Size          int64         `json:"size"` // bytes of the new blob
	Format        string        `json:"format"`
	TOC           digest.Digest `json:"toc,omitempty"`
	Files         int           `json:"files"`          // regular files
	PrefetchBytes int64         `json:"prefetch_bytes"` // uncompressed
	Seconds       float64       `json:"seconds"`
}

// Action is what was done to a layer.
type Action string

// The actions.
const (
	Converted Action = "converted"
	Reused    Action = "reused"  // it was lazy already
	Foreign   Action = "foreign" // referred to, not copied
)

// Stage is how far a layer has come.
type Stage string

// The stages, in order. A layer that is not converted skips Compressing.
const (
	Fetching    Stage = "fetching" // and decompressing
	Compressing Stage = "compressing"
	Pushing     Stage = "pushing"
	Finished    Stage = "finished"
)

// Progress is one step forward of one layer.
type Progress struct {
	Layer digest.Digest // the source's
	Stage Stage
	// Bytes of Total have passed in this stage. Fetching counts the source blob's bytes; in the other stages Total
	// is 0, for not known.
	Bytes, Total int64
}

// report adds the layers of one image.
func (c *conversion) report(r *Report, m *image.Manifest) error {
	hits := make([]bool, len(c.opts.Prefetch.Lines()))
	for _, desc := range m.Layers {
		l := c.done[keyOf(desc)]
		for i, hit := range l.hits {
			hits[i] = hits[i] || hit
		}
		for _, name := range l.skipped {
			r.Skipped = appendNew(r.Skipped, "/"+name)
		}
		lr := l.report
		lr.Platform = m.Platform()
		r.Layers = append(r.Layers, lr)
	}
	var missing []string
	for i, line := range c.opts.Prefetch.Lines() {
		if !hits[i] {
			missing = append(missing, line)
		}
	}
	if c.opts.FailOnMissing && len(missing) > 0 {
		return fmt.Errorf("prefetch list, %s: %s: %w", m.Platform(), strings.Join(missing, " "), ErrMissing)
	}
	for _, line := range missing {
		r.Missing = appendNew(r.Missing, line)
	}
	return nil
}

func appendNew(list []string, s string) []string {
	if slices.Contains(list, s) {
		return list
	}
	return append(list, s)
}

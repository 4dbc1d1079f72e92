package snapshotter

import (
	"errors"
	"fmt"
	"maps"
	"strconv"
	"strings"

	"github.com/containerd/containerd/v2/core/snapshots"
	"github.com/containerd/containerd/v2/pkg/reference"
	"github.com/containerd/containerd/v2/pkg/snapshotters"
	"github.com/containerd/stargz-snapshotter/estargz"
	"github.com/opencontainers/go-digest"

	"github.com/sluice-snapshotter/sluice/fs"
)

// Labels by which clients of stargz-snapshotter say where a layer is
// (its fs/source/source.go): they write them over whatever the image has.
const (
	stargzReferenceLabel = "containerd.io/snapshot/remote/stargz.reference"
	stargzDigestLabel    = "containerd.io/snapshot/remote/stargz.digest"
)

// Labels on the snapshots that are remote. Nobody else may set or change them:
// they decide which layer a name shows.
const (
	remoteLabel    = "containerd.io/snapshot/remote" // as the peers mark theirs
	ourPrefix      = "containerd.io/snapshot/remote/sluice."
	referenceLabel = ourPrefix + "reference"
	digestLabel    = ourPrefix + "digest"
	manifestLabel  = ourPrefix + "manifest-digest"
	tocLabel       = ourPrefix + "toc-digest"
	sizeLabel      = ourPrefix + "size"    // bytes of the blob
	diffIDLabel    = ourPrefix + "diff-id" // of a plain layer
)

// errNoSource says that the labels do not speak of a layer in a registry:
// containerd gives them only if it is told to.
var errNoSource = errors.New("no image reference and layer digest among the labels " +
	"(containerd: exports.enable_remote_snapshot_annotations of the proxy plugin, or CRI's disable_snapshot_annotations = false)")

// A LabelError is a label on a layer whose value cannot be used.
type LabelError struct {
	Label, Value string
	Err          error
}

func (e *LabelError) Error() string {
	return fmt.Sprintf("label %s=%q: %v", e.Label, e.Value, e.Err)
}

func (e *LabelError) Unwrap() error { return e.Err }

// labelReader reads labels and keeps the first error.
type labelReader struct {
	labels map[string]string
	err    error
}

func (r *labelReader) fail(label string, err error) {
	if r.err == nil {
		r.err = &LabelError{Label: label, Value: r.labels[label], Err: err}
	}
}

// digest reads a label that may be missing.
func (r *labelReader) digest(label string) digest.Digest {
	v := r.labels[label]
	if v == "" {
		return ""
	}
	d, err := digest.Parse(v)
	if err != nil {
		r.fail(label, err)
	}
	return d
}

// reference reads the reference of an image.
func (r *labelReader) reference(label string) string {
	v := r.labels[label]
	if _, err := reference.Parse(v); err != nil {
		r.fail(label, err)
	}
	return v
}

// same checks that two labels say the same.
func (r *labelReader) same(label, other string) {
	if r.labels[label] != r.labels[other] {
		r.fail(label, fmt.Errorf("label %s=%q says otherwise, and one of them is the image's own", other, r.labels[other]))
	}
}

// offeredSource reads the labels that containerd gives to Prepare for a layer.
// Errors: errNoSource, *LabelError.
//
// containerd makes labels of the annotations that the image's own manifest has
// for the layer (core/unpack; pkg/unpack in 1.7). So those that neither it nor
// its client sets are the image's, which could name a repository that others
// pay for with their credentials. Whoever pulls sets both labels of one pair,
// over the image's. The other pair, if there is one, is then the image's, and
// nothing says which is: so they have to name the same. Where nobody sets
// any, an image that does cannot be told from one that was asked for; containerd
// has to be told to set its own (docs/reference.md).
func offeredSource(labels map[string]string) (fs.Source, error) {
	cri := sourceLabels{snapshotters.TargetRefLabel, snapshotters.TargetLayerDigestLabel}
	stargz := sourceLabels{stargzReferenceLabel, stargzDigestLabel}
	from := cri
	switch {
	case cri.in(labels):
	case stargz.in(labels):
		from = stargz
	default:
		return fs.Source{}, errNoSource
	}
	r := labelReader{labels: labels}
	src := fs.Source{
		Ref:       r.reference(from.ref),
		Digest:    r.digest(from.layer),
		Manifest:  r.digest(snapshotters.TargetManifestDigestLabel),
		TOCDigest: r.digest(estargz.TOCJSONDigestAnnotation),
	}
	if stargz.in(labels) {
		r.same(stargz.ref, from.ref)
		r.same(stargz.layer, from.layer)
	}
	return src, r.err
}

// sourceLabels are two labels that say together where a layer is.
type sourceLabels struct{ ref, layer string }

func (l sourceLabels) in(labels map[string]string) bool {
	return labels[l.ref] != "" && labels[l.layer] != ""
}

// recordedSource reads the labels that remoteLabels wrote.
func recordedSource(labels map[string]string) (fs.Source, error) {
	r := labelReader{labels: labels}
	src := fs.Source{
		Ref:       labels[referenceLabel],
		Digest:    r.digest(digestLabel),
		Manifest:  r.digest(manifestLabel),
		TOCDigest: r.digest(tocLabel),
		DiffID:    r.digest(diffIDLabel),
	}
	if v := labels[sizeLabel]; v != "" {
		size, err := strconv.ParseInt(v, 10, 64)
		if err != nil {
			r.fail(sizeLabel, err)
		}
		src.Size = size
	}
	return src, r.err
}

// remoteLabels returns the labels of a remote snapshot: those that it was
// offered with, snapshot.ref among them, by which containerd finds it, and
// what it takes to mount the layer again.
func remoteLabels(offered map[string]string, src fs.Source) map[string]string {
	labels := withoutOurs(offered)
	labels[remoteLabel] = "remote snapshot"
	labels[referenceLabel] = src.Ref
	labels[digestLabel] = src.Digest.String()
	if src.Manifest != "" {
		labels[manifestLabel] = src.Manifest.String()
	}
	if src.TOCDigest != "" {
		labels[tocLabel] = src.TOCDigest.String()
	}
	if src.DiffID != "" {
		labels[diffIDLabel] = src.DiffID.String()
	}
	if src.Size != 0 {
		labels[sizeLabel] = strconv.FormatInt(src.Size, 10)
	}
	return labels
}

// protected says whether a label is what makes a snapshot a remote one.
func protected(label string) bool {
	return label == remoteLabel || label == snapshots.LabelSnapshotRef || strings.HasPrefix(label, ourPrefix)
}

// keepRemoteLabels returns labels for an update of a snapshot: with the
// protected ones of a remote snapshot as they are, and on others without ours.
func keepRemoteLabels(old snapshots.Info, labels map[string]string) map[string]string {
	labels = withoutOurs(labels)
	if !(snapshot{info: old}).remote() {
		return labels
	}
	for k, v := range old.Labels {
		if protected(k) {
			labels[k] = v
		}
	}
	return labels
}

// withoutOurs returns a copy without the labels that only we may set. Image
// manifests and pods can put labels on snapshots.
func withoutOurs(labels map[string]string) map[string]string {
	labels = maps.Clone(labels)
	if labels == nil {
		labels = make(map[string]string)
	}
	maps.DeleteFunc(labels, func(k, _ string) bool {
		return k == remoteLabel || strings.HasPrefix(k, ourPrefix)
	})
	return labels
}

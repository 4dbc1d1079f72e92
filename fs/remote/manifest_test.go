package remote

import (
	"bytes"
	"errors"
	"net/http"
	"strings"
	"testing"

	"github.com/containerd/containerd/v2/core/images"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

const (
	ociManifest = `{"schemaVersion":2,"mediaType":"application/vnd.oci.image.manifest.v1+json","config":{"digest":"` + emptyDigest + `"},
		"layers":[{"mediaType":"application/vnd.oci.image.layer.v1.tar+gzip","digest":"` + emptyDigest + `","size":7,
		"annotations":{"containerd.io/snapshot/stargz/toc.digest":"` + emptyDigest + `"}}]}`
	dockerManifest = `{"schemaVersion":2,"mediaType":"application/vnd.docker.distribution.manifest.v2+json","config":{},"layers":[]}`
	nameless       = `{"schemaVersion":2,"config":{},"layers":[]}`
	index          = `{"schemaVersion":2,"mediaType":"application/vnd.oci.image.index.v1+json","manifests":[]}`
	dockerList     = `{"schemaVersion":2,"mediaType":"application/vnd.docker.distribution.manifest.list.v2+json","manifests":[]}`
	schema1        = `{"schemaVersion":1,"fsLayers":[{"blobSum":"` + emptyDigest + `"}],"history":[]}`
)

func TestManifest(t *testing.T) {
	tests := []struct {
		name, mediaType, body string
		fault                 http.HandlerFunc
		layers                int
		is                    error
		want                  string
	}{
		{name: "OCI", mediaType: ocispec.MediaTypeImageManifest, body: ociManifest, layers: 1},
		{name: "Docker", mediaType: images.MediaTypeDockerSchema2Manifest, body: dockerManifest},
		{name: "by Content-Type", mediaType: ocispec.MediaTypeImageManifest + "; charset=utf-8", body: nameless},
		{name: "by its form", mediaType: "text/plain", body: nameless},
		{name: "after a 503", mediaType: ocispec.MediaTypeImageManifest, body: ociManifest, layers: 1, fault: status(503)},
		{name: "after a broken body", body: ociManifest, layers: 1, fault: partly(200, []byte(ociManifest[:50]), "Content-Length", "400")},
		{name: "OCI index", body: index, is: ErrIndex},
		{name: "Docker list", body: dockerList, is: ErrIndex},
		{name: "index by Content-Type", mediaType: ocispec.MediaTypeImageIndex, body: `{"schemaVersion":2,"manifests":[]}`, is: ErrIndex},
		{name: "index by its form", body: `{"schemaVersion":2,"manifests":[]}`, is: ErrIndex},
		{name: "both", body: `{"config":{},"layers":[],"manifests":[]}`, is: ErrManifest, want: "both"},
		{name: "schema 1", body: schema1, is: ErrManifest, want: "schema 1"},
		{name: "other type", body: `{"mediaType":"application/x","config":{},"layers":[]}`, is: ErrManifest, want: `"application/x"`},
		{name: "neither", body: `{}`, is: ErrManifest, want: "no config"},
		{name: "not JSON", body: `<html>`, is: ErrManifest},
		{name: "empty", body: ``, is: ErrManifest},
		{name: "wrong shape", body: `{"config":7,"layers":[]}`, is: ErrManifest},
		{name: "404", body: ociManifest, fault: message(404, `{"errors":[{"code":"MANIFEST_UNKNOWN","message":"manifest unknown"}]}`), want: "404 Not Found: MANIFEST_UNKNOWN: manifest unknown"},
		{name: "other bytes", body: ociManifest, fault: message(200, dockerManifest), want: "the answer's digest is " + digest.FromString(dockerManifest).String()},
		{name: "too long by its length", body: ociManifest, fault: status(200, "Content-Length", "8388609"), want: "8388609 bytes, more than 8388608"},
		{name: "too long", body: ociManifest, fault: func(w http.ResponseWriter, _ *http.Request) {
			w.Write(bytes.Repeat([]byte(" "), MaxManifestSize+1))
		}, want: "more than 8388608 bytes"},
		{name: "a part of it", body: ociManifest, fault: partly(206, []byte(ociManifest)), want: "status 206"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			h := newHost(t, test.fault)
			d := h.addManifest(test.mediaType, []byte(test.body))
			r, _ := newRegistry(t, h, Options{})
			m, err := r.Manifest(t.Context(), testRef, d)
			if test.is == nil && test.want == "" {
				if err != nil || len(m.Layers) != test.layers {
					t.Fatalf("got %+v, %v", m, err)
				}
				if got := h.seen()[0].Header.Get("Accept"); got != manifestTypes {
					t.Errorf("Accept: %s", got)
				}
				return
			}
			if err == nil || test.is != nil && !errors.Is(err, test.is) || !strings.Contains(err.Error(), test.want) {
				t.Fatalf("got %v", err)
			}
			if e := asError(t, err); e.Op != "manifest" || e.Ref != testRef || e.Digest != d || e.Host != h.host() || e.Temporary() {
				t.Errorf("incomplete: %+v", e)
			}
		})
	}
}

func TestManifestOfTheLargestSize(t *testing.T) {
	body := append([]byte(ociManifest), bytes.Repeat([]byte(" "), MaxManifestSize-len(ociManifest))...)
	h := newHost(t)
	d := h.addManifest(ocispec.MediaTypeImageManifest, body)
	r, _ := newRegistry(t, h, Options{})
	if _, err := r.Manifest(t.Context(), testRef, d); err != nil {
		t.Error(err)
	}
}

// The next host is asked when one has other bytes under the digest.
func TestManifestFromTheOtherHost(t *testing.T) {
	mirror, origin := newHost(t, message(200, dockerManifest)), newHost(t)
	d := origin.addManifest(ocispec.MediaTypeImageManifest, []byte(ociManifest))
	root := hostsDir(t, origin, "[host.\""+mirror.URL+"\"]\n")
	r, _ := newRegistry(t, origin, Options{ConfigPath: root})
	if m, err := r.Manifest(t.Context(), testRef, d); err != nil || len(m.Layers) != 1 {
		t.Errorf("got %+v, %v", m, err)
	}
}

// What is taken for a manifest could not be taken for anything else.
func FuzzManifest(f *testing.F) {
	for _, body := range []string{ociManifest, dockerManifest, nameless, index, dockerList, schema1, `{"layers":null,"manifests":null}`} {
		f.Add([]byte(body), ocispec.MediaTypeImageManifest)
		f.Add([]byte(body), "")
	}
	f.Fuzz(func(t *testing.T, p []byte, mediaType string) {
		m, err := parseManifest(p, mediaType)
		if err != nil {
			if !errors.Is(err, ErrIndex) && !errors.Is(err, ErrManifest) {
				t.Errorf("unnamed error %v", err)
			}
			return
		}
		if images.IsIndexType(m.MediaType) || images.IsIndexType(mediaType) && m.MediaType == "" {
			t.Errorf("an index was taken for a manifest: %s", p)
		}
	})
}

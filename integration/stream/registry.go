package stream

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"runtime"
	"time"

	"github.com/containerd/stargz-snapshotter/estargz"
	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/sluice-snapshotter/sluice/integration/link"
)

// name of the image in its registry.
const name = "stream/file:latest"

// describe makes the config and the manifest.
func (im *Image) describe(toc, diffID digest.Digest) error {
	config, err := im.blob(ocispec.MediaTypeImageConfig, ocispec.Image{
		Platform: ocispec.Platform{Architecture: runtime.GOARCH, OS: "linux"},
		RootFS:   ocispec.RootFS{Type: "layers", DiffIDs: []digest.Digest{diffID}},
	})
	if err != nil {
		return err
	}
	manifest, err := im.blob(ocispec.MediaTypeImageManifest, ocispec.Manifest{
		Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageManifest, Config: config,
		Layers: []ocispec.Descriptor{{
			MediaType: ocispec.MediaTypeImageLayerGzip, Digest: im.layer, Size: im.size,
			Annotations: map[string]string{estargz.TOCJSONDigestAnnotation: toc.String()},
		}},
	})
	im.manifest = manifest.Digest
	return err
}

// blob keeps v.
func (im *Image) blob(mediaType string, v any) (ocispec.Descriptor, error) {
	p, err := json.Marshal(v)
	d := ocispec.Descriptor{MediaType: mediaType, Digest: digest.FromBytes(p), Size: int64(len(p))}
	im.blobs[d.Digest] = p
	return d, err
}

// Registry serves one image through a link. Close it.
type Registry struct {
	Link   *link.Link
	server *http.Server
	ended  chan error
}

// Serve starts a registry on a free port of 127.0.0.1.
func Serve(im *Image) (*Registry, error) {
	l, err := net.ListenTCP("tcp4", &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		return nil, fmt.Errorf("serve stream: %w", err)
	}
	r := &Registry{server: &http.Server{Handler: im.handler(), ReadHeaderTimeout: time.Minute}, ended: make(chan error, 1)}
	go func() { r.ended <- r.server.Serve(l) }()
	if r.Link, err = link.Start(link.Options{Upstream: "http://" + l.Addr().String()}); err != nil {
		return nil, fmt.Errorf("serve stream: %w", errors.Join(err, r.Close()))
	}
	return r, nil
}

// Ref is the image's reference.
func (r *Registry) Ref() string { return r.Link.Addr() + "/" + name }

// Close ends all connections.
func (r *Registry) Close() error {
	var err error
	if r.Link != nil {
		err = r.Link.Close()
	}
	err = errors.Join(err, r.server.Close())
	if e := <-r.ended; !errors.Is(e, http.ErrServerClosed) {
		err = errors.Join(err, e)
	}
	return err
}

// handler answers the reading half of the distribution API.
func (im *Image) handler() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /v2/{$}", func(http.ResponseWriter, *http.Request) {})
	mux.HandleFunc("GET /v2/stream/file/manifests/{name}", func(w http.ResponseWriter, r *http.Request) {
		if name := r.PathValue("name"); name != "latest" && name != im.manifest.String() {
			http.NotFound(w, r)
			return
		}
		w.Header().Set("Content-Type", ocispec.MediaTypeImageManifest)
		w.Header().Set("Docker-Content-Digest", im.manifest.String())
		im.serve(w, r, im.manifest)
	})
	mux.HandleFunc("GET /v2/stream/file/blobs/{digest}", func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "application/octet-stream")
		im.serve(w, r, digest.Digest(r.PathValue("digest")))
	})
	return mux
}

// serve answers with a blob, or the part of it that is asked for.
func (im *Image) serve(w http.ResponseWriter, r *http.Request, d digest.Digest) {
	p, ok := im.blobs[d]
	switch {
	case d == im.layer:
		http.ServeContent(w, r, "", time.Time{}, io.NewSectionReader(im, 0, im.size))
	case ok:
		http.ServeContent(w, r, "", time.Time{}, bytes.NewReader(p))
	default:
		http.NotFound(w, r)
	}
}

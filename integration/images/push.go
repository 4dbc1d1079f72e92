package images

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net/http"
	"os"
	"strings"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// Push uploads the image to ref, "host:port/name:tag", over plain HTTP and without credentials. Blobs that are there stay.
func (im *Image) Push(ctx context.Context, ref string) error {
	host, rest, _ := strings.Cut(ref, "/")
	name, tag, ok := strings.Cut(rest, ":")
	if !ok {
		return fmt.Errorf("push %s: want host:port/name:tag", ref)
	}
	p := &pusher{base: "http://" + host + "/v2/" + name}
	for _, d := range append([]ocispec.Descriptor{im.Manifest.Config}, im.Manifest.Layers...) {
		if err := p.blob(ctx, im.blob(d.Digest), d); err != nil {
			return fmt.Errorf("push %s: %w", ref, err)
		}
	}
	manifest, err := os.ReadFile(im.blob(im.Target.Digest))
	if err != nil {
		return fmt.Errorf("push %s: %w", ref, err)
	}
	if err := p.manifest(ctx, tag, im.Target, manifest); err != nil {
		return fmt.Errorf("push %s: %w", ref, err)
	}
	return nil
}

// pusher speaks the push half of the distribution API for one repository.
type pusher struct{ base string }

func (p *pusher) blob(ctx context.Context, path string, d ocispec.Descriptor) error {
	if resp, err := p.do(ctx, http.MethodHead, p.base+"/blobs/"+d.Digest.String(), request{}); err == nil {
		resp.Body.Close()
		return nil
	}
	resp, err := p.do(ctx, http.MethodPost, p.base+"/blobs/uploads/", request{want: http.StatusAccepted})
	if err != nil {
		return err
	}
	resp.Body.Close()
	at, err := location(resp, d.Digest)
	if err != nil {
		return err
	}
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	resp, err = p.do(ctx, http.MethodPut, at, request{f, d.Size, "application/octet-stream", http.StatusCreated})
	if err != nil {
		return err
	}
	return resp.Body.Close()
}

func (p *pusher) manifest(ctx context.Context, tag string, d ocispec.Descriptor, content []byte) error {
	r := request{bytes.NewReader(content), d.Size, d.MediaType, http.StatusCreated}
	resp, err := p.do(ctx, http.MethodPut, p.base+"/manifests/"+tag, r)
	if err != nil {
		return err
	}
	return resp.Body.Close()
}

// location is where to upload, from the answer to the request for an upload.
func location(resp *http.Response, d digest.Digest) (string, error) {
	u, err := resp.Location()
	if err != nil {
		return "", fmt.Errorf("%s: %w", resp.Request.URL, err)
	}
	q := u.Query()
	q.Set("digest", d.String())
	u.RawQuery = q.Encode()
	return u.String(), nil
}

type request struct {
	body        io.Reader
	size        int64
	contentType string
	want        int // status code; 0 means 200
}

// do returns the answer if it has the wanted code; the caller closes its body.
func (p *pusher) do(ctx context.Context, method, u string, r request) (*http.Response, error) {
	req, err := http.NewRequestWithContext(ctx, method, u, r.body)
	if err != nil {
		return nil, err
	}
	if r.body != nil {
		req.ContentLength = r.size
		req.Header.Set("Content-Type", r.contentType)
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return nil, err
	}
	if want := max(r.want, http.StatusOK); resp.StatusCode != want {
		defer resp.Body.Close()
		text, _ := io.ReadAll(io.LimitReader(resp.Body, 1<<10)) // what can be read of the reason
		return nil, fmt.Errorf("%s %s: %s, want %d: %s", method, u, resp.Status, want, text)
	}
	return resp, nil
}

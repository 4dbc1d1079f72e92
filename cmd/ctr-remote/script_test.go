package main

import (
	"archive/tar"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"net"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/containerd/containerd/v2/core/images"
	"github.com/containerd/platforms"
	"github.com/klauspost/compress/gzip"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"github.com/rogpeppe/go-internal/testscript"
	"google.golang.org/grpc"

	"github.com/sluice-snapshotter/sluice/cmd/internal/control"
	"github.com/sluice-snapshotter/sluice/converter/endpoint"
)

func TestMain(m *testing.M) {
	testscript.Main(m, map[string]func(){"ctr-remote": main})
}

func TestScripts(t *testing.T) {
	testscript.Run(t, testscript.Params{
		Dir: "testdata",
		Setup: func(e *testscript.Env) error {
			e.Setenv("TMPDIR", filepath.Join(e.WorkDir, "tmp"))
			e.Setenv("DOCKER_CONFIG", filepath.Join(e.WorkDir, "docker"))
			return os.Mkdir(filepath.Join(e.WorkDir, "tmp"), 0o755)
		},
		Cmds: map[string]func(*testscript.TestScript, bool, []string){
			"mkimage": mkimage, "corrupt": corrupt, "status": exitStatus, "empty": empty, "daemon": daemon, "stall": stall,
		},
	})
}

// mkimage DIR [MEDIATYPE|docker] makes a layout with one image of two layers; the second may have another media type, or all
// documents Docker's.
func mkimage(ts *testscript.TestScript, _ bool, args []string) {
	dst, err := endpoint.NewLayoutTarget(ts.MkAbs(args[0]), "")
	ts.Check(err)
	put := func(mediaType string, raw []byte) ocispec.Descriptor {
		desc := ocispec.Descriptor{MediaType: mediaType, Digest: digest.FromBytes(raw), Size: int64(len(raw))}
		ts.Check(dst.Push(context.Background(), desc, endpoint.Bytes(raw)))
		return desc
	}
	config := ocispec.Image{Platform: platforms.DefaultSpec()}
	config.RootFS.Type = "layers"
	m := ocispec.Manifest{MediaType: ocispec.MediaTypeImageManifest}
	configType, layerType := ocispec.MediaTypeImageConfig, ocispec.MediaTypeImageLayerGzip
	if len(args) > 1 && args[1] == "docker" {
		args = args[:1]
		m.SchemaVersion, m.MediaType = 2, images.MediaTypeDockerSchema2Manifest
		configType, layerType = images.MediaTypeDockerSchema2Config, images.MediaTypeDockerSchema2LayerGzip
	}
	for i, name := range []string{"etc/one", "etc/two"} {
		plain, packed := layer(ts, name)
		mediaType := layerType
		if i == 1 && len(args) > 1 {
			mediaType = args[1]
		}
		config.RootFS.DiffIDs = append(config.RootFS.DiffIDs, digest.FromBytes(plain))
		m.Layers = append(m.Layers, put(mediaType, packed))
	}
	raw, err := json.Marshal(config)
	ts.Check(err)
	m.Config = put(configType, raw)
	raw, err = json.Marshal(m)
	ts.Check(err)
	root := ocispec.Descriptor{MediaType: m.MediaType, Digest: digest.FromBytes(raw), Size: int64(len(raw))}
	ts.Check(errors.Join(dst.Tag(context.Background(), root, raw), dst.Close()))
}

func layer(ts *testscript.TestScript, name string) (plain, packed []byte) {
	var b, z bytes.Buffer
	tw := tar.NewWriter(&b)
	ts.Check(tw.WriteHeader(&tar.Header{Typeflag: tar.TypeDir, Name: "etc/", Mode: 0o755}))
	ts.Check(tw.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: name, Mode: 0o644, Size: int64(len(name))}))
	_, err := io.WriteString(tw, name)
	ts.Check(errors.Join(err, tw.Close()))
	zw := gzip.NewWriter(&z)
	_, err = zw.Write(b.Bytes())
	ts.Check(errors.Join(err, zw.Close()))
	return b.Bytes(), z.Bytes()
}

// corrupt DIR N changes a byte in the middle of the N-th layer, in order of the manifest.
func corrupt(ts *testscript.TestScript, _ bool, args []string) {
	dir := ts.MkAbs(args[0])
	src, err := endpoint.NewLayoutSource(dir, "")
	ts.Check(err)
	desc, err := src.Resolve(context.Background())
	ts.Check(err)
	raw, err := endpoint.ReadDocument(context.Background(), src, desc)
	ts.Check(err)
	var m ocispec.Manifest
	ts.Check(json.Unmarshal(raw, &m))
	file := filepath.Join(dir, "blobs", "sha256", m.Layers[int(args[1][0]-'0')].Digest.Encoded())
	raw, err = os.ReadFile(file)
	ts.Check(err)
	raw[len(raw)/2] ^= 0xff
	ts.Check(os.WriteFile(file, raw, 0o644))
}

// exitStatus N COMMAND... wants exactly that exit status.
func exitStatus(ts *testscript.TestScript, _ bool, args []string) {
	err := ts.Exec(args[1], args[2:]...)
	got := "0"
	var exit interface{ ExitCode() int }
	if errors.As(err, &exit) {
		got = string(rune('0' + exit.ExitCode()))
	}
	if got != args[0] {
		ts.Fatalf("exit status %s (%v), want %s", got, err, args[0])
	}
}

// empty DIR wants nothing in the folder.
func empty(ts *testscript.TestScript, _ bool, args []string) {
	found, err := os.ReadDir(ts.MkAbs(args[0]))
	ts.Check(err)
	if len(found) > 0 {
		ts.Fatalf("%s holds %v", args[0], found)
	}
}

// daemon SOCKET answers status as a daemon does, until the script ends.
func daemon(ts *testscript.TestScript, _ bool, args []string) {
	l, err := new(net.ListenConfig).Listen(context.Background(), "unix", ts.MkAbs(args[0]))
	ts.Check(err)
	s := grpc.NewServer()
	control.Register(s, fixedServer{})
	served := make(chan error, 1)
	go func() { served <- s.Serve(l) }()
	ts.Defer(func() {
		s.Stop()
		ts.Check(<-served)
	})
}

type fixedServer struct{}

func (fixedServer) Status(context.Context, control.Nothing) (control.StatusReport, error) {
	return control.StatusReport{
		Version: "v1", PID: 42, Cache: control.Cache{Bytes: 5e6, Limit: 8e6, Pinned: 2e6}, Memory: control.Memory{Limit: 256 << 20},
		Layers: []control.Layer{{
			Digest: "sha256:0123456789abcdef", Image: "example.com/a:b", Format: "estargz",
			State: control.StateLazy, Mount: control.MountFUSE, Size: 2e6, Fetched: 1e6, Mounts: 1,
		}},
	}, nil
}

func (fixedServer) Drain(context.Context, control.Nothing) (control.DrainReport, error) {
	return control.DrainReport{}, errors.New("not here")
}

func (fixedServer) Cache(context.Context, control.Nothing) (control.CacheReport, error) {
	return control.CacheReport{
		Cache: control.Cache{Bytes: 5e6, Limit: 8e6, Pinned: 2e6, Trouble: "no space left"},
		Layers: []control.CachedLayer{
			{Digest: "sha256:0123456789abcdef", Image: "example.com/a:b", Format: "estargz", State: control.StateLazy, Disk: 1e6, Size: 2e6, Fetched: 1e6},
			{Digest: "sha256:0123ffff89abcdef", Image: "example.com/a:b", Format: "estargz", State: control.StateComplete, InUse: true, Disk: 3e6, Size: 3e6, Fetched: 3e6},
			{Digest: "sha256:fedcba9876543210", Disk: 1e6, LastUse: time.Now().Add(-50 * time.Hour)},
		},
	}, nil
}

// Remove removes what is asked for by digest, but for one that is in use; and what else is asked for is a digest of its own.
func (fixedServer) Remove(_ context.Context, in control.RemoveRequest) (r control.RemoveReport, err error) {
	for _, d := range in.Digests {
		if d == "sha256:0123ffff89abcdef" {
			r.Kept = append(r.Kept, control.KeptLayer{Digest: d, Why: "a container uses the layer"})
		} else {
			r.Removed = append(r.Removed, d)
		}
	}
	if in.Unused {
		r.Removed = append(r.Removed, "unused")
	}
	if in.OlderThan != nil {
		r.Removed = append(r.Removed, "older than "+in.OlderThan.String())
	}
	return r, nil
}

// stall FILE starts a registry that never answers and writes its address to FILE; when somebody asks, there is a file
// called asked.
func stall(ts *testscript.TestScript, _ bool, args []string) {
	l, err := new(net.ListenConfig).Listen(context.Background(), "tcp", "localhost:0")
	ts.Check(err)
	ts.Check(os.WriteFile(ts.MkAbs(args[0]), []byte(l.Addr().String()), 0o644))
	asked := ts.MkAbs("asked")
	done := make(chan error, 1)
	go func() {
		conn, err := l.Accept()
		if err != nil {
			done <- nil // the script ended without asking
			return
		}
		err = os.WriteFile(asked, nil, 0o644)
		_, rerr := io.Copy(io.Discard, conn) // until the other side gives up
		done <- errors.Join(err, rerr, conn.Close())
	}()
	ts.Defer(func() {
		ts.Check(l.Close())
		ts.Check(<-done)
	})
}

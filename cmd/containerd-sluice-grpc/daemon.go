package main

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"sync"
	"time"

	snapshotsapi "github.com/containerd/containerd/api/services/snapshots/v1"
	"github.com/containerd/containerd/v2/contrib/snapshotservice"
	"github.com/containerd/containerd/v2/defaults"
	"github.com/containerd/log"
	"golang.org/x/sync/errgroup"
	"google.golang.org/grpc"
	"google.golang.org/grpc/health"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"

	"github.com/sluice-snapshotter/sluice/cmd/internal/control"
	"github.com/sluice-snapshotter/sluice/fs/toc"
	"github.com/sluice-snapshotter/sluice/snapshotter"
)

// stopTimeout is how long calls may go on after the daemon was told to end.
// A Prepare may be waiting for a registry; containerd tries it again.
const stopTimeout = 5 * time.Second

// errLost ends the daemon, so that its service manager starts another, which mounts all layers again.
var errLost = errors.New("the FUSE mount was unmounted or cut off by somebody else (umount -f?): layers cannot be served any more, start again")

// daemon is a running daemon.
type daemon struct {
	*parts
	snapshotter *snapshotter.Snapshotter
	metrics     *metrics
	health      *health.Server

	drained     chan struct{} // closed when the mounts are gone and the daemon is to end
	drain       sync.Once
	drainReport control.DrainReport // these two by drain
	drainErr    error
}

// serve runs the daemon until ctx is done, which leaves mounts in place, or
// until it is drained.
func serve(ctx context.Context, c config) (err error) {
	if owned(ctx, c.socket()) {
		return fmt.Errorf("listen on %s: another process serves this socket", c.socket())
	}
	d := &daemon{metrics: newMetrics(), health: health.NewServer(), drained: make(chan struct{})}
	if d.parts, err = openParts(ctx, c, d.metrics); err != nil {
		return err
	}
	defer func() {
		// It has not served, or cannot any more: the next process mounts all anew. Containers keep what they have of complete layers.
		if err != nil {
			err = errors.Join(err, d.fs.Close())
		}
		err = errors.Join(err, d.close())
	}()
	d.snapshotter, err = snapshotter.New(ctx, snapshotter.Options{
		Root:     filepath.Join(c.Root.string, "snapshotter"),
		FS:       d.fs,
		Store:    d.store,
		Volatile: c.Volatile,
	})
	if err != nil {
		return err
	}
	d.closers = append(d.closers, d.snapshotter)
	d.relieve()
	d.metrics.collect(d.parts)
	return d.listenAndServe(ctx, c)
}

// listenAndServe opens the addresses and answers on them.
func (d *daemon) listenAndServe(ctx context.Context, c config) error {
	g, ctx := errgroup.WithContext(ctx)
	pages := &http.Server{Handler: d.metrics.handler(), ReadHeaderTimeout: 10 * time.Second}
	if c.MetricsAddress.string != "" {
		l, err := listenMetrics(ctx, c.MetricsAddress.string)
		if err != nil {
			return err
		}
		g.Go(func() error { return ignoreClosed(pages.Serve(l)) })
	}
	l, err := listen(ctx, c.socket())
	if err != nil {
		return errors.Join(err, pages.Close(), g.Wait())
	}
	following, unfollow := context.WithCancel(ctx)
	g.Go(func() error { return d.followSize(following, c) })
	server := d.server()
	g.Go(func() error { return ignoreClosed(server.Serve(l)) })
	log.G(ctx).WithFields(log.Fields{"address": c.socket(), "version": version(), "gzip": toc.GzipDecoder()}).Info("serving")
	d.notify(ctx, fmt.Sprintf("READY=1\nMAINPID=%d", os.Getpid()))

	g.Go(func() error {
		defer unfollow()
		var err error
		select {
		case <-ctx.Done(): // told to end, or a server failed
		case <-d.drained:
		case <-d.fs.Lost():
			d.health.Shutdown()
			err = errLost
		}
		d.notify(ctx, "STOPPING=1")
		stop(server)
		return errors.Join(err, pages.Close())
	})
	return g.Wait()
}

// server makes the gRPC server with all of its services.
func (d *daemon) server() *grpc.Server {
	server := grpc.NewServer(
		grpc.MaxRecvMsgSize(defaults.DefaultMaxRecvMsgSize),
		grpc.MaxSendMsgSize(defaults.DefaultMaxSendMsgSize),
		grpc.UnaryInterceptor(d.metrics.intercept),
	)
	snapshotsapi.RegisterSnapshotsServer(server, snapshotservice.FromSnapshotter(d.snapshotter))
	healthpb.RegisterHealthServer(server, d.health)
	control.Register(server, d)
	for service := range server.GetServiceInfo() {
		d.health.SetServingStatus(service, healthpb.HealthCheckResponse_SERVING)
	}
	return server
}

// stop lets calls come to their end, for a while; after that their contexts end, and after as long again it does not
// wait for them any more.
func stop(server *grpc.Server) {
	stopped := make(chan struct{})
	go func() {
		server.GracefulStop()
		close(stopped)
	}()
	select {
	case <-stopped:
		return
	case <-time.After(stopTimeout):
	}
	go server.Stop() // which waits as well, for calls that do not heed their contexts
	select {
	case <-stopped:
	case <-time.After(stopTimeout):
	}
}

func (d *daemon) notify(ctx context.Context, state string) {
	if err := notify(state); err != nil {
		log.G(ctx).WithError(err).Warn("systemd was not told the state of the service")
	}
}

// ignoreClosed drops the error of a server that was told to stop, perhaps
// before it began.
func ignoreClosed(err error) error {
	if errors.Is(err, http.ErrServerClosed) || errors.Is(err, grpc.ErrServerStopped) {
		return nil
	}
	return err
}

package remote

import (
	"context"
	"fmt"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/containerd/containerd/v2/core/remotes"
	"github.com/containerd/containerd/v2/core/remotes/docker"
	"github.com/containerd/containerd/v2/pkg/reference"
	"github.com/opencontainers/go-digest"
)

// Options says how registries are reached. The zero value works.
type Options struct {
	// ConfigPath is the folder of hosts.toml folders, or several separated by colons, the first one that knows a host
	// winning; "" means /etc/containerd/certs.d. Changes there are seen by the next request.
	ConfigPath string
	// ContentPath is the folder of containerd's content store, where Manifest looks first, and Image only; "" means nowhere.
	ContentPath string
	// Credentials returns what to log in to a host ("registry-1.docker.io", "localhost:5000") with. An empty user with
	// a secret means that the secret is an identity token; empty both means anonymous. It is asked when a host
	// demands credentials, again when they are refused, and may block. Nil means docker's configuration.
	Credentials func(host string) (user, secret string, err error)
	// PlainHTTP uses http for every host that hosts.toml does not say otherwise of.
	PlainHTTP bool
	// UserAgent is sent unless hosts.toml sets one; "" means "sluice".
	UserAgent string
	// MaxAttempts is how often one host is tried in a row without a byte of progress; 0 means 8. A range has that many
	// tries in total for every 256 KiB of it. One that asks to wait, and answers others meanwhile, is tried eight times as often.
	MaxAttempts int
	// StallTimeout is how long a request may go without a byte before it is given up and made anew; 0 means 30 s.
	StallTimeout time.Duration
	Backoff      Backoff
	Trace        Trace
	// Urgency says by the context of a request how urgent it is at the moment: where a host limits requests, what is more urgent goes first. It
	// must not block. Nil means that all are alike.
	Urgency func(ctx context.Context) int
}

// Backoff is the wait between rounds: Min, doubled with each round up to Max, of which between half and all is waited.
type Backoff struct {
	Min time.Duration // 0 means 100 ms
	Max time.Duration // 0 means 10 s
	// MaxRetryAfter bounds what a host may ask for by Retry-After; 0 means 1 minute. Up to an eighth of it, at most a
	// second, is added so that those who wait do not return together.
	MaxRetryAfter time.Duration
}

// Trace is told what happens on the wire. Its functions may be nil, run on the requesting goroutine and must not block.
// ctx is the request's, with the values of the caller's; host is the one from hosts.toml or the reference, also while a
// signed URL on another host is read.
type Trace struct {
	Response func(ctx context.Context, host string, code int) // every HTTP answer but those of token servers
	Bytes    func(ctx context.Context, host string, n int)    // every piece of a body that was asked for
}

func (t Trace) response(ctx context.Context, host string, code int) {
	if t.Response != nil {
		t.Response(ctx, host, code)
	}
}

func (t Trace) bytes(ctx context.Context, host string, n int) {
	if t.Bytes != nil && n > 0 {
		t.Bytes(ctx, host, n)
	}
}

// maxRepositories bounds the tokens that are remembered. Beyond it all are forgotten, which costs one round trip each.
const maxRepositories = 1024

// A Registry hands out blobs, manifests and containerd resolvers that share hosts, credentials and connections.
type Registry struct {
	opts  Options
	clock clock
	hosts *hostTable

	tickets atomic.Uint64 // of trials

	mu           sync.Mutex
	repositories map[string]*repository // by name
	sites        map[string]*site       // by host and port
}

// New returns a Registry. It does not touch network or disk.
func New(o Options) *Registry {
	o = withDefaults(o)
	return &Registry{
		opts:         o,
		clock:        wallClock(),
		hosts:        newHostTable(o),
		repositories: make(map[string]*repository),
		sites:        make(map[string]*site),
	}
}

func withDefaults(o Options) Options {
	if o.ConfigPath == "" {
		o.ConfigPath = "/etc/containerd/certs.d"
	}
	if o.Credentials == nil {
		o.Credentials = dockerCredentials
	}
	if o.UserAgent == "" {
		o.UserAgent = "sluice"
	}
	if o.MaxAttempts <= 0 {
		o.MaxAttempts = 8
	}
	if o.Urgency == nil {
		o.Urgency = func(context.Context) int { return 0 }
	}
	setDefault(&o.StallTimeout, 30*time.Second)
	setDefault(&o.Backoff.Min, 100*time.Millisecond)
	setDefault(&o.Backoff.Max, 10*time.Second)
	setDefault(&o.Backoff.MaxRetryAfter, time.Minute)
	return o
}

func setDefault(d *time.Duration, to time.Duration) {
	if *d <= 0 {
		*d = to
	}
}

// Resolver returns containerd's docker resolver on the same hosts, credentials and connections, for resolving tags,
// fetching and pushing. It has tokens of its own.
func (r *Registry) Resolver() remotes.Resolver {
	return docker.NewResolver(docker.ResolverOptions{
		Hosts: func(namespace string) ([]docker.RegistryHost, error) {
			// The context reaches nothing but containerd's log of a malformed hosts.toml.
			list, err := r.hosts.get(context.Background(), namespace)
			if err != nil {
				return nil, err
			}
			hosts := make([]docker.RegistryHost, len(list.hosts))
			for i, h := range list.hosts {
				h.Header = r.header(h)
				h.Authorizer = r.newAuthorizer(h)
				hosts[i] = h
			}
			return hosts, nil
		},
	})
}

// Blob returns the blob d of the repository that ref names. size is bytes; 0 means not known. It does not touch
// network or disk: that the blob exists shows when it is read.
func (r *Registry) Blob(ref string, d digest.Digest, size int64) (*Blob, error) {
	repo, err := r.repository(ref, d)
	if err != nil {
		return nil, fmt.Errorf("blob %s of %s: %w", d, ref, err)
	}
	if size < 0 {
		return nil, fmt.Errorf("blob %s of %s: negative size %d", d, ref, size)
	}
	b := &Blob{repo: repo, subject: subject{ref: ref, digest: d}, signed: make(map[*endpoint]*signedURL)}
	b.size.Store(size)
	return b, nil
}

func (r *Registry) repository(ref string, d digest.Digest) (*repository, error) {
	spec, err := reference.Parse(ref)
	if err != nil {
		return nil, err
	}
	path := strings.TrimPrefix(spec.Locator, spec.Hostname()+"/")
	if path == spec.Locator {
		return nil, fmt.Errorf("no repository in the reference: %w", reference.ErrInvalid)
	}
	if err := d.Validate(); err != nil {
		return nil, err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if repo := r.repositories[spec.Locator]; repo != nil {
		return repo, nil
	}
	if len(r.repositories) >= maxRepositories {
		clear(r.repositories) // blobs keep theirs
	}
	repo := &repository{registry: r, spec: spec, path: path}
	r.repositories[spec.Locator] = repo
	return repo, nil
}

// header returns the headers of every request to h, the user agent among them.
func (r *Registry) header(h docker.RegistryHost) http.Header {
	header := h.Header.Clone()
	if header == nil {
		header = make(http.Header)
	}
	if header.Get("User-Agent") == "" {
		header.Set("User-Agent", r.opts.UserAgent)
	}
	return header
}

func (r *Registry) newAuthorizer(h docker.RegistryHost) docker.Authorizer {
	return docker.NewDockerAuthorizer(
		docker.WithAuthClient(h.Client),
		docker.WithAuthCreds(r.opts.Credentials),
		docker.WithAuthHeader(r.header(h)),
	)
}

package integration

import (
	"encoding/base64"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/sluice-snapshotter/sluice/integration/link"
	"github.com/sluice-snapshotter/sluice/integration/stack"
)

// dockerConfig has credentials for one host.
func dockerConfig(host, user, secret string) string {
	auth := base64.StdEncoding.EncodeToString([]byte(user + ":" + secret))
	return fmt.Sprintf(`{"auths": {%q: {"auth": %q}}}`, host, auth)
}

// TestTokens has a registry that wants Bearer tokens, which expire between the pull and the read.
func TestTokens(t *testing.T) {
	for _, c := range []struct {
		name         string
		user, secret string
	}{
		{"anonymous", "", ""},
		{"docker config", "user", "secret"},
	} {
		t.Run(c.name, func(t *testing.T) {
			reg := registry(t)
			n := node(t, "auto")
			ref := upload(t, reg, lazyImage(t, odd), "test/odd:esgz")
			reg.Link.RequireTokens(link.TokenOptions{User: c.user, Secret: c.secret, TTL: time.Hour})
			args := []string{"image", "pull", "--snapshotter", "sluice"}
			if c.user != "" {
				if err := n.AddDockerConfig(dockerConfig(reg.Link.Addr(), c.user, c.secret)); err != nil {
					t.Fatal(err)
				}
				args = append(args, "--user", c.user+":"+c.secret)
			}
			if _, err := n.Ctr(t.Context(), append(args, ref)...); err != nil {
				t.Fatal(err)
			}
			if reg.Link.Counts().Kinds[link.Token].Requests == 0 {
				t.Error("nobody asked for a token")
			}
			reg.Link.ExpireTokens()
			readRight(t, n, ref)
		})
	}
}

// TestWrongCredentials gives the daemon a secret that the registry does not take, and containerd the right one.
func TestWrongCredentials(t *testing.T) {
	reg := registry(t)
	n := node(t, "auto")
	ref := upload(t, reg, lazyImage(t, odd), "test/odd:esgz")
	reg.Link.RequireTokens(link.TokenOptions{User: "user", Secret: "secret"})
	if err := n.AddDockerConfig(dockerConfig(reg.Link.Addr(), "user", "wrong")); err != nil {
		t.Fatal(err)
	}
	_, err := n.CtrRemote(t.Context(), "image", "rpull", ref)
	if err == nil || !strings.Contains(err.Error(), "401") {
		t.Errorf("rpull: %v; want 401", err)
	}
	if err := n.AddDockerConfig(dockerConfig(reg.Link.Addr(), "user", "secret")); err != nil {
		t.Fatal(err)
	}
	if _, err := n.CtrRemote(t.Context(), "image", "rpull", ref); err != nil {
		t.Fatal(err)
	}
	readRight(t, n, ref)
}

// TestRedirects has a registry that sends readers of blobs to signed URLs, which expire between the pull and the read.
func TestRedirects(t *testing.T) {
	reg := registry(t)
	n := node(t, "auto")
	ref := upload(t, reg, lazyImage(t, odd), "test/odd:esgz")
	reg.Link.RequireTokens(link.TokenOptions{})
	reg.Link.RedirectBlobs(0)
	pull(t, n, stack.Container{Ref: ref})
	reg.Link.ExpireURLs()
	blob := largestLayer(t, odd).Digest
	refused := reg.Link.Inject(link.Rule{Signed: true, Blob: blob, Count: 1}, link.Status{Code: 403})
	readRight(t, n, ref)
	if refused.Hits() == 0 {
		t.Error("the read met no fault")
	}
}

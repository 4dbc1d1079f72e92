package link

import (
	"bytes"
	"encoding/json"
	"net/http"
	"net/url"
	"regexp"
	"strings"
	"testing"
	"time"
)

var challengeParts = regexp.MustCompile(`^Bearer realm="([^"]+)",service="([^"]+)",scope="([^"]+)"$`)

// token does what a client does with a challenge.
func token(t *testing.T, l *Link, challenge, user, secret string) (string, int) {
	t.Helper()
	m := challengeParts.FindStringSubmatch(challenge)
	if m == nil {
		t.Fatalf("challenge %q", challenge)
	}
	realm, found := strings.CutPrefix(m[1], "http://"+l.Addr())
	if !found {
		t.Fatalf("realm %q", m[1])
	}
	req := realm + "?" + url.Values{"service": {m[2]}, "scope": {m[3]}}.Encode()
	basic, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://x", nil)
	if err != nil {
		t.Fatal(err)
	}
	basic.SetBasicAuth(user, secret)
	a := get(t, l, req, "Authorization", basic.Header.Get("Authorization"))
	var reply struct {
		Token   string
		Expires int `json:"expires_in"`
	}
	if a.code == http.StatusOK {
		if err := json.Unmarshal(a.body, &reply); err != nil {
			t.Fatal(err)
		}
	}
	return reply.Token, a.code
}

func TestTokenFlow(t *testing.T) {
	g := newRegistry(1000)
	l := start(t, g, Options{})
	l.RequireTokens(TokenOptions{User: "u", Secret: "s", TTL: time.Hour})

	a := get(t, l, g.path())
	if a.code != http.StatusUnauthorized {
		t.Fatalf("without a token: %d", a.code)
	}
	challenge := a.header.Get("WWW-Authenticate")
	if _, code := token(t, l, challenge, "u", "wrong"); code != http.StatusUnauthorized {
		t.Errorf("wrong secret: %d", code)
	}
	tok, code := token(t, l, challenge, "u", "s")
	if code != http.StatusOK {
		t.Fatalf("token: %d", code)
	}
	bearer := []string{"Authorization", "Bearer " + tok}
	if a := get(t, l, g.path(), bearer...); a.code != http.StatusOK || !bytes.Equal(a.body, g.content) {
		t.Errorf("with a token: %d", a.code)
	}
	if a := get(t, l, "/v2/other/image/blobs/"+g.digest.String(), bearer...); a.code != http.StatusUnauthorized {
		t.Errorf("another repository: %d", a.code)
	}
	l.ExpireTokens()
	if a := get(t, l, g.path(), bearer...); a.code != http.StatusUnauthorized {
		t.Errorf("after expiry: %d", a.code)
	}
	l.AllowAnyone()
	if a := get(t, l, g.path()); a.code != http.StatusOK {
		t.Errorf("after AllowAnyone: %d", a.code)
	}
}

func TestTokenTTL(t *testing.T) {
	g := newRegistry(1000)
	l := start(t, g, Options{})
	l.RequireTokens(TokenOptions{TTL: time.Nanosecond})
	tok, code := token(t, l, get(t, l, g.path()).header.Get("WWW-Authenticate"), "", "")
	if code != http.StatusOK {
		t.Fatalf("token: %d", code)
	}
	if a := get(t, l, g.path(), "Authorization", "Bearer "+tok); a.code != http.StatusUnauthorized {
		t.Errorf("with an old token: %d", a.code)
	}
}

func TestRedirect(t *testing.T) {
	g := newRegistry(1000)
	l := start(t, g, Options{})
	l.RequireTokens(TokenOptions{})
	tok, _ := token(t, l, get(t, l, g.path()).header.Get("WWW-Authenticate"), "", "")
	bearer := []string{"Authorization", "Bearer " + tok}
	l.RedirectBlobs(0)

	l.ResetCounts()
	a := get(t, l, g.path(), append(bearer, "Range", "bytes=10-19")...)
	if a.code != http.StatusPartialContent || !bytes.Equal(a.body, g.content[10:20]) {
		t.Fatalf("followed: %d, %q, %v", a.code, a.body, a.err)
	}
	if got, want := l.Counts().Blobs[g.digest], (Count{2, 10}); got != want {
		t.Errorf("counted %+v, want %+v", got, want)
	}

	c := newClient(t)
	c.CheckRedirect = func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
	at := getWith(t, c, l, g.path(), bearer...).header.Get("Location")
	for _, step := range []struct {
		name, url string
		before    func()
		header    []string
		want      int
	}{
		{"good", at, nil, nil, 200},
		{"credentials as well", at, nil, bearer, 400},
		{"forged", strings.Replace(at, "signature=", "signature=0", 1), nil, nil, 403},
		{"a fault there", at, func() { l.Inject(Rule{Signed: true, Count: 1}, Status{Code: 503}) }, nil, 503},
		{"expired", at, l.ExpireURLs, nil, 403},
	} {
		if step.before != nil {
			step.before()
		}
		if got := getURL(t, step.url, step.header); got != step.want {
			t.Errorf("%s: got %d, want %d", step.name, got, step.want)
		}
	}

	l.RedirectBlobs(time.Nanosecond)
	if a := get(t, l, g.path(), bearer...); a.code != http.StatusForbidden {
		t.Errorf("too old: %d", a.code)
	}
	l.ServeBlobs()
	if a := get(t, l, g.path(), bearer...); a.code != http.StatusOK {
		t.Errorf("without redirects: %d", a.code)
	}
}

func getURL(t *testing.T, u string, headers []string) int {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, u, nil)
	if err != nil {
		t.Fatal(err)
	}
	for i := 0; i < len(headers); i += 2 {
		req.Header.Set(headers[i], headers[i+1])
	}
	resp, err := newClient(t).Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	return resp.StatusCode
}

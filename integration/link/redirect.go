package link

import (
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"sync"
	"time"
)

// signedPrefix sets paths of the signed listener apart.
const signedPrefix = "/signed"

// redirect hands out and checks signed URLs, as an object store in front of a registry does. The zero value redirects nothing.
type redirect struct {
	mu  sync.Mutex
	on  bool
	ttl time.Duration
	key string
}

// RedirectBlobs makes the front answer reads of blobs with 307 to a URL of the signed listener that is good for ttl; 0 means
// until ExpireURLs.
func (l *Link) RedirectBlobs(ttl time.Duration) {
	l.redirect.mu.Lock()
	defer l.redirect.mu.Unlock()
	l.redirect.on, l.redirect.ttl, l.redirect.key = true, ttl, rand.Text()
}

// ExpireURLs makes every signed URL handed out so far answer 403.
func (l *Link) ExpireURLs() {
	l.redirect.mu.Lock()
	defer l.redirect.mu.Unlock()
	l.redirect.key = rand.Text()
}

// ServeBlobs undoes RedirectBlobs; signed URLs that are still good stay so.
func (l *Link) ServeBlobs() {
	l.redirect.mu.Lock()
	defer l.redirect.mu.Unlock()
	l.redirect.on = false
}

// send redirects x if it reads a blob and redirects are on.
func (d *redirect) send(x *exchange, r *http.Request, addr string) bool {
	d.mu.Lock()
	on, ttl, key := d.on, d.ttl, d.key
	d.mu.Unlock()
	if !on || x.kind != Blob {
		return false
	}
	expires := "0"
	if ttl > 0 {
		expires = strconv.FormatInt(time.Now().Add(ttl).UnixNano(), 10)
	}
	q := url.Values{"expires": {expires}, "signature": {sign(key, r.URL.Path, expires)}}
	// Another host name, not just another port: only then do HTTP clients leave the registry's credentials behind.
	_, port, _ := strings.Cut(addr, ":")
	u := url.URL{Scheme: "http", Host: "localhost:" + port, Path: signedPrefix + r.URL.Path, RawQuery: q.Encode()}
	x.Header().Set("Location", u.String())
	x.WriteHeader(http.StatusTemporaryRedirect)
	return true
}

// allows answers as S3 does to a URL that is forged or too old, and to one that comes with a registry's credentials as well.
func (d *redirect) allows(x *exchange, r *http.Request) bool {
	d.mu.Lock()
	key := d.key
	d.mu.Unlock()
	expires := r.URL.Query().Get("expires")
	want := sign(key, strings.TrimPrefix(r.URL.Path, signedPrefix), expires)
	at, err := strconv.ParseInt(expires, 10, 64)
	switch {
	case r.Header.Get("Authorization") != "":
		http.Error(x, "only one way of authentication is allowed", http.StatusBadRequest)
	case key == "" || !same(want, r.URL.Query().Get("signature")) || err != nil:
		http.Error(x, "signature does not match", http.StatusForbidden)
	case at > 0 && time.Now().UnixNano() > at:
		http.Error(x, fmt.Sprintf("expired at %s", time.Unix(0, at)), http.StatusForbidden)
	default:
		return true
	}
	return false
}

// strip turns a request at the signed listener into the one that it stands for.
func (d *redirect) strip(r *http.Request) *http.Request {
	out := r.Clone(r.Context())
	out.URL.Path = strings.TrimPrefix(out.URL.Path, signedPrefix)
	out.URL.RawPath, out.URL.RawQuery = "", ""
	return out
}

func sign(key, path, expires string) string {
	m := hmac.New(sha256.New, []byte(key))
	m.Write([]byte(path + "?" + expires))
	return hex.EncodeToString(m.Sum(nil))
}

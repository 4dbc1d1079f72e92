package link

import (
	"crypto/rand"
	"crypto/subtle"
	"encoding/json"
	"fmt"
	"net/http"
	"regexp"
	"strings"
	"sync"
	"time"
)

const tokenPath = "/token"

// TokenOptions of the token flow (https://distribution.github.io/distribution/spec/auth/token/).
type TokenOptions struct {
	User, Secret string // asked for as basic authentication at the token server; "" means anyone gets a token
	// Tenants are more users, with their secrets, who get tokens for the repositories below their own names only.
	Tenants map[string]string
	TTL     time.Duration // of a token; 0 means until ExpireTokens
}

// auth is a token server and the check of its tokens; the zero value lets everyone in.
type auth struct {
	mu      sync.Mutex
	options *TokenOptions
	tokens  map[string]grant
}

type grant struct {
	scope   string
	expires time.Time // zero means never
}

// RequireTokens makes the link answer 401 to whoever has no good Bearer token, and hand out tokens at /token.
func (l *Link) RequireTokens(o TokenOptions) {
	l.auth.mu.Lock()
	defer l.auth.mu.Unlock()
	l.auth.options = &o
	l.auth.tokens = make(map[string]grant)
}

// ExpireTokens makes every token handed out so far useless.
func (l *Link) ExpireTokens() {
	l.auth.mu.Lock()
	defer l.auth.mu.Unlock()
	clear(l.auth.tokens)
}

// AllowAnyone undoes RequireTokens.
func (l *Link) AllowAnyone() {
	l.auth.mu.Lock()
	defer l.auth.mu.Unlock()
	l.auth.options = nil
}

// serve answers a token request, unless an effect does; false means that there is no token server here.
func (a *auth) serve(x *exchange, r *http.Request) bool {
	a.mu.Lock()
	o := a.options
	a.mu.Unlock()
	if o == nil {
		return false
	}
	if x.answered() {
		return true
	}
	scope := r.FormValue("scope")
	user, secret, _ := r.BasicAuth()
	if !o.knows(user, secret, scope) {
		http.Error(x, "wrong user or secret", http.StatusUnauthorized)
		return true
	}
	// POST is OAuth2 (docker's "identity token" form), GET the older one; both name the scope the same way.
	token := rand.Text()
	a.mu.Lock()
	a.tokens[token] = o.grant(scope)
	a.mu.Unlock()
	x.Header().Set("Content-Type", "application/json")
	reply := map[string]any{"token": token, "access_token": token}
	if o.TTL > 0 {
		reply["expires_in"] = int(o.TTL / time.Second)
	}
	_ = json.NewEncoder(x).Encode(reply) // the client left
	return true
}

// knows says whether a user gets a token for a scope.
func (o *TokenOptions) knows(user, secret, scope string) bool {
	if own, ok := o.Tenants[user]; ok {
		m := scopeParts.FindStringSubmatch(scope)
		return same(secret, own) && (m == nil || strings.HasPrefix(m[1], user+"/"))
	}
	return o.User == "" && o.Tenants == nil || o.User != "" && same(user, o.User) && same(secret, o.Secret)
}

func (o *TokenOptions) grant(scope string) grant {
	g := grant{scope: scope}
	if o.TTL > 0 {
		g.expires = time.Now().Add(o.TTL)
	}
	return g
}

var repository = regexp.MustCompile(`^/v2/(.+)/(?:blobs|manifests|tags)/`)

// allows answers 401 with a challenge, and returns false, if r has no token that is good for its repository.
func (a *auth) allows(x *exchange, r *http.Request) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.options == nil {
		return true
	}
	challenge := fmt.Sprintf(`Bearer realm="http://%s%s",service="link"`, r.Host, tokenPath)
	scope := ""
	if m := repository.FindStringSubmatch(r.URL.Path); m != nil {
		action := "pull"
		if r.Method != http.MethodGet && r.Method != http.MethodHead {
			action = "pull,push"
		}
		scope = "repository:" + m[1] + ":" + action
		challenge += fmt.Sprintf(`,scope="%s"`, scope)
	}
	var token string
	if h := r.Header.Get("Authorization"); h != "" {
		_, _ = fmt.Sscanf(h, "Bearer %s", &token) // what does not parse is no token
	}
	g, ok := a.tokens[token]
	if ok && (g.expires.IsZero() || time.Now().Before(g.expires)) && (scope == "" || covers(g.scope, scope)) {
		return true
	}
	x.Header().Set("WWW-Authenticate", challenge)
	http.Error(x, "authentication required", http.StatusUnauthorized)
	return false
}

var scopeParts = regexp.MustCompile(`^repository:(.+):([a-z,]+)$`)

// covers says whether a granted scope is good for the wanted one: same repository, and push where push is wanted.
func covers(granted, wanted string) bool {
	g, w := scopeParts.FindStringSubmatch(granted), scopeParts.FindStringSubmatch(wanted)
	return g != nil && w != nil && g[1] == w[1] && (w[2] == "pull" || len(g[2]) > len("pull"))
}

func same(a, b string) bool { return subtle.ConstantTimeCompare([]byte(a), []byte(b)) == 1 }

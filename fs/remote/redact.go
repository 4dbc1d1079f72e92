package remote

import (
	"crypto/tls"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strings"
	"unicode"

	remoteerrors "github.com/containerd/containerd/v2/core/remotes/errors"
)

// maxErrorBody bounds what is read of an answer that is not the one wanted. It also lets the connection be used again.
const maxErrorBody = 16 << 10

// bare returns u without what may hold a secret.
func bare(u *url.URL) string {
	return (&url.URL{Scheme: u.Scheme, Host: u.Host, Path: u.Path}).String()
}

func bareString(s string) string {
	u, err := url.Parse(s)
	if err != nil {
		return "an unusable URL"
	}
	return bare(u)
}

// permanentCause tells network errors that the next attempt would meet again.
func permanentCause(err error) bool {
	if _, ok := errors.AsType[*tls.CertificateVerificationError](err); ok {
		return true
	}
	dns, ok := errors.AsType[*net.DNSError](err)
	return ok && dns.IsNotFound
}

// describeAuth fills e in from an error of containerd's authorizer, whose text may quote URLs and answers at length. The
// token server's own words are left out: what it may not quote is in the authorizer's hands.
func describeAuth(e *Error, err error) {
	e.Code, e.Message = "", "" // of the 401 that led here
	if status, ok := errors.AsType[remoteerrors.ErrUnexpectedStatus](err); ok {
		e.Status = status.StatusCode
		e.Err = fmt.Errorf("no token from %s", bareString(status.RequestURL))
		e.temporary = temporaryStatus(status.StatusCode)
		return
	}
	if ue, ok := errors.AsType[*url.Error](err); ok {
		e.Err = fmt.Errorf("no token from %s: %w", bareString(ue.URL), ue.Err)
		e.temporary = !permanentCause(ue.Err)
		return
	}
	_, broken := errors.AsType[net.Error](err) // in the token server's body; the caller's own end was looked at before
	e.temporary = broken || errors.Is(err, io.ErrUnexpectedEOF)
	e.Err = fmt.Errorf("authorize: %w", err)
}

// registryMessage returns the first error of a body as the distribution specification has them, and nothing of any
// other body: those of storage services quote signatures.
func registryMessage(body []byte) (code, message string) {
	var answer struct {
		Errors []struct {
			Code    string `json:"code"`
			Message string `json:"message"`
		} `json:"errors"`
	}
	if json.Unmarshal(body, &answer) != nil || len(answer.Errors) == 0 {
		return "", ""
	}
	return printable(answer.Errors[0].Code, 64), printable(answer.Errors[0].Message, 256)
}

// printable returns at most limit bytes of s with everything that could forge a line or drive a terminal replaced.
func printable(s string, limit int) string {
	s = strings.Map(func(r rune) rune {
		if !unicode.IsPrint(r) {
			return ' '
		}
		return r
	}, s)
	if len(s) > limit {
		s = strings.ToValidUTF8(s[:limit-len("…")], "") + "…"
	}
	return strings.TrimSpace(s)
}

// secrets returns what of a request must not come back in its answer's message: the credentials, and whatever
// hosts.toml adds, since keys for mirrors are set there.
func secrets(h http.Header) []string {
	var found []string
	for key, values := range h {
		switch key {
		case "Accept", "Accept-Encoding", "Range", "User-Agent":
			continue
		}
		for _, value := range values {
			scheme, secret, ok := strings.Cut(value, " ")
			if !ok {
				found = append(found, value)
				continue
			}
			found = append(found, secret)
			if plain, err := base64.StdEncoding.DecodeString(secret); err == nil && strings.EqualFold(scheme, "basic") {
				_, password, _ := strings.Cut(string(plain), ":")
				found = append(found, password)
			}
		}
	}
	return found
}

// scrub returns s, or nothing of it if a secret is in it.
func scrub(s string, secrets []string) string {
	for _, secret := range secrets {
		if secret != "" && strings.Contains(s, secret) {
			return "(the host's message quotes a credential)"
		}
	}
	return s
}

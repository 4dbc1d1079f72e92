package remote

import (
	"fmt"
	"net/http"
	"strings"
	"testing"
	"unicode/utf8"
)

func TestNoSecretInErrors(t *testing.T) {
	p := content(100)
	echo := func(code int) http.HandlerFunc {
		return func(w http.ResponseWriter, r *http.Request) {
			message(code, fmt.Sprintf(`{"errors":[{"code":"X %s","message":"you sent %s and %s"}]}`,
				r.Header.Get("X-Api-Key"), r.Header.Get("Authorization"), r.Header.Get("X-Api-Key")))(w, r)
		}
	}
	tests := map[string]http.HandlerFunc{
		"echo":                       echo(403),
		"echo with 401":              echo(401),
		"redirect to a dead port":    status(307, "Location", "http://127.0.0.1:1/blob?sig=api-secret"),
		"redirect that cannot parse": status(307, "Location", "http://127.0.0.1:x/?sig=api-secret"),
		"redirect with userinfo":     status(307, "Location", "http://user:api-secret@127.0.0.1:1/"),
		"token realm":                status(401, "WWW-Authenticate", `Bearer realm="http://user:api-secret@127.0.0.1:1/t?x=api-secret"`),
		"realm that cannot parse":    status(401, "WWW-Authenticate", `Bearer realm="http://127.0.0.1:x/?api-secret"`),
	}
	for name, answer := range tests {
		t.Run(name, func(t *testing.T) {
			h := newHost(t)
			d := h.addBlob("/v2/team/app", p)
			root := hostsDir(t, h, "[header]\nx-api-key = \"api-secret\"\nAuthorization = \"Basic "+basic("alice:hunter2")+"\"\n")
			r, _ := newRegistry(t, h, Options{ConfigPath: root, MaxAttempts: 1})
			b, err := r.Blob(testRef, d, 100)
			if err != nil {
				t.Fatal(err)
			}
			h.fail(answer)
			_, err = readRange(t.Context(), b, 0, 100)
			if err == nil {
				t.Fatal("no error")
			}
			text := fmt.Sprintf("%v %+v %#v", err, err, *asError(t, err))
			for _, secret := range []string{"api-secret", "hunter2", basic("alice:hunter2")} {
				if strings.Contains(text, secret) {
					t.Errorf("%s in %s", secret, text)
				}
			}
		})
	}
}

func TestRegistryMessage(t *testing.T) {
	long := strings.Repeat("é", 1000)
	for body, want := range map[string][2]string{
		`{"errors":[{"code":"DENIED","message":"no","detail":{"x":1}},{"code":"OTHER"}]}`: {"DENIED", "no"},
		`{"errors":[{"code":"A\nB","message":"\u001b[31mred\r\n"}]}`:                      {"A B", "[31mred"},
		`{"errors":[]}`:         {},
		`{"errors":"x"}`:        {},
		`{"message":"x"}`:       {},
		`<Error>signed</Error>`: {},
		``:                      {},
		`{"errors":[{"message":"` + long + `"}]}`: {"", strings.Repeat("é", 126) + "…"},
	} {
		code, text := registryMessage([]byte(body))
		if code != want[0] || text != want[1] {
			t.Errorf("%.80s: got %q, %q", body, code, text)
		}
	}
}

// No host can put more than so much, or anything but printable characters, into an error.
func FuzzRegistryMessage(f *testing.F) {
	f.Add([]byte(`{"errors":[{"code":"DENIED","message":"no"}]}`))
	f.Add([]byte(`{"errors":[{"code":"\u0000","message":"` + strings.Repeat("ü", 200) + `"}]}`))
	f.Fuzz(func(t *testing.T, body []byte) {
		code, text := registryMessage(body)
		if len(code) > 64 || len(text) > 256 || !utf8.ValidString(code+text) || strings.ContainsAny(code+text, "\n\r\x1b\x00") {
			t.Errorf("%q, %q", code, text)
		}
	})
}

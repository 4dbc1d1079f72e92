package remote

import (
	"encoding/base64"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func basic(s string) string { return base64.StdEncoding.EncodeToString([]byte(s)) }

// helper puts a credential helper into PATH that answers as the shell script body says, with the server in $server.
func helper(t *testing.T, name, body string) {
	dir := t.TempDir()
	script := "#!/bin/sh\n[ \"$1\" = get ] || exit 9\nread -r server || :\n" + body
	if err := os.WriteFile(filepath.Join(dir, "docker-credential-"+name), []byte(script), 0o755); err != nil {
		t.Fatal(err)
	}
	t.Setenv("PATH", dir+":"+os.Getenv("PATH"))
}

func dockerConfig(t *testing.T, dir, config string) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "config.json"), []byte(config), 0o600); err != nil {
		t.Fatal(err)
	}
}

func TestDockerCredentials(t *testing.T) {
	const answer = `printf '{"ServerURL":"%s","Username":"from-helper","Secret":"for %s"}' "$server" "$server"`
	tests := []struct {
		name, config, helper, host, want string
	}{
		{name: "auth", config: fmt.Sprintf(`{"auths":{"reg.test:5000":{"auth":%q}}}`, basic("alice:hun:ter2")), host: "reg.test:5000", want: "alice|hun:ter2"},
		{name: "other port", config: fmt.Sprintf(`{"auths":{"reg.test:5000":{"auth":%q}}}`, basic("alice:hunter2")), host: "reg.test", want: "|"},
		{name: "username and password", config: `{"auths":{"reg.test":{"username":"alice","password":"hunter2"}}}`, host: "reg.test", want: "alice|hunter2"},
		{name: "identity token", config: fmt.Sprintf(`{"auths":{"reg.test":{"auth":%q,"identitytoken":"idtoken"}}}`, basic("00000000-0000-0000-0000-000000000000:")), host: "reg.test", want: "|idtoken"},
		{name: "key is a URL", config: fmt.Sprintf(`{"auths":{"https://reg.test/v2/":{"auth":%q}}}`, basic("alice:hunter2")), host: "reg.test", want: "alice|hunter2"},
		{name: "Docker Hub", config: fmt.Sprintf(`{"auths":{"https://index.docker.io/v1/":{"auth":%q}}}`, basic("alice:hunter2")), host: "registry-1.docker.io", want: "alice|hunter2"},
		{name: "Docker Hub as podman has it", config: fmt.Sprintf(`{"auths":{"docker.io":{"auth":%q}}}`, basic("alice:hunter2")), host: "registry-1.docker.io", want: "alice|hunter2"},
		{name: "Docker Hub's are for nobody else", config: fmt.Sprintf(`{"auths":{"https://index.docker.io/v1/":{"auth":%q}}}`, basic("alice:hunter2")), host: "mirror.test", want: "|"},
		{name: "credHelpers", config: `{"credHelpers":{"reg.test":"own"}}`, helper: answer, host: "reg.test", want: "from-helper|for reg.test"},
		{name: "credHelpers win", config: fmt.Sprintf(`{"auths":{"reg.test":{"auth":%q}},"credHelpers":{"reg.test":"own"},"credsStore":"missing"}`, basic("alice:hunter2")), helper: answer, host: "reg.test", want: "from-helper|for reg.test"},
		{name: "credHelpers of another host", config: fmt.Sprintf(`{"auths":{"reg.test":{"auth":%q}},"credHelpers":{"other.test":"own"}}`, basic("alice:hunter2")), helper: answer, host: "reg.test", want: "alice|hunter2"},
		{name: "credsStore", config: `{"auths":{"reg.test":{}},"credsStore":"own"}`, helper: answer, host: "reg.test", want: "from-helper|for reg.test"},
		{name: "credsStore for Docker Hub", config: `{"credsStore":"own"}`, helper: answer, host: "registry-1.docker.io", want: "from-helper|for https://index.docker.io/v1/"},
		{name: "token from a helper", config: `{"credsStore":"own"}`, helper: `echo '{"Username":"<token>","Secret":"idtoken"}'`, host: "reg.test", want: "|idtoken"},
		{name: "helper without them", config: `{"credsStore":"own"}`, helper: `echo credentials not found in native keychain; exit 1`, host: "reg.test", want: "|"},
		{name: "no file", host: "reg.test", want: "|"},
		{name: "empty file", config: ` `, host: "reg.test", want: "|"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			dir := t.TempDir()
			t.Setenv("DOCKER_CONFIG", dir)
			if test.config != "" {
				dockerConfig(t, dir, test.config)
			}
			if test.helper != "" {
				helper(t, "own", test.helper)
			}
			user, secret, err := dockerCredentials(test.host)
			if got := user + "|" + secret; got != test.want || err != nil {
				t.Errorf("got %s, %v, want %s", got, err, test.want)
			}
		})
	}
	t.Run("in the home folder", func(t *testing.T) {
		t.Setenv("DOCKER_CONFIG", "")
		t.Setenv("HOME", t.TempDir())
		dockerConfig(t, filepath.Join(os.Getenv("HOME"), ".docker"), `{"auths":{"reg.test":{"username":"alice","password":"hunter2"}}}`)
		if user, secret, err := dockerCredentials("reg.test"); user != "alice" || secret != "hunter2" || err != nil {
			t.Errorf("got %s, %s, %v", user, secret, err)
		}
	})
	t.Run("without a home", func(t *testing.T) {
		t.Setenv("DOCKER_CONFIG", "")
		t.Setenv("HOME", "")
		if user, secret, err := dockerCredentials("reg.test"); user != "" || secret != "" || err != nil {
			t.Errorf("got %s, %s, %v", user, secret, err)
		}
	})
}

func TestDockerCredentialsFail(t *testing.T) {
	const key = `{"auths":{"reg.test":{"auth":%q}}}`
	for name, test := range map[string]struct{ config, helper, want string }{
		"not JSON":           {config: `{"auths":hunter2}`, want: "config.json"},
		"wrong shape":        {config: `{"auths":"hunter2"}`, want: "docker configuration"},
		"auth not base64":    {config: fmt.Sprintf(key, "hunter2!"), want: "reg.test"},
		"auth without colon": {config: fmt.Sprintf(key, basic("hunter2")), want: "reg.test"},
		"no helper":          {config: `{"credsStore":"missing"}`, want: "docker-credential-missing"},
		"helper fails":       {config: `{"credsStore":"own"}`, helper: "echo hunter2 expired; exit 3", want: "exit status 3"},
		"helper babbles":     {config: `{"credsStore":"own"}`, helper: "echo hunter2", want: "docker-credential-own"},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			t.Setenv("DOCKER_CONFIG", dir)
			dockerConfig(t, dir, test.config)
			if test.helper != "" {
				helper(t, "own", test.helper)
			}
			_, _, err := dockerCredentials("reg.test")
			if err == nil || !strings.Contains(err.Error(), test.want) || strings.Contains(err.Error(), "hunter2") {
				t.Errorf("got %v", err)
			}
		})
	}
}

// By default credentials come from docker's configuration, and reach the registry.
func TestDockerCredentialsAreTheDefault(t *testing.T) {
	p := content(100)
	b, h, _ := newBlob(t, p, Options{Credentials: New(Options{}).opts.Credentials}, status(401, "WWW-Authenticate", `Basic realm="r"`))
	dir := t.TempDir()
	t.Setenv("DOCKER_CONFIG", dir)
	dockerConfig(t, dir, fmt.Sprintf(`{"auths":{%q:{"auth":%q}}}`, h.host(), basic("alice:hunter2")))
	mustRead(t, b, p, 0, 100)
	if user, secret, _ := h.seen()[1].BasicAuth(); user != "alice" || secret != "hunter2" {
		t.Errorf("sent %s:%s", user, secret)
	}
}

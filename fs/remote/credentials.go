package remote

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	"oras.land/oras-go/v2/registry/remote/auth"
	"oras.land/oras-go/v2/registry/remote/credentials"
	"oras.land/oras-go/v2/registry/remote/credentials/trace"
)

// helperTimeout is how long a credential helper may take: some of them ask a cloud for a token.
const helperTimeout = 30 * time.Second

// dockerCredentials looks host up in docker's configuration ($DOCKER_CONFIG or ~/.docker/config.json), which is read
// anew each time, so that a later docker login counts. credHelpers win over credsStore, and that over auths, as in
// docker. A registrytoken is not used: containerd's authorizer has no place for one.
func dockerCredentials(host string) (user, secret string, err error) {
	if os.Getenv("DOCKER_CONFIG") == "" && os.Getenv("HOME") == "" {
		return "", "", nil // a daemon without a home has no docker configuration
	}
	store, err := credentials.NewStoreFromDocker(credentials.StoreOptions{})
	if err != nil {
		return "", "", fmt.Errorf("docker configuration: %w", err)
	}
	// The interface that calls this has no context to pass on.
	ctx, cancel := context.WithTimeout(context.Background(), helperTimeout)
	defer cancel()
	for _, name := range credentialNames(host) {
		cred, err := lookUp(ctx, store, name)
		if err != nil {
			return "", "", err
		}
		switch {
		case cred.RefreshToken != "":
			return "", cred.RefreshToken, nil
		case cred.Username != "" || cred.Password != "":
			return cred.Username, cred.Password, nil
		}
	}
	return "", "", nil
}

// credentialNames returns the keys that credentials for host may stand under. Docker Hub's is the URL that docker login
// writes (moby registry/config.go, IndexServer); podman and nerdctl write "docker.io".
func credentialNames(host string) []string {
	switch host {
	case "docker.io", "index.docker.io", "registry-1.docker.io":
		return []string{"https://index.docker.io/v1/", "docker.io"}
	}
	return []string{host}
}

// lookUp replaces the library's errors: one of them quotes an undecodable auth field, which is a password more often
// than not, and a helper's own words may hold anything. A helper's standard error is the process's.
func lookUp(ctx context.Context, store credentials.Store, name string) (auth.Credential, error) {
	var helper string
	var helperErr error
	ctx = trace.WithExecutableTrace(ctx, &trace.ExecutableTrace{
		ExecuteDone: func(executable, _ string, err error) { helper, helperErr = executable, err },
	})
	cred, err := store.Get(ctx, name)
	switch {
	case err == nil:
		return cred, nil
	case helperErr != nil:
		return auth.EmptyCredential, fmt.Errorf("credential helper %s: get %s: %w", helper, name, helperErr)
	case helper != "":
		return auth.EmptyCredential, fmt.Errorf("credential helper %s: get %s: %w", helper, name, errNotCredentials)
	default:
		return auth.EmptyCredential, fmt.Errorf("docker configuration: auths: %s: %w", name, errNotCredentials)
	}
}

var errNotCredentials = errors.New("cannot be understood (not shown: it may hold a secret)")

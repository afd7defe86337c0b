package remote

import (
	"errors"
	"fmt"
	"io/fs"
	"net/http"
	"net/url"

	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/google/go-containerregistry/pkg/v1/remote/transport"

	"bk.build/bk/layout"
)

// errStalled is why a silent connection was given up.
var errStalled = errors.New("the registry sent nothing for too long")

// Error is a failed operation on a registry. It satisfies
// errors.Is(err, fs.ErrNotExist) when the registry says that there is no such
// thing, and fs.ErrPermission when it wants other credentials.
type Error struct {
	Op       string // "resolve", "fetch blob sha256:..."
	Ref      string // canonical reference
	Registry string
	Err      error
	Hint     string // what to do; may be empty
}

func (e *Error) Error() string {
	s := fmt.Sprintf("%s %s from registry %s: %v", e.Op, e.Ref, e.Registry, e.Err)
	if e.Hint != "" {
		s += " (" + e.Hint + ")"
	}
	return s
}

// Unwrap returns the cause.
func (e *Error) Unwrap() error { return e.Err }

// Is maps the registry's answer to the sentinels of io/fs.
func (e *Error) Is(target error) bool {
	switch status(e.Err) {
	case http.StatusNotFound:
		return target == fs.ErrNotExist
	case http.StatusUnauthorized, http.StatusForbidden:
		return target == fs.ErrPermission
	}
	return false
}

// status is the HTTP status of an answer that was an error, or 0.
func status(err error) int {
	var te *transport.Error
	if errors.As(err, &te) {
		return te.StatusCode
	}
	return 0
}

// fail makes the error of an operation on a session's repository. Without a
// session (it could not be made) only the reference is known.
func fail(op, ref, registry string, s *session, err error) error {
	if err == nil {
		return nil
	}
	if registry == "index.docker.io" {
		registry = "docker.io"
	}
	return &Error{Op: op, Ref: ref, Registry: registry, Err: err, Hint: hint(registry, s, err)}
}

// withoutURL drops net/http's "Get URL:", which repeats the reference and, after
// a redirect, shows the signature that the URL carries.
func withoutURL(err error) error {
	for {
		ue, ok := err.(*url.Error)
		if !ok {
			return err
		}
		err = ue.Err
	}
}

// hint says what to do about an error.
func hint(registry string, s *session, err error) string {
	var pe *layout.PlatformError
	switch code := status(err); {
	case errors.As(err, &pe):
		return "build for one of these platforms, or use another image"
	case (code == http.StatusUnauthorized || code == http.StatusForbidden) && s != nil && s.keyErr != nil:
		return fmt.Sprintf("the configured credentials were not used: %v", s.keyErr)
	case (code == http.StatusUnauthorized || code == http.StatusForbidden) && s != nil && s.auth != authn.Anonymous:
		return fmt.Sprintf("the stored credentials are not accepted or the repository does not exist: check the name, or run: docker login %s", registry)
	case code == http.StatusUnauthorized || code == http.StatusForbidden:
		return fmt.Sprintf("the repository does not exist or needs credentials: check the name, or run: docker login %s", registry)
	case code == http.StatusNotFound:
		return "check the name and the tag"
	case code == http.StatusTooManyRequests:
		return "the registry limits requests: wait, log in, or use a mirror"
	case errors.Is(err, errRefused):
		return "list the registry as insecure if this is intended"
	}
	return ""
}

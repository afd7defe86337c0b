package credentials

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"

	"github.com/google/go-containerregistry/pkg/authn"
)

// maxFile bounds a file of credentials, in bytes.
const maxFile = 1 << 20

// A file is what a configuration says about credentials.
type file struct {
	path    string
	auths   map[string]entry  // by canonical name
	helpers map[string]helper // by canonical name
	store   string            // the helper for everything else
}

// A helper is an entry of credHelpers.
type helper struct {
	key     string // as written: what the program is asked for
	program string // without "docker-credential-"
}

// An entry is one of auths. Kubernetes writes the name and the password beside
// or instead of auth.
type entry struct {
	Auth          string `json:"auth"`
	Username      string `json:"username"`
	Password      string `json:"password"`
	IdentityToken string `json:"identitytoken"`
	RegistryToken string `json:"registrytoken"`
}

// document is the format that Docker's config.json, Podman's auth.json and
// Kubernetes' .dockerconfigjson have in common.
type document struct {
	Auths       map[string]entry  `json:"auths"`
	CredHelpers map[string]string `json:"credHelpers"`
	CredsStore  string            `json:"credsStore"`
}

// readFile reads a regular file of at most maxFile bytes.
func readFile(path string) ([]byte, error) {
	fi, err := os.Stat(path)
	if err != nil {
		return nil, err
	}
	if !fi.Mode().IsRegular() || fi.Size() > maxFile {
		return nil, fmt.Errorf("%s is not a regular file of at most %d bytes", path, maxFile)
	}
	return os.ReadFile(path)
}

// parse reads a configuration; path is for messages.
func parse(path string, b []byte) (*file, error) {
	var doc document
	if len(bytes.TrimSpace(b)) > 0 {
		if err := json.Unmarshal(b, &doc); err != nil {
			return nil, jsonError(path, b, err)
		}
	}
	return newFile(path, doc), nil
}

// parseLegacy reads a .dockercfg: auths alone.
func parseLegacy(path string, b []byte) (*file, error) {
	var doc document
	if err := json.Unmarshal(b, &doc.Auths); err != nil {
		return nil, jsonError(path, b, err)
	}
	return newFile(path, doc), nil
}

func newFile(path string, doc document) *file {
	f := &file{path: path, store: doc.CredsStore, auths: map[string]entry{}, helpers: map[string]helper{}}
	for _, key := range byPreference(doc.Auths) {
		f.auths[Canonical(key)] = doc.Auths[key]
	}
	for _, key := range byPreference(doc.CredHelpers) {
		f.helpers[Canonical(key)] = helper{key: key, program: doc.CredHelpers[key]}
	}
	return f
}

// byPreference sorts the keys of an object so that, of several that mean the
// same name, the one that Docker writes is last.
func byPreference[T any](m map[string]T) []string {
	keys := make([]string, 0, len(m))
	for key := range m {
		keys = append(keys, key)
	}
	rank := func(key string) int {
		switch name := Canonical(key); key {
		case storageKey(name):
			return 2
		case name:
			return 1
		}
		return 0
	}
	slices.SortFunc(keys, func(a, b string) int {
		if d := rank(a) - rank(b); d != 0 {
			return d
		}
		return strings.Compare(a, b)
	})
	return keys
}

// jsonError says where the JSON is broken. The error shows no value.
func jsonError(path string, b []byte, err error) error {
	var syntax *json.SyntaxError
	var kind *json.UnmarshalTypeError
	offset := int64(0)
	switch {
	case errors.As(err, &syntax):
		offset = syntax.Offset
	case errors.As(err, &kind):
		offset = kind.Offset
		err = fmt.Errorf("field %s has the wrong type", kind.Field)
	}
	line := 1 + bytes.Count(b[:min(max(offset, 0), int64(len(b)))], []byte("\n"))
	return fmt.Errorf("%s:%d: %w", path, line, err)
}

// helper returns the program that knows the credential of a name and what to ask
// it for, and the entry of auths. The store is asked for hosts, and for other
// names when an entry without content says that it has them.
func (f *file) helper(name string, isHost bool) (program, server string, e entry, known bool) {
	e, known = f.auths[name]
	if h, ok := f.helpers[name]; ok {
		return h.program, h.key, e, known
	}
	if f.store != "" && (isHost || known && e == entry{}) {
		return f.store, storageKey(name), e, known
	}
	return "", "", e, known
}

// config returns what an entry holds.
func (e entry) config() (authn.AuthConfig, error) {
	auth := authn.AuthConfig{
		Username: e.Username, Password: e.Password,
		IdentityToken: e.IdentityToken, RegistryToken: e.RegistryToken,
	}
	if e.Auth != "" {
		b, err := base64.StdEncoding.DecodeString(e.Auth)
		if err != nil {
			return auth, errors.New("auth is not base64")
		}
		user, password, ok := strings.Cut(string(b), ":")
		if !ok || user == "" {
			return auth, errors.New("auth is not NAME:PASSWORD in base64")
		}
		auth.Username, auth.Password = user, strings.Trim(password, "\x00")
	}
	return withToken(auth), nil
}

// tokenUser is the name that stands for "the password is an identity token".
const tokenUser = "<token>"

func withToken(auth authn.AuthConfig) authn.AuthConfig {
	if auth.Username == tokenUser {
		auth.Username, auth.IdentityToken, auth.Password = "", auth.Password, ""
	}
	return auth
}

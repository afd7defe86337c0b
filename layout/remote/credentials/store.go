package credentials

import (
	"context"
	"crypto/rand"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	protocol "github.com/docker/docker-credential-helpers/credentials"
	"github.com/google/go-containerregistry/pkg/authn"
)

// Stored says where a credential went.
type Stored struct {
	Where string // the file, or the helper program
	Plain bool   // it is not encrypted there
}

// Store keeps the credential for "host[:port][/path]" where Docker would: with
// the helper that its configuration names for it, else in the configuration
// file itself, which only its owner can read then. Everything else in the file
// stays; one that cannot be understood is not touched.
func (k *Keychain) Store(ctx context.Context, name string, auth authn.AuthConfig) (Stored, error) {
	name = Canonical(name)
	if err := storable(auth); err != nil {
		return Stored{}, fmt.Errorf("store credentials for %s: %w", name, err)
	}
	var stored Stored
	err := k.edit(func(f *file, doc *object) error {
		value := entry{Auth: basic(auth), IdentityToken: auth.IdentityToken}
		stored = Stored{Where: f.path, Plain: true}
		if helper, server := f.storeHelper(name); helper != "" {
			secret := protocol.Credentials{ServerURL: server, Username: auth.Username, Secret: auth.Password}
			if auth.IdentityToken != "" {
				secret.Username, secret.Secret = tokenUser, auth.IdentityToken
			}
			input, err := json.Marshal(secret)
			if err != nil {
				return err
			}
			if _, err := k.run(ctx, helper, protocol.ActionStore, input); err != nil {
				return err
			}
			value = entry{} // says that the helper has it
			stored = Stored{Where: programName(helper)}
		}
		return doc.setAuth(name, value)
	})
	if err != nil {
		return Stored{}, fmt.Errorf("store credentials for %s: %w", name, err)
	}
	return stored, nil
}

// storable refuses what could not be read back.
func storable(auth authn.AuthConfig) error {
	switch {
	case strings.Contains(auth.Username, ":"):
		return fmt.Errorf("user name %q has a colon", auth.Username)
	case auth.IdentityToken != "":
		return nil
	case auth.Username == "":
		return errors.New("the user name is empty")
	case auth.Password == "":
		return errors.New("the password is empty")
	}
	return nil
}

// basic is the field auth of an entry.
func basic(auth authn.AuthConfig) string {
	if auth.Username == "" {
		return ""
	}
	return base64.StdEncoding.EncodeToString([]byte(auth.Username + ":" + auth.Password))
}

// storeHelper returns the program that is to keep a name's credential, and what
// to call it there.
func (f *file) storeHelper(name string) (program, server string) {
	if h, ok := f.helpers[name]; ok {
		return h.program, h.key
	}
	return f.store, storageKey(name)
}

// Erase forgets what Docker's configuration and its helper have for exactly this
// name, and says where that was: nowhere is no error. Other files may still have
// something: Find tells.
func (k *Keychain) Erase(ctx context.Context, name string) (from []string, err error) {
	if path, err := dockerConfig(k.getenv); err != nil || !exists(path) {
		return nil, err
	}
	name = Canonical(name)
	var helperErr error
	err = k.edit(func(f *file, doc *object) error {
		if helper, server := f.storeHelper(name); helper != "" {
			var had bool
			if had, helperErr = k.eraseFrom(ctx, helper, server); had {
				from = append(from, programName(helper))
			}
		}
		e, known := f.auths[name]
		if !known {
			return errUnchanged
		}
		if e != (entry{}) {
			from = append(from, f.path)
		}
		return doc.removeAuth(name)
	})
	if err = errors.Join(err, helperErr); err != nil {
		err = fmt.Errorf("remove credentials for %s: %w", name, err)
	}
	return from, err
}

// eraseFrom removes a credential from a helper and says whether it was there.
func (k *Keychain) eraseFrom(ctx context.Context, helper, server string) (bool, error) {
	auth, err := k.get(ctx, question{helper: helper, server: server})
	if err != nil || auth == (authn.AuthConfig{}) {
		return false, err
	}
	_, err = k.run(ctx, helper, protocol.ActionErase, []byte(server))
	return err == nil, err
}

// Logins returns the names that Docker's configuration has credentials for,
// sorted.
func (k *Keychain) Logins() ([]string, error) {
	path, err := dockerConfig(k.getenv)
	if err != nil {
		return nil, err
	}
	f, err := optional(path, parse)
	if f == nil {
		return nil, err
	}
	var names []string
	for name := range f.auths {
		names = append(names, name)
	}
	slices.Sort(names)
	return names, nil
}

func exists(path string) bool {
	_, err := os.Stat(path)
	return !errors.Is(err, fs.ErrNotExist)
}

// errUnchanged tells edit that there is nothing to write.
var errUnchanged = errors.New("unchanged")

// edit changes Docker's configuration file. It does not hold up readers: they
// see the file as it was or as it is then.
func (k *Keychain) edit(change func(*file, *object) error) error {
	path, err := dockerConfig(k.getenv)
	if err != nil {
		return err
	}
	defer k.forget()
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return err
	}
	unlock, err := lockDir(filepath.Dir(path))
	if err != nil {
		return err
	}
	defer unlock()
	b, err := readFile(path)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	f, err := parse(path, b)
	if err != nil {
		return notTouched(path, err)
	}
	doc, err := parseObject(b)
	if err != nil {
		return notTouched(path, err)
	}
	switch err := change(f, doc); {
	case errors.Is(err, errUnchanged):
		return nil
	case err != nil:
		return err
	}
	b, err = doc.encode()
	if err != nil {
		return err
	}
	return replace(path, b)
}

func notTouched(path string, err error) error {
	return fmt.Errorf("%s is broken and stays as it is; repair or remove it: %w", path, err)
}

// replace writes a file of its owner's, all at once. A symbolic link stays one.
func replace(path string, b []byte) (err error) {
	if target, err := filepath.EvalSymlinks(path); err == nil { //nolint:forbidigo // where the user keeps the file
		path = target
	}
	tmp := filepath.Join(filepath.Dir(path), "."+filepath.Base(path)+"."+rand.Text()[:8]+".tmp")
	f, err := os.OpenFile(tmp, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	defer os.Remove(tmp)
	_, err = f.Write(b)
	if err == nil {
		err = f.Sync() // a file without logins after a power cut locks everybody out
	}
	if err = errors.Join(err, f.Close()); err != nil {
		return err
	}
	keepOwner(path, tmp)
	return os.Rename(tmp, path)
}

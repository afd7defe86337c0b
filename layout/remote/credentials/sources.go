package credentials

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
)

// maxSecrets bounds the entries of a directory of pull secrets.
const maxSecrets = 1000

// A source is a file, or why it could not be read.
type source struct {
	file *file
	err  error
}

// readSources reads, in the order in which they count:
//
//	$DOCKER_AUTH_CONFIG                        the content itself
//	$DOCKER_CONFIG/config.json                 or ~/.docker/config.json
//	$REGISTRY_AUTH_FILE
//	$XDG_RUNTIME_DIR/containers/auth.json      or /run/containers/UID/auth.json
//	$XDG_CONFIG_HOME/containers/auth.json      or ~/.config/containers/auth.json
//	$BK_PULL_SECRETS                           pull secrets of Kubernetes
//
// What bk login writes comes before all that is not said for this process alone,
// so a login always has effect.
func readSources(getenv func(string) string) []source {
	var list []source
	add := func(f *file, err error) {
		if f != nil || err != nil {
			list = append(list, source{f, err})
		}
	}
	if text := getenv("DOCKER_AUTH_CONFIG"); text != "" {
		f, err := parse("$DOCKER_AUTH_CONFIG", []byte(text))
		if f != nil {
			f.helpers, f.store = nil, ""
		}
		add(f, err)
	}
	if path, err := dockerConfig(getenv); err == nil {
		add(optional(path, parse))
	}
	if path := getenv("REGISTRY_AUTH_FILE"); path != "" {
		f, err := read(path, parse)
		if err != nil {
			err = fmt.Errorf("REGISTRY_AUTH_FILE: %w", err)
		}
		add(f, err)
	}
	for _, path := range podmanFiles(getenv) {
		add(optional(path, parse))
	}
	for _, path := range filepath.SplitList(getenv("BK_PULL_SECRETS")) {
		list = append(list, pullSecrets(path)...)
	}
	return list
}

// dockerConfig is where Docker keeps its configuration.
func dockerConfig(getenv func(string) string) (string, error) {
	if dir := getenv("DOCKER_CONFIG"); dir != "" {
		return filepath.Join(dir, "config.json"), nil
	}
	if home := homeDir(getenv); home != "" {
		return filepath.Join(home, ".docker", "config.json"), nil
	}
	return "", errors.New("no place for credentials: set HOME or DOCKER_CONFIG")
}

func homeDir(getenv func(string) string) string {
	if home := getenv("HOME"); home != "" {
		return home
	}
	return getenv("USERPROFILE")
}

func podmanFiles(getenv func(string) string) []string {
	var list []string
	if dir := getenv("XDG_RUNTIME_DIR"); dir != "" {
		list = append(list, filepath.Join(dir, "containers", "auth.json"))
	} else if uid := userID(getenv); uid != "" {
		list = append(list, filepath.Join("/run/containers", uid, "auth.json"))
	}
	if dir := getenv("XDG_CONFIG_HOME"); filepath.IsAbs(dir) {
		list = append(list, filepath.Join(dir, "containers", "auth.json"))
	} else if home := homeDir(getenv); home != "" {
		list = append(list, filepath.Join(home, ".config", "containers", "auth.json"))
	}
	return list
}

// userID is the user's number. In a user namespace it is what podman's variable
// says, which those that made the namespace set: the user is root there.
func userID(getenv func(string) string) string {
	if _, err := strconv.ParseUint(getenv("_CONTAINERS_ROOTLESS_UID"), 10, 32); err == nil {
		return getenv("_CONTAINERS_ROOTLESS_UID")
	}
	if uid := os.Getuid(); uid >= 0 {
		return strconv.Itoa(uid)
	}
	return ""
}

func read(path string, parse func(string, []byte) (*file, error)) (*file, error) {
	b, err := readFile(path)
	if err != nil {
		return nil, err
	}
	return parse(path, b)
}

// optional is read for a file that need not exist.
func optional(path string, parse func(string, []byte) (*file, error)) (*file, error) {
	f, err := read(path, parse)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	return f, err
}

// pullSecrets reads what Kubernetes mounts: a file, a directory that is one
// mounted secret, or a directory of such.
func pullSecrets(path string) []source {
	fi, err := os.Stat(path)
	if err != nil {
		return []source{{err: fmt.Errorf("BK_PULL_SECRETS: %w", err)}}
	}
	if !fi.IsDir() {
		return []source{secretFile(path)}
	}
	list := secretDir(path)
	entries, err := os.ReadDir(path)
	if err == nil && len(entries) > maxSecrets {
		err = fmt.Errorf("%s has %d entries, at most %d are read", path, len(entries), maxSecrets)
	}
	if err != nil {
		return append(list, source{err: fmt.Errorf("BK_PULL_SECRETS: %w", err)})
	}
	for _, e := range entries {
		sub := filepath.Join(path, e.Name())
		if strings.HasPrefix(e.Name(), "..") { // a volume's own versions
			continue
		}
		if fi, err := os.Stat(sub); err == nil && fi.IsDir() {
			list = append(list, secretDir(sub)...)
		}
	}
	return list
}

// secretDir reads the keys that a secret of the types
// kubernetes.io/dockerconfigjson and kubernetes.io/dockercfg has.
func secretDir(dir string) []source {
	var list []source
	for _, name := range []string{".dockerconfigjson", "config.json", ".dockercfg"} {
		if s := secretFile(filepath.Join(dir, name)); !errors.Is(s.err, fs.ErrNotExist) {
			list = append(list, s)
		}
	}
	return list
}

func secretFile(path string) source {
	format := parse
	if filepath.Base(path) == ".dockercfg" {
		format = parseLegacy
	}
	f, err := read(path, format)
	if err != nil {
		err = fmt.Errorf("BK_PULL_SECRETS: %w", err)
	}
	return source{f, err}
}

package hosts

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
)

// maxFiles bounds the files of a drop-in directory.
const maxFiles = 1000

// Paths names the files to read.
type Paths struct {
	File string   // registries.conf; "": none
	Dirs []string // registries.conf.d, in this order; those that do not exist are empty
}

// DefaultPaths are those of containers-registries.conf(5):
// $CONTAINERS_REGISTRIES_CONF, else the user's file in ~/.config/containers, else
// the system's in /etc or /usr/share. Drop-in files are the system's and then
// the user's; only the latter when the user has a file.
func DefaultPaths(getenv func(string) string) Paths {
	const name, dir = "registries.conf", "registries.conf.d"
	system := []string{"/usr/share/containers", "/etc/containers"}
	var p Paths
	for _, s := range system {
		p.Dirs = append(p.Dirs, filepath.Join(s, dir))
		if file := filepath.Join(s, name); exists(file) {
			p.File = file
		}
	}
	if home := getenv("HOME"); filepath.IsAbs(home) {
		user := filepath.Join(home, ".config", "containers")
		if file := filepath.Join(user, name); exists(file) {
			p = Paths{File: file}
		}
		p.Dirs = append(p.Dirs, filepath.Join(user, dir))
	}
	if file := getenv("CONTAINERS_REGISTRIES_CONF"); file != "" {
		p.File = file
	}
	return p
}

// exists is true also for what cannot be looked at: reading it will say why.
func exists(path string) bool {
	_, err := os.Stat(path)
	return !os.IsNotExist(err)
}

// Load reads the files. A rule of a later file replaces that of an earlier one
// with the same prefix; within a file the first counts. Errors name the file and
// the line.
func Load(p Paths) (*Config, error) {
	c := Lazy(p)
	if c.lazy.Do(c.read); c.err != nil {
		return nil, c.err
	}
	return c, nil
}

// Lazy is Load at the first time that a repository is looked up, which then
// returns the error: who stays away from registries does not need the files.
func Lazy(p Paths) *Config { return &Config{paths: &p} }

func (c *Config) read() {
	if c.paths == nil {
		return
	}
	c.rules = map[string]rule{}
	c.err = c.loadAll(*c.paths)
}

func (c *Config) loadAll(p Paths) error {
	if p.File != "" {
		if err := c.load(p.File, false); err != nil {
			return err
		}
	}
	for _, dir := range p.Dirs {
		files, err := dropIns(dir)
		if err != nil {
			return err
		}
		for _, f := range files {
			if err := c.load(f, true); err != nil {
				return err
			}
		}
	}
	return nil
}

func (c *Config) load(path string, dropIn bool) error {
	b, err := readFile(path)
	if err != nil {
		return fmt.Errorf("registries.conf: %w", err)
	}
	rules, err := parse(path, b, dropIn)
	if err != nil {
		return err
	}
	for prefix, r := range rules {
		c.rules[prefix] = r
	}
	return nil
}

// dropIns lists the *.conf files of a directory, in order.
func dropIns(dir string) ([]string, error) {
	entries, err := os.ReadDir(dir)
	if os.IsNotExist(err) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("registries.conf.d: %w", err)
	}
	var files []string
	for _, e := range entries {
		if strings.HasSuffix(e.Name(), ".conf") && !e.IsDir() {
			files = append(files, filepath.Join(dir, e.Name()))
		}
	}
	if len(files) > maxFiles {
		return nil, fmt.Errorf("registries.conf.d: %s has %d files, at most %d are read", dir, len(files), maxFiles)
	}
	return files, nil
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

// Package hosts says where the images of a registry are had from: mirrors, other
// locations, registries that may not be used. It reads
// containers-registries.conf(5), version 2 (of version 1: the lists of insecure
// and blocked registries), and its drop-in directories. None of these files has
// to exist.
//
//	paths.go     which files there are
//	parse.go     a file -> rules
//	Endpoints    a repository -> where to look for it, in order
//
// A rule is for the repositories below its prefix; the longest prefix wins. Tags
// and digests in a prefix are refused, because a rule for them that is not
// followed would be worse than an error. What is about names that lack a
// registry (unqualified-search-registries, aliases, short-name-mode) has no
// meaning here: such names always are of docker.io.
package hosts

import (
	"fmt"
	"strings"
	"sync"
)

// Config is what the files say. The zero value and nil say nothing: every
// repository is where its name says. It is safe for concurrent use.
type Config struct {
	lazy  sync.Once
	paths *Paths          // to be read when it is used; nil: rules are complete
	rules map[string]rule // by prefix
	err   error
}

// An Endpoint is one place of a repository.
type Endpoint struct {
	Registry   string // "host" or "host:port"
	Repository string // in that registry
	Insecure   bool   // plain HTTP and unknown certificates are allowed
	Mirror     bool   // not the place itself: what it lacks may be elsewhere
	Source     string // "FILE:LINE" of the rule; "": there is none
}

// A rule is one [[registry]] of a file.
type rule struct {
	location string // "": as the name says
	insecure bool
	blocked  bool
	mirrors  []mirror
	source   string // FILE:LINE
}

type mirror struct {
	location string
	insecure bool
	digests  bool // is for names with a digest
	tags     bool // is for others
}

// BlockedError says that the configuration forbids to use a repository.
type BlockedError struct {
	Name   string
	Source string // FILE:LINE
}

func (e *BlockedError) Error() string {
	return fmt.Sprintf("%s is blocked by %s", e.Name, e.Source)
}

// Endpoints returns where a repository ("registry/repository") is to be read
// from, in the order in which to try: mirrors first, its own place last. The
// error is a *BlockedError when it must not be read at all.
func (c *Config) Endpoints(name string, byDigest bool) ([]Endpoint, error) {
	r, prefix, err := c.find(name)
	if err != nil {
		return nil, err
	}
	var list []Endpoint
	for _, m := range r.mirrors {
		if byDigest && !m.digests || !byDigest && !m.tags {
			continue
		}
		e, err := r.endpoint(name, prefix, m.location)
		if err != nil {
			return nil, err
		}
		e.Insecure, e.Mirror = m.insecure, true
		list = append(list, e)
	}
	own, err := r.endpoint(name, prefix, r.location)
	if err != nil {
		return nil, err
	}
	own.Insecure = r.insecure
	return append(list, own), nil
}

// Destination returns where a repository is to be written to, or a registry
// ("host[:port]") is to be logged in to: where its name says, because mirrors and
// other locations are for reading only. The error is a *BlockedError when it
// must not be used.
func (c *Config) Destination(name string) (Endpoint, error) {
	r, _, err := c.find(name)
	if err != nil {
		return Endpoint{}, err
	}
	host, repo, _ := strings.Cut(canonical(name), "/")
	return Endpoint{Registry: host, Repository: repo, Insecure: r.insecure, Source: r.source}, nil
}

// find returns the rule with the longest prefix of name. Without one the rule is
// empty.
func (c *Config) find(name string) (rule, string, error) {
	if c == nil {
		return rule{}, "", nil
	}
	if c.lazy.Do(c.read); c.err != nil {
		return rule{}, "", c.err
	}
	if len(c.rules) == 0 {
		return rule{}, "", nil
	}
	name = canonical(name)
	for prefix := name; ; {
		if r, ok := c.rules[prefix]; ok {
			return r.allowed(name, prefix)
		}
		i := strings.LastIndexByte(prefix, '/')
		if i < 0 {
			break
		}
		prefix = prefix[:i]
	}
	host, _, _ := strings.Cut(name, "/")
	host = withoutPort(host)
	for {
		_, parent, ok := strings.Cut(host, ".")
		if !ok {
			return rule{}, "", nil
		}
		if r, ok := c.rules["*."+parent]; ok {
			return r.allowed(name, "*."+parent)
		}
		host = parent
	}
}

func (r rule) allowed(name, prefix string) (rule, string, error) {
	if r.blocked {
		return rule{}, "", &BlockedError{Name: name, Source: r.source}
	}
	return r, prefix, nil
}

// endpoint replaces the prefix of name by a location. A wildcard prefix matches
// the whole host, with its port.
func (r rule) endpoint(name, prefix, location string) (Endpoint, error) {
	name = canonical(name)
	full := name
	if location != "" {
		matched := len(prefix)
		if strings.HasPrefix(prefix, "*.") {
			if matched = strings.IndexByte(name, '/'); matched < 0 {
				matched = len(name)
			}
		}
		full = location + name[matched:]
	}
	host, repo, _ := strings.Cut(full, "/")
	if host == "" || repo == "" {
		if r.source == "" {
			return Endpoint{}, fmt.Errorf("repository %q is not valid: want REGISTRY/REPOSITORY", name)
		}
		return Endpoint{}, fmt.Errorf("%s: location %q for %s names no repository", r.source, location, name)
	}
	return Endpoint{Registry: host, Repository: repo, Source: r.source}, nil
}

// withoutPort is the host of "host[:port]".
func withoutPort(host string) string {
	if i := strings.LastIndexByte(host, ':'); i > strings.LastIndexByte(host, ']') {
		return host[:i]
	}
	return host
}

// canonical is a name as configuration files write it: the registry in lower
// case, and Docker Hub's as docker.io.
func canonical(name string) string {
	host, repo, found := strings.Cut(name, "/")
	host = strings.ToLower(host)
	if host == "index.docker.io" {
		host = "docker.io"
	}
	if !found {
		return host
	}
	return host + "/" + repo
}

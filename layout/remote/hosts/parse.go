package hosts

import (
	"bytes"
	"errors"
	"fmt"
	"regexp"
	"strings"
	"sync"

	"github.com/pelletier/go-toml/v2"
)

// maxFile bounds a configuration file, in bytes. The parser's time grows with
// the square of a table's keys: so large a table takes it seconds.
const maxFile = 256 << 10

// document is what is read of a file.
type document struct {
	Registry []registryTable `toml:"registry"`
	// Registries is version 1 of the format.
	Registries struct {
		Insecure oldList `toml:"insecure"`
		Block    oldList `toml:"block"`
	} `toml:"registries"`
}

type oldList struct {
	Registries []string `toml:"registries"`
}

type registryTable struct {
	Prefix             string        `toml:"prefix"`
	Location           string        `toml:"location"`
	Insecure           bool          `toml:"insecure"`
	Blocked            bool          `toml:"blocked"`
	MirrorByDigestOnly bool          `toml:"mirror-by-digest-only"`
	PullFromMirror     string        `toml:"pull-from-mirror"`
	Mirror             []mirrorTable `toml:"mirror"`
}

type mirrorTable struct {
	Location       string `toml:"location"`
	Insecure       bool   `toml:"insecure"`
	PullFromMirror string `toml:"pull-from-mirror"`
}

// parse returns the rules of a file by their prefix.
func parse(path string, b []byte, dropIn bool) (map[string]rule, error) {
	var doc document
	if err := toml.Unmarshal(b, &doc); err != nil {
		var at *toml.DecodeError
		if errors.As(err, &at) {
			line, column := at.Position()
			return nil, fmt.Errorf("%s:%d:%d: %w", path, line, column, err)
		}
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	old := oldTables(doc)
	if len(old) > 0 && (dropIn || len(doc.Registry) > 0) {
		return nil, fmt.Errorf("%s: [registries] is of version 1 of the format: write [[registry]] instead", path)
	}
	rules := map[string]rule{}
	lines := tableLines(b)
	for i, table := range append(doc.Registry, old...) {
		source := path
		if len(lines) == len(doc.Registry) && i < len(lines) {
			source = fmt.Sprintf("%s:%d", path, lines[i])
		}
		prefix, r, err := table.rule()
		if err != nil {
			return nil, fmt.Errorf("%s: %w", source, err)
		}
		r.source = source
		if _, twice := rules[prefix]; !twice {
			rules[prefix] = r
		}
	}
	return rules, nil
}

// oldTables translates version 1.
func oldTables(doc document) []registryTable {
	var list []registryTable
	blocked := map[string]bool{}
	for _, name := range doc.Registries.Block.Registries {
		blocked[name] = true
		list = append(list, registryTable{Location: name, Blocked: true})
	}
	for _, name := range doc.Registries.Insecure.Registries {
		if !blocked[name] {
			list = append(list, registryTable{Location: name, Insecure: true})
		}
	}
	return list
}

var tableHeader = sync.OnceValue(func() *regexp.Regexp { return regexp.MustCompile(`(?m)^[ \t]*\[\[[ \t]*["']?registry["']?[ \t]*\]\]`) })

// tableLines returns the lines that begin a [[registry]]. They are for messages:
// a file that is written in an unusual way has other ones.
func tableLines(b []byte) []int {
	var lines []int
	line, last := 1, 0
	for _, at := range tableHeader().FindAllIndex(b, -1) {
		line += bytes.Count(b[last:at[0]], []byte("\n"))
		last = at[0]
		lines = append(lines, line)
	}
	return lines
}

// rule checks a table.
func (t registryTable) rule() (prefix string, r rule, err error) {
	r = rule{insecure: t.Insecure, blocked: t.Blocked}
	if t.PullFromMirror != "" {
		return "", r, errors.New("pull-from-mirror belongs into [[registry.mirror]]")
	}
	if r.location, err = location(t.Location, false); err != nil {
		return "", r, fmt.Errorf("location %q: %w", t.Location, err)
	}
	prefix = r.location
	if t.Prefix != "" {
		if prefix, err = location(t.Prefix, true); err != nil {
			return "", r, fmt.Errorf("prefix %q: %w", t.Prefix, err)
		}
	}
	if prefix == "" {
		return "", r, errors.New("[[registry]] has neither prefix nor location")
	}
	for _, m := range t.Mirror {
		parsed, err := t.mirror(m)
		if err != nil {
			return "", r, fmt.Errorf("mirror %q: %w", m.Location, err)
		}
		r.mirrors = append(r.mirrors, parsed)
	}
	return prefix, r, nil
}

func (t registryTable) mirror(m mirrorTable) (mirror, error) {
	where, err := location(m.Location, false)
	if err != nil {
		return mirror{}, err
	}
	if where == "" {
		return mirror{}, errors.New("location is missing")
	}
	if t.MirrorByDigestOnly && m.PullFromMirror != "" {
		return mirror{}, errors.New("pull-from-mirror cannot be combined with mirror-by-digest-only")
	}
	parsed := mirror{location: where, insecure: m.Insecure}
	switch m.PullFromMirror {
	case "", "all":
		parsed.digests, parsed.tags = true, !t.MirrorByDigestOnly
	case "digest-only":
		parsed.digests = true
	case "tag-only":
		parsed.tags = true
	default:
		return mirror{}, fmt.Errorf("pull-from-mirror %q: want all, digest-only or tag-only", m.PullFromMirror)
	}
	return parsed, nil
}

var (
	// A host, an IPv6 address in brackets, or either with a port.
	hostPattern = sync.OnceValue(func() *regexp.Regexp {
		return regexp.MustCompile(`^([a-z0-9]([a-z0-9._-]*[a-z0-9])?|\[[0-9a-f:.]+\])(:[0-9]{1,5})?$`)
	})
	pathPattern = sync.OnceValue(func() *regexp.Regexp {
		return regexp.MustCompile(`^[a-z0-9]+([._-]+[a-z0-9]+)*(/[a-z0-9]+([._-]+[a-z0-9]+)*)*$`)
	})
)

// location checks a host with an optional path: "host[:port][/namespace…]", and
// for a prefix "*.host".
func location(s string, prefix bool) (string, error) {
	if s == "" {
		return "", nil
	}
	if scheme, _, found := strings.Cut(s, "://"); found {
		return "", fmt.Errorf("%s:// does not belong here: write host[:port][/path], and insecure = true for plain HTTP", scheme)
	}
	s = canonical(strings.TrimRight(s, "/"))
	host, path, hasPath := strings.Cut(s, "/")
	if rest, wildcard := strings.CutPrefix(host, "*."); wildcard {
		if !prefix || hasPath || strings.Contains(rest, ":") {
			return "", errors.New("a wildcard can only be the beginning of a prefix that is a host, as in *.example.com")
		}
		host = rest
	}
	if strings.Contains(s, "@") || strings.Contains(path, ":") {
		return "", errors.New("a tag or digest is not supported here: name the repository")
	}
	if !hostPattern().MatchString(host) || hasPath && !pathPattern().MatchString(path) {
		return "", errors.New("want host[:port][/path], in lower case")
	}
	return s, nil
}

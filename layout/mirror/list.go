package mirror

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"path"
	"regexp"
	"slices"
	"strings"
	"sync"

	"github.com/Masterminds/semver/v3"
	"github.com/containerd/platforms"
	digest "github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"go.yaml.in/yaml/v3"

	"bk.build/bk/layout/place"
)

// MaxList bounds a list, in bytes.
const MaxList = 4 << 20

// List says what is mirrored, and where to: a YAML document. What it does not
// know is an error.
//
//	destination: registry.example/mirror
//	scoped: false
//	images:
//	  - source: docker.io/library/alpine
//	    tags: ["3.*", "!*-rc*"]
//	    semver: ">=3.18"
//	    platforms: [linux/amd64, linux/arm64]
//	    referrers: true
//	  - source: quay.io/org/tool
//	    digests: ["sha256:..."]
//	    destination: registry.example/tools/tool
type List struct {
	// Destination is a registry's prefix, such as registry.example/mirror, or
	// oci:DIR. In a registry an image is in the repository that has its source's
	// path below the prefix; in a layout it has its source's name.
	Destination string `yaml:"destination"`
	// Scoped puts the source's registry before its path.
	Scoped bool    `yaml:"scoped"`
	Images []Image `yaml:"images"`
}

// Image is a repository, and which of its images are mirrored: those of all tags
// that match, and the digests.
type Image struct {
	// Source is a repository, or one image in it (NAME:TAG, NAME@DIGEST), or
	// oci:DIR.
	Source string `yaml:"source"`
	// Tags are patterns as path.Match has them; one that begins with "!" takes
	// out what it matches. A plain tag must be there. Tags that belong to another
	// image (sha256-HEX, cosign's sha256-HEX.sig) are picked only by patterns that
	// begin with "sha256-"; Referrers takes them along.
	Tags []string `yaml:"tags"`
	// Regex is a regular expression (RE2) for whole tags.
	Regex string `yaml:"regex"`
	// Semver is a constraint, such as ">=3.18 <4": tags that are no versions are
	// left out. Tags, Regex and Semver hold together.
	Semver  string   `yaml:"semver"`
	Digests []string `yaml:"digests"`
	// Platforms are copied of an index; none: all.
	Platforms []string `yaml:"platforms"`
	// Referrers takes signatures, SBOMs and other artifacts along.
	Referrers bool `yaml:"referrers"`
	// Destination is the repository, or oci:DIR, in place of what the list's
	// makes.
	Destination string `yaml:"destination"`

	line int // in the list
}

// Parse parses a list in the format of [List], or in that of "skopeo sync".
// Errors name the line.
func Parse(b []byte) (*List, error) {
	if len(b) > MaxList {
		return nil, fmt.Errorf("parse list: it has more than %d bytes", MaxList)
	}
	var root yaml.Node
	dec := yaml.NewDecoder(bytes.NewReader(b))
	if err := dec.Decode(&root); err != nil && err != io.EOF {
		return nil, fmt.Errorf("parse list: %w", plain(err))
	}
	if err := dec.Decode(new(yaml.Node)); err != io.EOF {
		return nil, errors.New("parse list: it has more than one document, or what follows the first is no YAML")
	}
	l := &List{}
	var err error
	if isSkopeo(&root) {
		err = l.parseSkopeo(b)
	} else if err = decode(b, l); err == nil {
		l.number(&root)
	}
	if err == nil {
		err = l.check()
	}
	if err != nil {
		return nil, fmt.Errorf("parse list: %w", err)
	}
	return l, nil
}

// decode decodes YAML without fields that v does not have.
func decode(b []byte, v any) error {
	dec := yaml.NewDecoder(bytes.NewReader(b))
	dec.KnownFields(true)
	if err := dec.Decode(v); err != nil && err != io.EOF {
		return plain(err)
	}
	return nil
}

var goTypes = sync.OnceValue(func() *regexp.Regexp { return regexp.MustCompile(` (in type|into) [\w.\[\]*]+`) })

// plain makes an error of the YAML library one for people.
func plain(err error) error {
	text := strings.TrimPrefix(err.Error(), "yaml: ")
	text = strings.TrimPrefix(text, "unmarshal errors:\n  ")
	text = goTypes().ReplaceAllString(text, "")
	text = strings.ReplaceAll(text, "\n  ", "; ")
	return errors.New(strings.ReplaceAll(text, "not found", "is not known here"))
}

// number notes the lines of images.
func (l *List) number(root *yaml.Node) {
	if len(root.Content) == 0 || root.Content[0].Kind != yaml.MappingNode {
		return
	}
	fields := root.Content[0].Content
	for i := 0; i+1 < len(fields); i += 2 {
		if fields[i].Value != "images" {
			continue
		}
		for j, n := range fields[i+1].Content {
			if j < len(l.Images) {
				l.Images[j].line = n.Line
			}
		}
	}
}

// check checks what can be checked without looking at a place.
func (l *List) check() error {
	if len(l.Images) == 0 {
		return errors.New("it names no images")
	}
	if l.Destination != "" {
		if err := checkDestination(l.Destination); err != nil {
			return err
		}
	}
	var errs []error
	for _, i := range l.Images {
		if err := i.check(); err != nil {
			errs = append(errs, fmt.Errorf("line %d: image %q: %w", i.line, i.Source, err))
		}
	}
	return errors.Join(errs...)
}

func checkDestination(text string) error {
	p, err := place.Parse(text)
	if err != nil {
		return fmt.Errorf("destination: %w", err)
	}
	switch p.Kind {
	case place.Bare, place.Registry:
		if strings.ContainsAny(lastElement(p.Rest), ":@") && strings.Contains(p.Rest, "/") {
			return fmt.Errorf("destination %q has a tag or a digest: every image keeps its own", text)
		}
	case place.Layout:
	default:
		return fmt.Errorf("destination %q: want a registry or oci:DIR", text)
	}
	return nil
}

func lastElement(s string) string { return s[strings.LastIndexByte(s, '/')+1:] }

func (i Image) check() error {
	src, err := parseSource(i.Source)
	if err != nil {
		return err
	}
	if src.ref != "" && (len(i.Tags) > 0 || len(i.Digests) > 0 || i.Regex != "" || i.Semver != "") {
		return fmt.Errorf("it names %s already, and tags or digests beside it", src.ref)
	}
	if src.ref == "" && len(i.Tags) == 0 && len(i.Digests) == 0 && i.Regex == "" && i.Semver == "" {
		return errors.New("it names no tags: write tags: [\"*\"] for all")
	}
	if i.Destination != "" {
		if err := checkDestination(i.Destination); err != nil {
			return err
		}
	}
	for _, d := range i.Digests {
		if _, err := digest.Parse(d); err != nil {
			return fmt.Errorf("digest %q: %w", d, err)
		}
	}
	if _, err := i.platforms(); err != nil {
		return err
	}
	_, err = i.selector()
	return err
}

func (i Image) platforms() ([]ocispec.Platform, error) {
	var list []ocispec.Platform
	for _, s := range i.Platforms {
		p, err := platforms.Parse(s)
		if err != nil {
			return nil, fmt.Errorf("platform %q: %w", s, err)
		}
		list = append(list, platforms.Normalize(p))
	}
	return list, nil
}

// selector picks tags.
type selector struct {
	plain    []string // tags that must be there
	take     []string // patterns
	leave    []string
	regex    *regexp.Regexp
	versions *semver.Constraints
	all      bool // nothing says which tags: those that the others pick
}

func (i Image) selector() (*selector, error) {
	s := &selector{}
	for _, t := range i.Tags {
		pattern, out := strings.CutPrefix(t, "!")
		if _, err := path.Match(pattern, ""); err != nil || pattern == "" {
			return nil, fmt.Errorf("tag pattern %q: want letters, *, ?, [a-z]", t)
		}
		switch {
		case out:
			s.leave = append(s.leave, pattern)
		case strings.ContainsAny(pattern, `*?[\`):
			s.take = append(s.take, pattern)
		default:
			s.plain = append(s.plain, pattern)
		}
	}
	var err error
	if i.Regex != "" {
		if s.regex, err = regexp.Compile("^(?:" + i.Regex + ")$"); err != nil {
			return nil, fmt.Errorf("regex: %w", err)
		}
	}
	if i.Semver != "" {
		if s.versions, err = semver.NewConstraint(i.Semver); err != nil {
			return nil, fmt.Errorf("semver %q: %w", i.Semver, err)
		}
	}
	s.all = len(s.plain)+len(s.take) == 0 && (len(s.leave) > 0 || s.regex != nil || s.versions != nil)
	return s, nil
}

// lists says whether the place's tags are needed.
func (s *selector) lists() bool { return s.all || len(s.take) > 0 }

// match says whether a tag that is there is picked.
func (s *selector) match(tag string) bool {
	take := s.take
	if companions().MatchString(tag) {
		take = slices.DeleteFunc(slices.Clone(take), func(p string) bool { return !strings.HasPrefix(p, "sha256-") })
		return matches(take, tag) && s.passes(tag)
	}
	return (s.all || matches(take, tag)) && s.passes(tag)
}

// companions are tags that say something about another image.
var companions = sync.OnceValue(func() *regexp.Regexp { return regexp.MustCompile(`^sha256-[0-9a-f]{64}(\.[a-z]+)?$`) })

// passes says whether nothing speaks against a tag.
func (s *selector) passes(tag string) bool {
	if matches(s.leave, tag) || s.regex != nil && !s.regex.MatchString(tag) {
		return false
	}
	if s.versions == nil {
		return true
	}
	v, err := semver.NewVersion(tag)
	return err == nil && s.versions.Check(v)
}

func matches(patterns []string, tag string) bool {
	for _, p := range patterns {
		if ok, err := path.Match(p, tag); err == nil && ok {
			return true
		}
	}
	return false
}

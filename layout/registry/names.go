package registry

import (
	"path/filepath"
	"slices"
	"strings"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"bk.build/bk/layout"
)

// names tells which repositories and tags the entries of index.json are.
type names struct {
	base string // the repository of entries that have a tag only
}

// A place is where an entry is served.
type place struct {
	repo, tag string
	// alias: it is another name of a place that is listed.
	alias bool
}

// places returns where an entry is served; none when it has no name, or one
// that no client could ask for.
func (n names) places(e ocispec.Descriptor) []place {
	full, ref := e.Annotations[layout.AnnotationImageName], e.Annotations[ocispec.AnnotationRefName]
	if full == "" && strings.ContainsAny(ref, "/:@") {
		full = ref
	}
	if full != "" {
		return namedPlaces(full)
	}
	if !tagGrammar().MatchString(ref) {
		return nil
	}
	return []place{{repo: n.base, tag: ref}}
}

// namedPlaces is places for a full name.
func namedPlaces(name string) []place {
	if strings.Contains(name, "@") {
		return nil // a digest, which needs no name
	}
	repo, tag := name, "latest"
	if i := strings.LastIndex(name, ":"); i >= 0 && !strings.Contains(name[i:], "/") {
		repo, tag = name[:i], name[i+1:]
	}
	host, path, ok := strings.Cut(repo, "/")
	if !ok || !strings.ContainsAny(host, ".:") && host != "localhost" {
		host, path = "", repo
	}
	if !validName(path) || !tagGrammar().MatchString(tag) {
		return nil
	}
	list := []place{{repo: path, tag: tag}}
	if host != "docker.io" && host != "index.docker.io" {
		return list
	}
	if short, ok := strings.CutPrefix(path, "library/"); ok && !strings.Contains(short, "/") {
		return []place{{repo: short, tag: tag}, {repo: path, tag: tag, alias: true}}
	}
	return list
}

// serves says whether an entry is the tag of the repository.
func (n names) serves(e ocispec.Descriptor, repo, tag string) bool {
	return slices.ContainsFunc(n.places(e), func(p place) bool { return p.repo == repo && p.tag == tag })
}

// in says whether an entry belongs to the repository, under whatever tag.
func (n names) in(e ocispec.Descriptor, repo string) bool {
	return slices.ContainsFunc(n.places(e), func(p place) bool { return p.repo == repo })
}

// hasName says whether somebody gave the entry a name, be it one that is not
// served.
func hasName(e ocispec.Descriptor) bool {
	return e.Annotations[layout.AnnotationImageName] != "" || e.Annotations[ocispec.AnnotationRefName] != ""
}

// baseName makes the name of a repository of that of the layout's directory.
func baseName(path string) (string, error) {
	abs, err := filepath.Abs(path)
	if err != nil {
		return "", err
	}
	words := strings.FieldsFunc(strings.ToLower(filepath.Base(abs)), func(r rune) bool {
		return !(r >= 'a' && r <= 'z' || r >= '0' && r <= '9')
	})
	name := strings.Join(words, "-")
	if whole := strings.ToLower(filepath.Base(abs)); validName(whole) {
		name = whole
	}
	if !validName(name) {
		name = "layout"
	}
	return name, nil
}

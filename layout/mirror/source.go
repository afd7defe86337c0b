package mirror

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	digest "github.com/opencontainers/go-digest"

	"bk.build/bk/layout"
	"bk.build/bk/layout/place"
	"bk.build/bk/layout/transfer"
)

// source is a parsed Image.Source.
type source struct {
	kind place.Kind // Registry or Layout
	// repo is the repository's full name, or the layout's directory.
	repo string
	ref  string // a tag or a digest; empty: it names none
}

// parseSource parses the name of a repository, or of one image in it.
func parseSource(text string) (source, error) {
	p, err := place.Parse(text)
	if err != nil {
		return source{}, err
	}
	switch p.Kind {
	case place.Layout:
		return source{kind: place.Layout, repo: p.Rest}, nil
	case place.Bare, place.Registry:
	default:
		return source{}, errors.New("want a repository of a registry, or oci:DIR")
	}
	s := source{kind: place.Registry}
	s.repo, s.ref = cutRef(p.Rest)
	s.repo, _ = cutRef(layout.NormalizeName(s.repo))
	return s, nil
}

// cutRef cuts NAME[:TAG][@DIGEST]; the digest counts.
func cutRef(name string) (repo, ref string) {
	repo, dg, ok := strings.Cut(name, "@")
	i := strings.LastIndexByte(repo, ':')
	if i < 0 || i < strings.LastIndexByte(repo, '/') {
		return repo, dg
	}
	if !ok {
		dg = repo[i+1:]
	}
	return repo[:i], dg
}

// named is the text of the place of one image.
func (s source) named(ref string) string {
	if s.kind == place.Layout {
		return "oci:" + s.repo + ":" + ref
	}
	return "docker://" + join(s.repo, ref)
}

func join(repo, ref string) string {
	if _, err := digest.Parse(ref); err == nil {
		return repo + "@" + ref
	}
	return repo + ":" + ref
}

// refs lists the references of one image of a list: digests, then tags, sorted.
func (i Image) refs(ctx context.Context, o *place.Opener, s source) ([]string, error) {
	if s.ref != "" {
		return []string{s.ref}, nil
	}
	sel, err := i.selector()
	if err != nil {
		return nil, err
	}
	var tags []string
	for _, t := range sel.plain {
		if sel.passes(t) {
			tags = append(tags, t)
		}
	}
	if sel.lists() {
		all, err := listTags(ctx, o, s)
		if err != nil {
			return nil, err
		}
		for _, t := range all {
			if sel.match(tagOf(s, t)) {
				tags = append(tags, t)
			}
		}
	}
	slices.Sort(tags)
	refs := append(slices.Clone(i.Digests), slices.Compact(tags)...)
	if len(refs) == 0 {
		return nil, errors.New("no tag matches")
	}
	return refs, nil
}

// tagOf is what patterns are compared with: in a layout, whose tags may be full
// names, what follows the last colon.
func tagOf(s source, tag string) string {
	if s.kind == place.Layout {
		if _, ref := cutRef(tag); ref != "" {
			return ref
		}
	}
	return tag
}

func listTags(ctx context.Context, o *place.Opener, s source) ([]string, error) {
	text := "docker://" + s.repo
	if s.kind == place.Layout {
		text = "oci:" + s.repo
	}
	src, err := o.Source(ctx, text)
	if err != nil {
		return nil, err
	}
	defer src.Close()
	l, ok := src.Reader.(transfer.Lister)
	if !ok {
		return nil, fmt.Errorf("%s cannot list its tags", text)
	}
	return l.Tags(ctx)
}

// target is where an image of a list goes.
type target struct {
	place string // as place.Opener.Target takes it
	repo  string // the part that images of one repository have in common
	name  string // the reference there; empty of a digest
}

// targetOf says where the image ref of a source goes.
func (l *List) targetOf(i Image, s source, ref string) (target, error) {
	name, tag := s.repo, ref
	if s.kind == place.Layout {
		if name, tag = cutRef(ref); tag == "" {
			name, tag = "", ref
		}
	}
	if _, err := digest.Parse(tag); err == nil {
		tag = ""
	}
	base := i.Destination
	if base == "" {
		base = l.Destination
	}
	if base == "" {
		return target{}, errors.New("there is no destination")
	}
	p, err := place.Parse(base)
	if err != nil {
		return target{}, err
	}
	if p.Kind == place.Layout {
		full := tag
		if name != "" && tag != "" {
			full = join(name, tag)
		}
		t := target{place: "oci:" + p.Rest, repo: "oci:" + p.Rest, name: full}
		if full != "" {
			t.place += ":" + full
		}
		return t, nil
	}
	repo := strings.TrimSuffix(p.Rest, "/")
	if i.Destination == "" {
		if name == "" {
			return target{}, fmt.Errorf("%q is no full name: the image needs a destination of its own", ref)
		}
		host, path, _ := strings.Cut(name, "/")
		if l.Scoped {
			path = strings.ReplaceAll(host, ":", "-") + "/" + path
		}
		repo += "/" + path
	}
	t := target{place: "docker://" + repo, repo: "docker://" + repo, name: tag}
	if tag != "" {
		t.place = "docker://" + join(repo, tag)
	}
	return t, nil
}

package transfer

import (
	"context"
	"encoding/json"
	"errors"
	"io/fs"
	"strings"

	digest "github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sync/errgroup"

	"bk.build/bk/layout"
)

// Bounds on what refers to an image.
const (
	maxReferrers     = 10_000 // manifests in all
	maxReferrerDepth = 8      // signatures of attestations of ...
)

// companions are the suffixes of the tags under which cosign stores what belongs
// to an image, after the image's digest: "sha256-HEX.sig".
var companions = []string{".sig", ".att", ".sbom"}

// fallbackTag is the tag of the index of referrers in a registry without the API
// for them (distribution-spec, "Referrers Tag Schema").
func fallbackTag(dg digest.Digest) string { return dg.Algorithm().String() + "-" + dg.Encoded() }

// sibling returns the name of a tag beside ref: in the same repository when ref
// is a full name, else the tag alone.
func sibling(ref, tag string) string {
	repo, _, _ := strings.Cut(ref, "@")
	if !strings.Contains(repo, "/") {
		return tag
	}
	if i := strings.LastIndex(repo, ":"); i > strings.LastIndex(repo, "/") {
		repo = repo[:i]
	}
	return repo + ":" + tag
}

// describeReferrer completes the descriptor of a document from its bytes, if its
// subject is the given one (distribution-spec, "Listing Referrers").
func describeReferrer(desc ocispec.Descriptor, b []byte, subject digest.Digest) (ocispec.Descriptor, bool) {
	var doc struct {
		ArtifactType string              `json:"artifactType"`
		Subject      *ocispec.Descriptor `json:"subject"`
		Config       ocispec.Descriptor  `json:"config"`
		Annotations  map[string]string   `json:"annotations"`
	}
	if json.Unmarshal(b, &doc) != nil || doc.Subject == nil || doc.Subject.Digest != subject {
		return desc, false
	}
	desc.ArtifactType, desc.Annotations = doc.ArtifactType, doc.Annotations
	if desc.ArtifactType == "" {
		desc.ArtifactType = doc.Config.MediaType
	}
	return desc, true
}

// referrersOf copies what refers to an image: manifests whose subject is the
// image, one of its manifests, or a manifest that was copied for that reason;
// and the tags that cosign puts beside it. from is the image's reference in src,
// names are those that it gets.
func (c *Copier) referrersOf(ctx context.Context, src Reader, desc ocispec.Descriptor, from string, names []string) error {
	list, err := layout.Closure(desc, Fetch(ctx, src))
	if err != nil {
		return err
	}
	var subjects []ocispec.Descriptor
	for _, d := range list {
		if layout.IsIndex(d.MediaType) || layout.IsManifest(d.MediaType) {
			subjects = append(subjects, d)
		}
	}
	w := &referrerWalk{c: c, src: src, from: from, names: names, seen: map[digest.Digest]bool{}}
	for depth := 0; len(subjects) > 0 && depth < maxReferrerDepth; depth++ {
		if subjects, err = w.level(ctx, subjects); err != nil {
			return err
		}
	}
	return nil
}

type referrerWalk struct {
	c     *Copier
	src   Reader
	from  string
	names []string
	seen  map[digest.Digest]bool
}

// level copies what refers to the subjects and returns it.
func (w *referrerWalk) level(ctx context.Context, subjects []ocispec.Descriptor) ([]ocispec.Descriptor, error) {
	found := make([][]named, len(subjects))
	g, gctx := errgroup.WithContext(ctx)
	g.SetLimit(documentsAtATime)
	for i, s := range subjects {
		g.Go(func() (err error) {
			found[i], err = w.of(gctx, s)
			return err
		})
	}
	if err := g.Wait(); err != nil {
		return nil, err
	}
	var next []ocispec.Descriptor
	for _, list := range found {
		for _, n := range list {
			if w.seen[n.desc.Digest] && n.tag == "" {
				continue
			}
			if len(w.seen) >= maxReferrers {
				return nil, errors.New("copy referrers: there are more than 10000")
			}
			if !w.seen[n.desc.Digest] {
				next = append(next, n.desc)
			}
			w.seen[n.desc.Digest] = true
			if err := w.c.Image(ctx, w.src, n.desc, w.target(n)...); err != nil {
				return nil, err
			}
		}
	}
	return next, nil
}

// named is a manifest that refers to an image, and its tag when that says so.
type named struct {
	desc ocispec.Descriptor
	tag  string
}

// target lists the names that a copied referrer gets: a tag beside each of the
// image's, or an entry without a name.
func (w *referrerWalk) target(n named) []string {
	if n.tag == "" {
		return []string{""}
	}
	if len(w.names) == 0 {
		return []string{sibling("", n.tag)}
	}
	var names []string
	for _, name := range w.names {
		names = append(names, sibling(name, n.tag))
	}
	return names
}

// of lists what refers to one manifest.
func (w *referrerWalk) of(ctx context.Context, subject ocispec.Descriptor) ([]named, error) {
	var found []named
	if l, ok := w.src.(Lister); ok {
		list, err := l.Referrers(ctx, subject.Digest)
		if err != nil {
			return nil, err
		}
		for _, desc := range list {
			found = append(found, named{desc: desc})
		}
	}
	for _, suffix := range companions {
		tag := fallbackTag(subject.Digest) + suffix
		desc, err := w.src.Resolve(ctx, sibling(w.from, tag))
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return nil, err
		}
		found = append(found, named{desc, tag})
	}
	return found, nil
}

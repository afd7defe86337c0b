package remote

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"

	digest "github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"bk.build/bk/layout"
)

// PutManifest stores a manifest or an index, whose content must be there
// already, under its tags; empty names are left out, and without any it can be
// had by its digest only. A document with a subject becomes one of the subject's
// referrers, also where the registry has no API for them: then the index under
// the tag sha256-... is kept up to date (distribution-spec, "Pushing Manifests
// with Subject").
func (r *Repository) PutManifest(ctx context.Context, desc ocispec.Descriptor, b []byte, names ...string) error {
	e, err := r.home()
	if err == nil {
		err = checkDocument(desc, b)
	}
	if err == nil {
		err = r.putManifest(ctx, e, desc, b, names)
	}
	return fail("push manifest "+printable(desc.Digest.String(), 200)+" to", r.name, e, err)
}

// checkDocument checks that b is what its descriptor says.
func checkDocument(desc ocispec.Descriptor, b []byte) error {
	if err := layout.CheckDescriptor(desc); err != nil {
		return err
	}
	if got := desc.Digest.Algorithm().FromBytes(b); got != desc.Digest || desc.Size != int64(len(b)) {
		return fmt.Errorf("the document has %d bytes of digest %s, its descriptor says %d", len(b), got, desc.Size)
	}
	if len(b) > layout.MaxManifest {
		return fmt.Errorf("it has %d bytes, at most %d are read by anybody", len(b), layout.MaxManifest)
	}
	if !isDocument(desc) {
		return fmt.Errorf("media type %s is not that of a manifest or an index", printable(desc.MediaType, 200))
	}
	_, err := documentType("", desc.MediaType, b)
	return err
}

func (r *Repository) putManifest(ctx context.Context, e *endpoint, desc ocispec.Descriptor, b []byte, names []string) error {
	var tags []string
	for _, name := range names {
		switch {
		case name == "" || name == desc.Digest.String():
		case !validTag(name):
			return fmt.Errorf("%q is not a valid tag: letters, digits, _, . and -, at most 128", printable(name, 200))
		default:
			tags = append(tags, name)
		}
	}
	subject, err := subjectOf(b)
	if err != nil {
		return err
	}
	if subject != nil || len(tags) == 0 {
		// By digest first: the tag is to lead to what its referrers can be found of.
		known, err := e.putDocument(ctx, desc, b, desc.Digest.String())
		if err != nil {
			return err
		}
		if subject != nil && !known {
			if err := r.addReferrer(ctx, e, subject.Digest, desc, b); err != nil {
				return err
			}
		}
	}
	for _, tag := range tags {
		if _, err := e.putDocument(ctx, desc, b, tag); err != nil {
			return fmt.Errorf("tag %s: %w", tag, err)
		}
	}
	r.docs.keep(desc, b)
	return nil
}

// putDocument stores a document under a tag or its digest, and says whether the
// registry has taken note of its subject.
func (e *endpoint) putDocument(ctx context.Context, desc ocispec.Descriptor, b []byte, id string) (known bool, err error) {
	resp, err := e.do(ctx, call{
		method: http.MethodPut, path: "manifests/" + id, doc: b, header: http.Header{"Content-Type": {desc.MediaType}},
		scopes: e.writeScopes(), ok: []int{http.StatusCreated, http.StatusOK, http.StatusAccepted}, slow: true,
	})
	if err != nil {
		return false, err
	}
	defer drain(resp)
	return resp.Header.Get("OCI-Subject") != "", checkAnswer(resp, desc.Digest)
}

// checkAnswer compares the digest that the registry says it has stored.
func checkAnswer(resp *http.Response, want digest.Digest) error {
	said := resp.Header.Get("Docker-Content-Digest")
	if got, err := digest.Parse(said); err == nil && got != want && got.Algorithm() == want.Algorithm() {
		return fmt.Errorf("the registry says that it stored content of digest %s", got)
	}
	return nil
}

// relation is what a document says about another one, and what its descriptor
// repeats in a list of referrers.
type relation struct {
	MediaType    string              `json:"mediaType"`
	ArtifactType string              `json:"artifactType"`
	Config       ocispec.Descriptor  `json:"config"`
	Subject      *ocispec.Descriptor `json:"subject"`
	Annotations  map[string]string   `json:"annotations"`
}

// parseRelation parses a document that was checked before.
func parseRelation(b []byte) (rel relation, err error) {
	if err := json.Unmarshal(b, &rel); err != nil {
		return rel, err
	}
	if rel.ArtifactType == "" {
		rel.ArtifactType = rel.Config.MediaType
	}
	if rel.Subject != nil {
		if err := rel.Subject.Digest.Validate(); err != nil {
			return rel, fmt.Errorf("the subject's digest: %w", err)
		}
	}
	return rel, nil
}

// subjectOf returns the subject of a document; nil: it has none.
func subjectOf(b []byte) (*ocispec.Descriptor, error) {
	rel, err := parseRelation(b)
	return rel.Subject, err
}

// errLost is an index of referrers that somebody else has rewritten meanwhile.
var errLost = errors.New("another writer replaced the index of referrers")

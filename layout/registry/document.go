package registry

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"mime"
	"slices"
	"strings"
	"sync"

	digest "github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"bk.build/bk/layout"
)

// A document is what a registry has to know of a manifest.
type document struct {
	// artifactType is that of image-spec, and for a manifest without one the
	// media type of its config (distribution-spec, "Listing Referrers").
	artifactType string
	// declared is the field artifactType alone.
	declared    string
	subject     *ocispec.Descriptor
	annotations map[string]string
	blobs       []ocispec.Descriptor // that must be there
	manifests   []ocispec.Descriptor // that must be there and be what is said of them
}

// parseDocument parses a manifest of any media type. Images, artifacts and
// indexes must not be readable in two ways; of others only the fields that they
// have in common with these are looked at.
func parseDocument(mediaType string, b []byte) (document, error) {
	var d document
	switch {
	case layout.IsManifest(mediaType):
		m, err := layout.ParseManifest(mediaType, b)
		if err != nil {
			return d, err
		}
		d = document{
			artifactType: cmp.Or(m.ArtifactType, m.Config.MediaType), declared: m.ArtifactType,
			subject: m.Subject, annotations: m.Annotations,
		}
		d.blobs = append(slices.Clone(m.Layers), m.Config)
	case layout.IsIndex(mediaType):
		x, err := layout.ParseIndex(mediaType, b)
		if err != nil {
			return d, err
		}
		d = document{
			artifactType: x.ArtifactType, declared: x.ArtifactType,
			subject: x.Subject, annotations: x.Annotations, manifests: x.Manifests,
		}
	default:
		var err error
		if d, err = parseOther(mediaType, b); err != nil {
			return d, err
		}
	}
	if d.subject != nil {
		if err := layout.CheckDescriptor(*d.subject); err != nil {
			return d, fmt.Errorf("subject: %w", err)
		}
	}
	if len(d.artifactType) > 255 {
		return d, errors.New("the artifactType is longer than 255 bytes")
	}
	return d, nil
}

// parseOther parses a document of a type that image-spec does not have, such as
// the artifact manifests that it once had.
func parseOther(mediaType string, b []byte) (document, error) {
	if err := layout.CheckSchema(mediaType); err != nil {
		return document{}, err
	}
	var m struct {
		MediaType    string               `json:"mediaType"`
		ArtifactType string               `json:"artifactType"`
		Subject      *ocispec.Descriptor  `json:"subject"`
		Annotations  map[string]string    `json:"annotations"`
		Blobs        []ocispec.Descriptor `json:"blobs"`
	}
	if err := layout.CheckJSON(b); err != nil {
		return document{}, err
	}
	if err := json.Unmarshal(b, &m); err != nil {
		return document{}, err
	}
	if m.MediaType != "" && m.MediaType != mediaType {
		return document{}, fmt.Errorf("the Content-Type is %q, the document says %q", mediaType, m.MediaType)
	}
	for _, desc := range m.Blobs {
		if err := layout.CheckDescriptor(desc); err != nil {
			return document{}, err
		}
	}
	return document{
		artifactType: m.ArtifactType, declared: m.ArtifactType,
		subject: m.Subject, annotations: m.Annotations, blobs: m.Blobs,
	}, nil
}

// mediaTypeOf is the media type that a document is stored under: the request's,
// else what it says itself.
func mediaTypeOf(contentType string, b []byte) (string, error) {
	if contentType == "" {
		return layout.DetectMediaType(b)
	}
	mt, _, err := mime.ParseMediaType(contentType)
	if err != nil {
		return "", err
	}
	// ParseMediaType makes it lower case; a type with a capital letter would
	// then differ from the document's own.
	mt = strings.TrimSpace(contentType[:len(mt)])
	if !mediaTypeGrammar().MatchString(mt) {
		return "", errors.New("the media type does not satisfy its grammar")
	}
	return mt, nil
}

// A referrer is a manifest with a subject.
type referrer struct {
	desc         ocispec.Descriptor // without annotations
	artifactType string
	subject      digest.Digest
}

// describe returns the descriptor as it is listed. Annotations are read each
// time: they may be large.
func (l referrer) describe(dir *layout.Dir) (ocispec.Descriptor, error) {
	b, err := dir.ReadBlob(l.desc, layout.MaxManifest)
	if err != nil {
		return ocispec.Descriptor{}, err
	}
	doc, err := parseDocument(l.desc.MediaType, b)
	if err != nil {
		return ocispec.Descriptor{}, err
	}
	desc := l.desc
	desc.ArtifactType, desc.Annotations = doc.artifactType, doc.annotations
	return desc, nil
}

// linkCache knows the subjects of the manifests in index.json.
type linkCache struct {
	mu    sync.Mutex
	known map[digest.Digest]referrer // by their own digest; without a subject, too
	view  *view                      // that to is of
	links map[digest.Digest][]referrer
}

// to returns the manifests of a view whose subject is the given one, sorted by
// digest. The caller does not change the list.
func (c *linkCache) to(subject digest.Digest, v *view, dir *layout.Dir) []referrer {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.view == v {
		return c.links[subject]
	}
	known := make(map[digest.Digest]referrer, len(v.entries))
	c.view, c.links = v, map[digest.Digest][]referrer{}
	for _, e := range v.entries {
		if _, done := known[e.Digest]; done {
			continue
		}
		l, ok := c.known[e.Digest]
		if !ok {
			var err error
			if l, err = readReferrer(e, dir); err != nil {
				continue // missing or broken: it refers to nothing
			}
		}
		known[e.Digest] = l
		if l.subject != "" {
			c.links[l.subject] = append(c.links[l.subject], l)
		}
	}
	for _, list := range c.links {
		slices.SortFunc(list, func(a, b referrer) int { return cmp.Compare(a.desc.Digest, b.desc.Digest) })
	}
	c.known = known
	return c.links[subject]
}

// expire makes the next to look for those that were missing or broken.
func (c *linkCache) expire() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.view = nil
}

// readReferrer reads what an entry of index.json refers to.
func readReferrer(e ocispec.Descriptor, dir *layout.Dir) (referrer, error) {
	l := referrer{desc: ocispec.Descriptor{MediaType: e.MediaType, Digest: e.Digest, Size: e.Size}}
	b, err := dir.ReadBlob(l.desc, layout.MaxManifest)
	if err != nil {
		return l, err
	}
	doc, err := parseDocument(e.MediaType, b)
	if err != nil {
		return l, err
	}
	l.artifactType = doc.artifactType
	if doc.subject != nil {
		l.subject = doc.subject.Digest
	}
	return l, nil
}

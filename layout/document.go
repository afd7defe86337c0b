package layout

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"
	"unicode/utf8"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// Bounds on the shape of documents.
const (
	maxDepth   = 32     // of nested JSON values
	maxEntries = 10_000 // of an array or an object: manifests of an index, layers of a manifest
)

// errConfusion is what documents are refused for that two readers could take
// for different things.
var errConfusion = errors.New("ambiguous document")

// shape is what tells a manifest from an index.
type shape struct {
	SchemaVersion int             `json:"schemaVersion"`
	MediaType     string          `json:"mediaType"`
	Config        json.RawMessage `json:"config"`
	Layers        json.RawMessage `json:"layers"`
	Manifests     json.RawMessage `json:"manifests"`
	FSLayers      json.RawMessage `json:"fsLayers"`
}

// ParseManifest parses an image manifest (image-spec, manifest.md) of the given
// media type, which is the descriptor's or the registry's; empty: not known.
// A document whose own mediaType differs, which has the fields of an index,
// names a field twice or in other case, or whose digests or sizes are invalid,
// is an error.
func ParseManifest(mediaType string, b []byte) (ocispec.Manifest, error) {
	m, err := parseManifest(mediaType, b)
	if err != nil {
		return ocispec.Manifest{}, fmt.Errorf("parse manifest: %w", err)
	}
	return m, nil
}

func parseManifest(mediaType string, b []byte) (m ocispec.Manifest, err error) {
	s, err := parseShape(mediaType, b)
	if err != nil {
		return m, err
	}
	if mt := first(s.MediaType, mediaType); mt != "" && !IsManifest(mt) {
		return m, fmt.Errorf("media type %q is not that of an image manifest", mt)
	}
	if s.Manifests != nil {
		return m, fmt.Errorf("%w: a manifest with the field manifests, which is an index's", errConfusion)
	}
	if s.Config == nil || s.Layers == nil {
		return m, errors.New("it has no config or no layers")
	}
	if err := json.Unmarshal(b, &m); err != nil {
		return m, err
	}
	return m, checkDescriptors(append(m.Layers[:len(m.Layers):len(m.Layers)], m.Config))
}

// ParseIndex parses an image index (image-spec, image-index.md) or a Docker
// manifest list as strictly as ParseManifest.
func ParseIndex(mediaType string, b []byte) (ocispec.Index, error) {
	index, err := parseIndex(mediaType, b)
	if err != nil {
		return ocispec.Index{}, fmt.Errorf("parse index: %w", err)
	}
	return index, nil
}

func parseIndex(mediaType string, b []byte) (index ocispec.Index, err error) {
	s, err := parseShape(mediaType, b)
	if err != nil {
		return index, err
	}
	if mt := first(s.MediaType, mediaType); mt != "" && !IsIndex(mt) {
		return index, fmt.Errorf("media type %q is not that of an image index", mt)
	}
	if s.Config != nil || s.Layers != nil {
		return index, fmt.Errorf("%w: an index with the field config or layers, which are a manifest's", errConfusion)
	}
	if s.Manifests == nil {
		return index, errors.New("it has no manifests")
	}
	if err := json.Unmarshal(b, &index); err != nil {
		return index, err
	}
	return index, checkDescriptors(index.Manifests)
}

// parseShape checks what manifests and indexes have in common.
func parseShape(mediaType string, b []byte) (s shape, err error) {
	if err := CheckJSON(b, knownFields...); err != nil {
		return s, err
	}
	if err := json.Unmarshal(b, &s); err != nil {
		return s, err
	}
	for _, mt := range []string{mediaType, s.MediaType} {
		if err := CheckSchema(mt); err != nil {
			return s, err
		}
	}
	if s.FSLayers != nil || s.SchemaVersion == 1 {
		return s, CheckSchema(mediaTypeSchema1)
	}
	if s.SchemaVersion != 2 {
		return s, fmt.Errorf("schemaVersion is %d, want 2", s.SchemaVersion)
	}
	if mediaType != "" && s.MediaType != "" && mediaType != s.MediaType {
		return s, fmt.Errorf("%w: the descriptor says %q, the document %q", errConfusion, mediaType, s.MediaType)
	}
	return s, nil
}

// DetectMediaType returns the media type of a manifest or index: its own
// mediaType field, or what its fields say it is.
func DetectMediaType(b []byte) (string, error) {
	s, err := parseShape("", b)
	switch {
	case err != nil:
		return "", err
	case s.MediaType != "" && !IsIndex(s.MediaType) && !IsManifest(s.MediaType):
		return "", fmt.Errorf("media type %q is neither an image manifest's nor an index's", s.MediaType)
	case s.MediaType != "":
		return s.MediaType, nil
	case s.Manifests != nil && s.Config == nil && s.Layers == nil:
		return ocispec.MediaTypeImageIndex, nil
	case s.Config != nil && s.Manifests == nil:
		return ocispec.MediaTypeImageManifest, nil
	}
	return "", errors.New("it is neither an image manifest nor an index")
}

// checkDescriptors checks the descriptors of a document.
func checkDescriptors(descs []ocispec.Descriptor) error {
	if len(descs) > maxEntries {
		return errTooMany
	}
	for _, desc := range descs {
		if err := CheckDescriptor(desc); err != nil {
			return err
		}
	}
	return nil
}

// CheckDescriptor checks a foreign descriptor: digest, size, media type
// (image-spec, descriptor.md).
func CheckDescriptor(desc ocispec.Descriptor) error {
	if err := desc.Digest.Validate(); err != nil {
		return fmt.Errorf("digest %q: %w", string(desc.Digest), err)
	}
	if desc.Size < 0 {
		return fmt.Errorf("descriptor %s: size %d", desc.Digest, desc.Size)
	}
	if desc.MediaType == "" {
		return fmt.Errorf("descriptor %s: it has no media type", desc.Digest)
	}
	return nil
}

// knownFields are the names that readers of these documents know. Go's decoder
// takes "Layers" for "layers" where others ignore it.
var knownFields = strings.Fields("schemaVersion mediaType artifactType config layers manifests subject " +
	"annotations digest size urls data platform architecture os variant fsLayers")

// errTooMany is what a document is refused for before it takes memory.
var errTooMany = fmt.Errorf("it has more than %d entries", maxEntries)

// CheckJSON refuses JSON that parsers disagree about: duplicate names, data
// after the value, invalid UTF-8, deep nesting; and arrays and objects of more
// than 10000 entries. When the fields are given that
// readers of the document know, names that differ from them or from each other
// by case only are refused too, but for annotations.
func CheckJSON(b []byte, fields ...string) error {
	if !utf8.Valid(b) {
		return fmt.Errorf("%w: invalid UTF-8", errConfusion)
	}
	c := jsonChecker{dec: json.NewDecoder(bytes.NewReader(b)), fields: fields}
	c.dec.UseNumber()
	if err := c.value(0, len(fields) > 0); err != nil {
		return err
	}
	if _, err := c.dec.Token(); err != io.EOF {
		return fmt.Errorf("%w: data after the end", errConfusion)
	}
	return nil
}

type jsonChecker struct {
	dec    *json.Decoder
	fields []string
}

// value checks one value. Where names are not those of fields, as in a map of
// annotations, any goes.
func (c *jsonChecker) value(depth int, fields bool) error {
	tok, err := c.dec.Token()
	if err != nil {
		return unexpectedEOF(err)
	}
	if depth > maxDepth {
		return fmt.Errorf("it is nested deeper than %d values", maxDepth)
	}
	switch tok {
	case json.Delim('['):
		for n := 0; c.dec.More(); n++ {
			if n == maxEntries {
				return errTooMany
			}
			if err := c.value(depth+1, fields); err != nil {
				return err
			}
		}
	case json.Delim('{'):
		if err := c.object(depth, fields); err != nil {
			return err
		}
	default:
		return nil
	}
	_, err = c.dec.Token() // the closing delimiter
	return unexpectedEOF(err)
}

func (c *jsonChecker) object(depth int, fields bool) error {
	seen := map[string]bool{}
	for c.dec.More() {
		tok, err := c.dec.Token()
		if err != nil {
			return unexpectedEOF(err)
		}
		name, _ := tok.(string)
		key := name
		if fields {
			key = strings.ToLower(name)
		}
		if len(seen) == maxEntries {
			return errTooMany
		}
		if seen[key] {
			return fmt.Errorf("%w: the name %q is there twice", errConfusion, name)
		}
		seen[key] = true
		if fields && c.misspelt(name) {
			return fmt.Errorf("%w: the name %q differs from a known one by case", errConfusion, name)
		}
		if err := c.value(depth+1, fields && name != "annotations"); err != nil {
			return err
		}
	}
	return nil
}

// misspelt says whether name is a known field in other case.
func (c *jsonChecker) misspelt(name string) bool {
	for _, known := range c.fields {
		if name != known && strings.EqualFold(name, known) {
			return true
		}
	}
	return false
}

func unexpectedEOF(err error) error {
	if err == io.EOF {
		return io.ErrUnexpectedEOF
	}
	return err
}

func first(a, b string) string {
	if a != "" {
		return a
	}
	return b
}

package transfer

import (
	"slices"
	"strings"

	digest "github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"bk.build/bk/layout"
)

// IndexNames returns the names that entries of an index.json have, tags or in
// full, sorted.
func IndexNames(entries []ocispec.Descriptor) []string {
	var tags []string
	for _, e := range entries {
		name := e.Annotations[layout.AnnotationImageName]
		if name == "" {
			name = e.Annotations[ocispec.AnnotationRefName]
		}
		if name != "" {
			tags = append(tags, name)
		}
	}
	slices.Sort(tags)
	return slices.Compact(tags)
}

// IndexReferrers returns the manifests among the entries of an index.json, and
// in the indexes of the fallback tag scheme there, whose subject is the given
// one. Entries that cannot be read are passed over.
func IndexReferrers(entries []ocispec.Descriptor, fetch layout.Fetch, subject digest.Digest) []ocispec.Descriptor {
	fallback := fallbackTag(subject)
	var found []ocispec.Descriptor
	for _, e := range entries {
		list := []ocispec.Descriptor{e}
		if layout.IsIndex(e.MediaType) && strings.HasSuffix(e.Annotations[ocispec.AnnotationRefName], fallback) {
			list, _ = layout.Children(e, fetch)
		}
		for _, e := range list {
			if r, ok := referrer(e, fetch, subject); ok && !containsDigest(found, r.Digest) {
				found = append(found, r)
			}
		}
	}
	return found
}

// referrer describes a manifest if it is about subject.
func referrer(desc ocispec.Descriptor, fetch layout.Fetch, subject digest.Digest) (ocispec.Descriptor, bool) {
	if !layout.IsManifest(desc.MediaType) && !layout.IsIndex(desc.MediaType) {
		return desc, false
	}
	b, err := fetch(desc, layout.MaxManifest)
	if err != nil {
		return desc, false
	}
	return describeReferrer(desc, b, subject)
}

func containsDigest(list []ocispec.Descriptor, dg digest.Digest) bool {
	return slices.ContainsFunc(list, func(d ocispec.Descriptor) bool { return d.Digest == dg })
}

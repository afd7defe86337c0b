package registry

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"slices"
	"strings"

	digest "github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"bk.build/bk/layout"
)

// maxTags bounds how many tags one request may set.
const maxTags = 100

// maxNesting bounds how deep indexes in indexes are looked through.
const maxNesting = 10

// getManifest answers with a manifest's exact bytes.
func (r *Registry) getManifest(w http.ResponseWriter, req *http.Request, rt route) error {
	desc, err := r.resolve(rt)
	if err != nil {
		return err
	}
	b, err := r.dir.ReadBlob(desc, layout.MaxManifest)
	var corrupt *layout.CorruptError
	if errors.Is(err, fs.ErrNotExist) && !errors.As(err, &corrupt) {
		return noManifest()
	}
	if err != nil {
		return err
	}
	mt := desc.MediaType
	if !mediaTypeGrammar().MatchString(mt) {
		mt = "application/octet-stream"
	}
	h := w.Header()
	h.Set("Docker-Content-Digest", desc.Digest.String())
	h.Set("ETag", `"`+desc.Digest.String()+`"`)
	if slices.Contains(req.Header.Values("If-None-Match"), h.Get("ETag")) {
		w.WriteHeader(http.StatusNotModified)
		return nil
	}
	r.limits.answer(w, int64(len(b)))
	sendJSON(w, http.StatusOK, mt, b)
	return nil
}

// resolve finds the manifest that a route names.
func (r *Registry) resolve(rt route) (ocispec.Descriptor, error) {
	v, err := r.current()
	if err != nil {
		return ocispec.Descriptor{}, err
	}
	if rt.tag != "" {
		desc, ok := v.tags[rt.repo][rt.tag]
		if !ok {
			return desc, noManifest()
		}
		return desc, nil
	}
	i := slices.IndexFunc(v.entries, func(e ocispec.Descriptor) bool { return e.Digest == rt.digest })
	if i >= 0 {
		return v.entries[i], nil
	}
	return describe(r.dir, rt.digest)
}

// describe finds out what a blob without an entry is: a part of an index, or
// something that has lost its tag. A blob that is no manifest is none here.
func describe(dir *layout.Dir, dg digest.Digest) (ocispec.Descriptor, error) {
	size, err := dir.Stat(dg)
	if errors.Is(err, fs.ErrNotExist) || size > layout.MaxManifest {
		return ocispec.Descriptor{}, noManifest()
	}
	if err != nil {
		return ocispec.Descriptor{}, err
	}
	desc := ocispec.Descriptor{Digest: dg, Size: size}
	b, err := dir.ReadBlob(desc, layout.MaxManifest)
	if err != nil {
		return desc, err
	}
	if desc.MediaType, err = layout.DetectMediaType(b); err != nil {
		return desc, noManifest()
	}
	return desc, nil
}

// putManifest stores a manifest whose parts are there, under its digest, and
// makes tags lead to it.
func (r *Registry) putManifest(w http.ResponseWriter, req *http.Request, rt route) error {
	tags, err := tagsOf(rt, req)
	if err != nil {
		return err
	}
	b, err := readManifest(r.limits.body(w, req), req.ContentLength)
	r.limits.answer(w, 0)
	if err != nil {
		return err
	}
	mt, err := mediaTypeOf(req.Header.Get("Content-Type"), b)
	if err != nil {
		return problemf(http.StatusBadRequest, codeManifestInvalid, "Content-Type: %v", err)
	}
	doc, err := parseDocument(mt, b)
	if err != nil {
		return problemf(http.StatusBadRequest, codeManifestInvalid, "%v", err)
	}
	desc := ocispec.Descriptor{MediaType: mt, Size: int64(len(b)), ArtifactType: doc.declared}
	desc.Digest = digest.FromBytes(b)
	if rt.digest != "" {
		if got := rt.digest.Algorithm().FromBytes(b); got != rt.digest {
			return problemf(http.StatusBadRequest, codeDigestInvalid, "the manifest has the digest %s", got)
		}
		desc.Digest = rt.digest
	}
	merged, err := r.checkParts(doc)
	if err != nil {
		return err
	}
	if err := r.enter(rt.repo, tags, desc, b, merged); err != nil {
		return err
	}
	h := w.Header()
	h.Set("Location", "/v2/"+rt.repo+"/manifests/"+desc.Digest.String())
	h.Set("Docker-Content-Digest", desc.Digest.String())
	if doc.subject != nil {
		h.Set("OCI-Subject", doc.subject.Digest.String())
	}
	if rt.digest != "" && len(tags) > 0 {
		h.Set("OCI-Tag", strings.Join(tags, ", "))
	}
	h.Set("Content-Length", "0")
	w.WriteHeader(http.StatusCreated)
	return nil
}

// tagsOf returns the tags that a request sets: the one in its path, or, beside
// a digest, those of the parameter tag.
func tagsOf(rt route, req *http.Request) ([]string, error) {
	if rt.tag != "" {
		return []string{rt.tag}, nil
	}
	tags := req.URL.Query()["tag"]
	if len(tags) > maxTags {
		return nil, problemf(http.StatusRequestURITooLong, codeManifestInvalid, "at most %d tags are set at once", maxTags)
	}
	for _, tag := range tags {
		if !tagGrammar().MatchString(tag) {
			return nil, problemf(http.StatusBadRequest, codeManifestInvalid, "a parameter tag is not a tag")
		}
	}
	return tags, nil
}

// readManifest reads a request's body.
func readManifest(body io.Reader, length int64) ([]byte, error) {
	tooLarge := problemf(http.StatusRequestEntityTooLarge, codeSizeInvalid, "a manifest has at most %d bytes", layout.MaxManifest)
	if length > layout.MaxManifest {
		return nil, tooLarge
	}
	b, err := io.ReadAll(io.LimitReader(body, layout.MaxManifest+1))
	if err != nil {
		return nil, problemf(http.StatusBadRequest, codeManifestInvalid, "the manifest has not come as a whole")
	}
	if len(b) > layout.MaxManifest {
		return nil, tooLarge
	}
	return b, nil
}

// checkParts refuses a document whose parts are not there, or are not what it
// says they are. It returns those manifests among them that need no entry of
// their own.
func (r *Registry) checkParts(doc document) ([]digest.Digest, error) {
	for _, part := range doc.blobs {
		// Layers that registries may not hold are at their URLs.
		if !r.dir.HasDescriptor(part) && !layout.IsForeign(part.MediaType) {
			return nil, noPart("blob", part)
		}
	}
	var merged []digest.Digest
	type reading struct {
		mediaType string
		digest    digest.Digest
	}
	seen := map[reading]bool{} // one that is there many times is read once
	for _, part := range doc.manifests {
		if !r.dir.HasDescriptor(part) {
			return nil, noPart("manifest", part)
		}
		if !layout.IsManifest(part.MediaType) && !layout.IsIndex(part.MediaType) {
			continue
		}
		if seen[reading{part.MediaType, part.Digest}] {
			continue
		}
		seen[reading{part.MediaType, part.Digest}] = true
		child, err := readReferrer(part, r.dir)
		if err != nil {
			return nil, problemf(http.StatusBadRequest, codeManifestInvalid, "%s %s: %v", part.MediaType, part.Digest, err)
		}
		if child.subject == "" {
			merged = append(merged, part.Digest)
		}
	}
	return merged, nil
}

func noPart(kind string, part ocispec.Descriptor) *problem {
	return problemf(http.StatusBadRequest, codeManifestBlobUnknown, "the %s %s of %d bytes is not there: push it first", kind, part.Digest, part.Size)
}

// enter stores a manifest and enters it in index.json, in one step for others.
// The entries without a name of merged go away: the manifest contains them.
func (r *Registry) enter(repo string, tags []string, desc ocispec.Descriptor, b []byte, merged []digest.Digest) error {
	defer r.links.expire() // it may have healed a broken one, which changes no entry
	return r.change(func(index *ocispec.Index) error {
		if err := r.store(desc, b); err != nil {
			return err
		}
		var displaced []ocispec.Descriptor
		for _, tag := range tags {
			displaced = append(displaced, r.names.set(index, repo, tag, desc)...)
		}
		if len(tags) > 0 {
			merged = append(merged, desc.Digest)
		} else if !slices.ContainsFunc(index.Manifests, func(e ocispec.Descriptor) bool { return e.Digest == desc.Digest }) {
			index.Manifests = append(index.Manifests, desc)
		}
		index.Manifests = slices.DeleteFunc(index.Manifests, func(e ocispec.Descriptor) bool {
			return !hasName(e) && len(e.Annotations) == 0 && slices.Contains(merged, e.Digest)
		})
		r.keepReferrers(index, displaced)
		return nil
	})
}

// change changes index.json.
func (r *Registry) change(change func(*ocispec.Index) error) error {
	r.update.Lock()
	defer r.update.Unlock()
	return r.dir.Update(change)
}

// store writes a manifest's blob unless it is there.
func (r *Registry) store(desc ocispec.Descriptor, b []byte) error {
	if old, err := r.dir.ReadBlob(desc, layout.MaxManifest); err == nil && bytes.Equal(old, b) {
		return nil
	}
	blob, err := r.dir.NewBlob()
	if err != nil {
		return err
	}
	defer blob.Close()
	if _, err := blob.Write(b); err != nil {
		return fmt.Errorf("write manifest %s: %w", desc.Digest, err)
	}
	_, _, err = blob.Commit(desc.Digest, desc.Size)
	return err
}

// set makes the entries that are a tag lead to desc, or enters it. It returns
// what they led to before.
func (n names) set(index *ocispec.Index, repo, tag string, desc ocispec.Descriptor) (displaced []ocispec.Descriptor) {
	found := false
	for i, e := range index.Manifests {
		if !n.serves(e, repo, tag) {
			continue
		}
		found = true
		if e.Digest == desc.Digest {
			continue
		}
		displaced = append(displaced, e)
		index.Manifests[i] = desc
		index.Manifests[i].Annotations = nameOnly(e)
	}
	if !found {
		index.Manifests = append(index.Manifests, layout.NamedDescriptor(repo+":"+tag, desc))
	}
	return displaced
}

// nameOnly returns the annotations that name an entry. Others said something
// about what it led to.
func nameOnly(e ocispec.Descriptor) map[string]string {
	m := map[string]string{}
	for _, key := range []string{layout.AnnotationImageName, ocispec.AnnotationRefName} {
		if v, ok := e.Annotations[key]; ok {
			m[key] = v
		}
	}
	return m
}

// keepReferrers enters what has just lost an entry without a name, when it has
// a subject and no other entry.
func (r *Registry) keepReferrers(index *ocispec.Index, lost []ocispec.Descriptor) {
	for _, e := range lost {
		if slices.ContainsFunc(index.Manifests, func(o ocispec.Descriptor) bool { return o.Digest == e.Digest }) {
			continue
		}
		if l, err := readReferrer(e, r.dir); err == nil && l.subject != "" {
			e.Annotations = nil
			index.Manifests = append(index.Manifests, e)
		}
	}
}

// deleteManifest deletes a tag, or a manifest with all its tags.
func (r *Registry) deleteManifest(w http.ResponseWriter, rt route) error {
	var err error
	if rt.tag != "" {
		err = r.change(func(index *ocispec.Index) error { return r.removeTag(index, rt) })
	} else {
		err = r.removeDigest(rt)
	}
	if err != nil {
		return err
	}
	w.WriteHeader(http.StatusAccepted)
	return nil
}

func (r *Registry) removeTag(index *ocispec.Index, rt route) error {
	gone := cut(index, func(e ocispec.Descriptor) bool { return r.names.serves(e, rt.repo, rt.tag) })
	if len(gone) == 0 {
		return noManifest()
	}
	r.keepReferrers(index, gone)
	return nil
}

// removeDigest removes the entries of a manifest, and then the manifest itself
// unless another repository needs it or somebody has just pushed it again. Cut
// off between the two, it leaves a blob that no name leads to.
func (r *Registry) removeDigest(rt route) error {
	var desc ocispec.Descriptor
	entries := 0
	err := r.change(func(index *ocispec.Index) (err error) {
		if desc, err = r.find(index, rt.digest); err != nil {
			return err
		}
		entries = len(cut(index, func(e ocispec.Descriptor) bool {
			return e.Digest == rt.digest && (!hasName(e) || r.names.in(e, rt.repo))
		}))
		return nil
	})
	if err != nil {
		return err
	}
	return r.change(func(index *ocispec.Index) error {
		switch {
		case !r.needed(index, desc, rt.repo):
			return r.dir.Remove(rt.digest)
		case entries == 0:
			return noManifest() // as if each repository had its own
		}
		return nil
	})
}

// find returns the descriptor of a manifest that is there.
func (r *Registry) find(index *ocispec.Index, dg digest.Digest) (ocispec.Descriptor, error) {
	for _, e := range index.Manifests {
		if e.Digest == dg {
			return e, nil
		}
	}
	return describe(r.dir, dg)
}

// needed says whether an entry is a manifest, or one with a name in another
// repository contains it.
func (r *Registry) needed(index *ocispec.Index, desc ocispec.Descriptor, repo string) bool {
	seen := map[digest.Digest]bool{}
	var contains func(e ocispec.Descriptor, depth int) bool
	contains = func(e ocispec.Descriptor, depth int) bool {
		if e.Digest == desc.Digest {
			return true
		}
		if !layout.IsIndex(e.MediaType) || seen[e.Digest] || depth > maxNesting {
			return false
		}
		seen[e.Digest] = true
		children, err := layout.Children(e, r.dir.ReadBlob)
		return err == nil && slices.ContainsFunc(children, func(c ocispec.Descriptor) bool { return contains(c, depth+1) })
	}
	return slices.ContainsFunc(index.Manifests, func(e ocispec.Descriptor) bool {
		return e.Digest == desc.Digest || hasName(e) && !r.names.in(e, repo) && contains(e, 0)
	})
}

// cut removes and returns entries.
func cut(index *ocispec.Index, which func(ocispec.Descriptor) bool) (gone []ocispec.Descriptor) {
	index.Manifests = slices.DeleteFunc(index.Manifests, func(e ocispec.Descriptor) bool {
		if which(e) {
			gone = append(gone, e)
			return true
		}
		return false
	})
	return gone
}

func noManifest() *problem {
	return problemf(http.StatusNotFound, codeManifestUnknown, "there is no such manifest in the layout")
}

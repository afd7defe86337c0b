package layout

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"path/filepath"
	"reflect"
	"slices"
	"strings"

	digest "github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// AnnotationImageName is the key of an image's full name in index.json, as
// containerd and BuildKit write it. The tag alone is in
// org.opencontainers.image.ref.name.
const AnnotationImageName = "io.containerd.image.name"

// ErrIndexFull says that index.json cannot take an entry: it would be larger
// than readers accept. Remove names that nobody needs.
var ErrIndexFull = errors.New("index.json is full")

const indexLock = ocispec.ImageIndexFile + ".lock"

func (d *Dir) indexPath() string { return filepath.Join(d.path, ocispec.ImageIndexFile) }

func emptyIndex() ocispec.Index {
	return ocispec.Index{
		Versioned: specs.Versioned{SchemaVersion: 2},
		MediaType: ocispec.MediaTypeImageIndex,
		Manifests: []ocispec.Descriptor{},
	}
}

// Index returns index.json. A missing file is an error that satisfies
// fs.ErrNotExist.
func (d *Dir) Index() (ocispec.Index, error) {
	b, err := readRegular(d.indexPath(), MaxManifest)
	if err != nil {
		return ocispec.Index{}, fmt.Errorf("read %s: %w", d.indexPath(), err)
	}
	index, err := parseIndex("", b)
	if err != nil {
		return ocispec.Index{}, fmt.Errorf("parse %s: %w", d.indexPath(), err)
	}
	return index, nil
}

// writeIndex replaces index.json. The caller holds the lock.
func (d *Dir) writeIndex(index ocispec.Index) error {
	if len(index.Manifests) > maxEntries {
		return fmt.Errorf("%w: it would have %d entries, at most %d are read", ErrIndexFull, len(index.Manifests), maxEntries)
	}
	b, err := json.Marshal(index)
	if err != nil {
		return err
	}
	if len(b) > MaxManifest {
		return fmt.Errorf("%w: it would have %d bytes, at most %d are read", ErrIndexFull, len(b), MaxManifest)
	}
	return d.replaceFile(ocispec.ImageIndexFile, b)
}

// updateIndex is Update for a change that cannot fail. One that has no effect
// does not even take the lock, whose file would show as a write to the
// directory; so change may run twice.
func (d *Dir) updateIndex(change func(*ocispec.Index)) error {
	if old, err := d.Index(); err == nil && reflect.DeepEqual(changed(old, change), old) {
		return nil
	}
	return d.Update(func(index *ocispec.Index) error {
		change(index)
		return nil
	})
}

// Update applies change to index.json and writes the result when it differs. No
// other process changes index.json meanwhile, so change may also look at blobs
// that the index leads to, add and remove them. It runs once; an error of it
// leaves index.json as it was, and is returned. A missing index.json is taken
// for an empty one.
func (d *Dir) Update(change func(*ocispec.Index) error) error {
	unlock, err := d.lockIndex()
	if err != nil {
		return err
	}
	defer unlock()
	old, err := d.Index()
	if errors.Is(err, fs.ErrNotExist) {
		old, err = emptyIndex(), nil
	}
	if err != nil {
		return err
	}
	var failed error
	index := changed(old, func(index *ocispec.Index) { failed = change(index) })
	if failed != nil || reflect.DeepEqual(index, old) {
		return failed
	}
	return d.writeIndex(index)
}

// changed applies change to a copy of index.
func changed(index ocispec.Index, change func(*ocispec.Index)) ocispec.Index {
	index.Manifests = slices.Clone(index.Manifests)
	change(&index)
	return index
}

// SetRef makes name lead to desc. A name is a full reference, such as
// "docker.io/library/app:latest", or a tag alone, such as "v1". As BuildKit's
// exporter does, the whole reference becomes the annotation
// io.containerd.image.name and its tag org.opencontainers.image.ref.name, so
// that "oci:DIR:latest" of other tools finds it. An empty name enters desc
// without one. An entry that is there already is left as it is and nothing is
// written.
func (d *Dir) SetRef(name string, desc ocispec.Descriptor) error {
	return d.SetRefs([]string{name}, desc)
}

// SetRefs is SetRef for several names in one update.
func (d *Dir) SetRefs(names []string, desc ocispec.Descriptor) error {
	if err := desc.Digest.Validate(); err != nil {
		return fmt.Errorf("set name of %q: %w", string(desc.Digest), err)
	}
	err := d.updateIndex(func(index *ocispec.Index) {
		for _, name := range names {
			index.Manifests = setEntry(index.Manifests, NamedDescriptor(name, desc))
		}
	})
	if err != nil {
		return fmt.Errorf("set %s: %w", strings.Join(names, ", "), err)
	}
	return nil
}

// setEntry puts desc in place of the entry of the same name, or at the end.
func setEntry(entries []ocispec.Descriptor, desc ocispec.Descriptor) []ocispec.Descriptor {
	same := func(e ocispec.Descriptor) bool {
		return e.Annotations[AnnotationImageName] == desc.Annotations[AnnotationImageName] &&
			e.Annotations[ocispec.AnnotationRefName] == desc.Annotations[ocispec.AnnotationRefName]
	}
	if desc.Annotations[ocispec.AnnotationRefName] == "" {
		same = func(e ocispec.Descriptor) bool { return e.Digest == desc.Digest }
	}
	i := slices.IndexFunc(entries, same)
	if i < 0 {
		return append(entries, desc)
	}
	if desc.Annotations[ocispec.AnnotationRefName] != "" {
		entries[i] = desc
	}
	return entries
}

// NamedDescriptor returns desc with the annotations that index.json has for
// name; see [Dir.SetRef].
func NamedDescriptor(name string, desc ocispec.Descriptor) ocispec.Descriptor {
	desc.Annotations = maps.Clone(desc.Annotations)
	delete(desc.Annotations, AnnotationImageName)
	delete(desc.Annotations, ocispec.AnnotationRefName)
	if name != "" {
		if desc.Annotations == nil {
			desc.Annotations = map[string]string{}
		}
		if strings.ContainsAny(name, "/:@") {
			desc.Annotations[AnnotationImageName] = name
		}
		desc.Annotations[ocispec.AnnotationRefName] = refName(name)
	}
	if len(desc.Annotations) == 0 {
		desc.Annotations = nil
	}
	return desc
}

// refName is the tag of a reference, or all of it when there is none.
func refName(name string) string {
	if strings.Contains(name, "@") {
		return name
	}
	if i := strings.LastIndex(name, ":"); i >= 0 && !strings.Contains(name[i:], "/") {
		return name[i+1:]
	}
	return name
}

// RemoveRef removes the entries that name leads to, by full name or by tag,
// like Resolve. A name that leads nowhere is an error that satisfies
// fs.ErrNotExist. Blobs stay.
func (d *Dir) RemoveRef(name string) error {
	found := false
	err := d.updateIndex(func(index *ocispec.Index) {
		hit := matching(index.Manifests, name)
		found = len(hit) > 0
		index.Manifests = slices.DeleteFunc(index.Manifests, func(e ocispec.Descriptor) bool {
			return slices.ContainsFunc(hit, func(h ocispec.Descriptor) bool { return reflect.DeepEqual(e, h) })
		})
	})
	if err == nil && !found {
		err = fs.ErrNotExist
	}
	if err != nil {
		return fmt.Errorf("remove name %q from %s: %w", name, d.path, err)
	}
	return nil
}

// Resolve returns the descriptor that ref leads to in index.json: a full name
// ("docker.io/library/app:latest", also spelled "app"), a tag, a digest (of an
// entry, of any manifest whose blob is in the layout, or of the configuration of
// an image), or, when ref is
// empty, the only image. Not found is an error that satisfies fs.ErrNotExist.
func (d *Dir) Resolve(ref string) (ocispec.Descriptor, error) {
	index, err := d.Index()
	if err != nil {
		return ocispec.Descriptor{}, err
	}
	desc, err := Find(index.Manifests, ref)
	if err != nil {
		if dg, ok := RefDigest(ref); ok && errors.Is(err, fs.ErrNotExist) {
			if desc, ok := d.byConfig(index.Manifests, dg); ok {
				return desc, nil
			}
			return d.describe(dg)
		}
		return ocispec.Descriptor{}, fmt.Errorf("resolve %q in OCI layout %s: %w", ref, d.path, err)
	}
	return desc, nil
}

// byConfig finds an image by the digest of its configuration, which other tools
// call the image's id.
func (d *Dir) byConfig(entries []ocispec.Descriptor, dg digest.Digest) (ocispec.Descriptor, bool) {
	if !d.Has(dg) {
		return ocispec.Descriptor{}, false
	}
	for _, e := range entries {
		images, err := Images(e, d.ReadBlob)
		if err != nil {
			continue
		}
		for _, image := range images {
			parts, err := Children(image, d.ReadBlob)
			if err == nil && parts[0].Digest == dg {
				return image, true
			}
		}
	}
	return ocispec.Descriptor{}, false
}

// Find selects the entry of index.json that ref means: a full name, a tag or a
// digest, as for [Dir.Resolve]; an empty ref means the only image. Not found is
// an error that satisfies fs.ErrNotExist.
func Find(entries []ocispec.Descriptor, ref string) (ocispec.Descriptor, error) {
	hit := entries
	if ref != "" {
		hit = matching(entries, ref)
	}
	if len(hit) == 0 {
		return ocispec.Descriptor{}, fmt.Errorf("%w; the layout has %s", fs.ErrNotExist, names(entries))
	}
	for _, e := range hit[1:] {
		if e.Digest != hit[0].Digest {
			return ocispec.Descriptor{}, fmt.Errorf("it is ambiguous: name one of %s", names(hit))
		}
	}
	return hit[0], nil
}

// matching returns the entries that ref means, by the first rule that finds
// any: full name, normalised full name, tag, digest.
func matching(entries []ocispec.Descriptor, ref string) []ocispec.Descriptor {
	full := NormalizeName(ref)
	dg, _ := RefDigest(ref)
	rules := []func(ocispec.Descriptor) bool{
		func(e ocispec.Descriptor) bool { return e.Annotations[AnnotationImageName] == ref },
		func(e ocispec.Descriptor) bool { return e.Annotations[ocispec.AnnotationRefName] == ref },
		func(e ocispec.Descriptor) bool { return e.Annotations[AnnotationImageName] == full },
		func(e ocispec.Descriptor) bool { return dg != "" && e.Digest == dg },
	}
	for _, rule := range rules {
		var hit []ocispec.Descriptor
		for _, e := range entries {
			if rule(e) {
				hit = append(hit, e)
			}
		}
		if len(hit) > 0 {
			return hit
		}
	}
	return nil
}

// RefDigest returns the digest of "sha256:..." and "NAME@sha256:...".
func RefDigest(ref string) (digest.Digest, bool) {
	if i := strings.LastIndex(ref, "@"); i >= 0 {
		ref = ref[i+1:]
	}
	dg, err := digest.Parse(ref)
	return dg, err == nil
}

// names lists at most ten entries of index.json for an error message.
func names(entries []ocispec.Descriptor) string {
	var list []string
	for _, e := range entries {
		if len(list) == 10 {
			list = append(list, fmt.Sprintf("and %d more", len(entries)-10))
			break
		}
		name := e.Annotations[AnnotationImageName]
		if name == "" {
			name = e.Annotations[ocispec.AnnotationRefName]
		}
		if name == "" {
			name = e.Digest.String()
		}
		list = append(list, name)
	}
	if len(list) == 0 {
		return "no images"
	}
	return strings.Join(list, ", ")
}

// describe makes the descriptor of a manifest or index blob that no entry
// names.
func (d *Dir) describe(dg digest.Digest) (ocispec.Descriptor, error) {
	size, err := d.Stat(dg)
	if err != nil {
		return ocispec.Descriptor{}, fmt.Errorf("resolve in OCI layout %s: %w", d.path, err)
	}
	desc := ocispec.Descriptor{Digest: dg, Size: size}
	b, err := d.ReadBlob(desc, MaxManifest)
	if err != nil {
		return ocispec.Descriptor{}, err
	}
	desc.MediaType, err = DetectMediaType(b)
	if err != nil {
		return ocispec.Descriptor{}, fmt.Errorf("blob %s: %w", dg, err)
	}
	return desc, nil
}

// NormalizeName spells a reference out as Docker does: "app" is
// "docker.io/library/app:latest". It does not check the name.
func NormalizeName(name string) string {
	domain, rest, ok := strings.Cut(name, "/")
	if !ok || !strings.ContainsAny(domain, ".:") && domain != "localhost" {
		domain, rest = "docker.io", name
	}
	if domain == "index.docker.io" {
		domain = "docker.io"
	}
	if domain == "docker.io" && !strings.Contains(rest, "/") {
		rest = "library/" + rest
	}
	if !strings.ContainsAny(rest, ":@") {
		rest += ":latest"
	}
	return domain + "/" + rest
}

package edit

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/containerd/platforms"
	digest "github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"bk.build/bk/layout"
	"bk.build/bk/layout/transfer"
)

// annotationAbout names, in an entry that says something about an image,
// that image's manifest (BuildKit's attestation manifests).
const annotationAbout = "vnd.docker.reference.digest"

// Bounds on the indexes that are flattened.
const (
	maxListNesting = 8
	maxListEntries = 10_000
)

// List is a manifest list: an image index, or Docker's, that is being edited.
// Entries keep their order; what is new comes last.
type List struct{ index ocispec.Index }

// NewList returns an empty index, or Docker's manifest list.
func NewList(docker bool) *List {
	l := &List{ocispec.Index{
		Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageIndex,
		Manifests: []ocispec.Descriptor{},
	}}
	if docker {
		l.index.MediaType = layout.MediaTypeDockerIndex
	}
	return l
}

// ReadList reads the list desc, whose media type it keeps.
func ReadList(ctx context.Context, r transfer.Reader, desc ocispec.Descriptor) (*List, error) {
	if !layout.IsIndex(desc.MediaType) {
		return nil, fmt.Errorf("%s is a single image (%s), not a list: make one with \"manifest create\"", desc.Digest, desc.MediaType)
	}
	b, err := transfer.ReadDocument(ctx, r, desc, layout.MaxManifest)
	if err != nil {
		return nil, err
	}
	index, err := layout.ParseIndex(desc.MediaType, b)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", desc.Digest, err)
	}
	index.MediaType = desc.MediaType
	return &List{index}, nil
}

// Manifests returns the entries.
func (l *List) Manifests() []ocispec.Descriptor { return slices.Clone(l.index.Manifests) }

// Entries returns what an image contributes to a list: a manifest itself, of an
// index all manifests in it and in the indexes that it has, in their order,
// BuildKit's attestations too. A platform that an entry doesn't say is that of
// its configuration; an artifact has none.
func Entries(ctx context.Context, r transfer.Reader, desc ocispec.Descriptor) ([]ocispec.Descriptor, error) {
	f := flattener{r: r, seen: map[digest.Digest]bool{}}
	if err := f.add(ctx, desc, 0); err != nil {
		return nil, err
	}
	return f.found, nil
}

type flattener struct {
	r     transfer.Reader
	seen  map[digest.Digest]bool
	found []ocispec.Descriptor
}

func (f *flattener) add(ctx context.Context, desc ocispec.Descriptor, depth int) error {
	if depth > maxListNesting || len(f.found) > maxListEntries {
		return fmt.Errorf("index %s: more than %d indexes within each other or %d entries", desc.Digest, maxListNesting, maxListEntries)
	}
	if f.seen[desc.Digest] {
		return nil
	}
	f.seen[desc.Digest] = true
	if !layout.IsIndex(desc.MediaType) {
		entry, err := describe(ctx, f.r, desc)
		if err != nil {
			return err
		}
		f.found = append(f.found, entry)
		return nil
	}
	children, err := layout.Children(desc, transfer.Fetch(ctx, f.r))
	if err != nil {
		return err
	}
	for _, child := range children {
		if err := f.add(ctx, child, depth+1); err != nil {
			return err
		}
	}
	return nil
}

// describe makes a manifest's descriptor one for a list: without the name that it
// has elsewhere, with its platform.
func describe(ctx context.Context, r transfer.Reader, desc ocispec.Descriptor) (ocispec.Descriptor, error) {
	entry := desc
	entry.Data, entry.URLs = nil, nil
	entry.Annotations = maps.Clone(desc.Annotations)
	delete(entry.Annotations, layout.AnnotationImageName)
	delete(entry.Annotations, ocispec.AnnotationRefName)
	if len(entry.Annotations) == 0 {
		entry.Annotations = nil
	}
	if entry.Platform != nil {
		return entry, nil
	}
	images, err := layout.Images(desc, transfer.Fetch(ctx, r))
	if err != nil {
		return entry, err
	}
	if p := images[0].Platform; p.OS != "unknown" {
		entry.Platform = p
		return entry, nil
	}
	b, err := transfer.ReadDocument(ctx, r, desc, layout.MaxManifest)
	if err != nil {
		return entry, err
	}
	m, err := layout.ParseManifest(desc.MediaType, b)
	entry.ArtifactType = m.ArtifactType
	if entry.ArtifactType == "" {
		entry.ArtifactType = m.Config.MediaType
	}
	return entry, err
}

// Add appends entries. One that has the digest or the platform of an entry takes
// its place; those that had another digest are returned.
func (l *List) Add(entries ...ocispec.Descriptor) (replaced []ocispec.Descriptor, err error) {
	for _, e := range entries {
		if err := l.checkEntry(e); err != nil {
			return replaced, err
		}
		i := slices.IndexFunc(l.index.Manifests, func(old ocispec.Descriptor) bool {
			return old.Digest == e.Digest || samePlatform(old, e)
		})
		if i < 0 {
			l.index.Manifests = append(l.index.Manifests, e)
			continue
		}
		if old := l.index.Manifests[i]; old.Digest != e.Digest {
			replaced = append(replaced, old)
			l.dropAbout(old.Digest)
			i = slices.IndexFunc(l.index.Manifests, func(d ocispec.Descriptor) bool { return d.Digest == old.Digest })
		}
		l.index.Manifests[i] = e
		// Of two entries with the digest and with the platform one is left.
		l.index.Manifests = slices.DeleteFunc(l.index.Manifests, func(d ocispec.Descriptor) bool {
			return d.Digest != e.Digest && samePlatform(d, e)
		})
	}
	if len(l.index.Manifests) > maxListEntries {
		return replaced, fmt.Errorf("the list has more than %d entries", maxListEntries)
	}
	return replaced, nil
}

// checkEntry refuses what the list's media type has no fields for.
func (l *List) checkEntry(e ocispec.Descriptor) error {
	if err := layout.CheckDescriptor(e); err != nil {
		return err
	}
	if !layout.IsManifest(e.MediaType) && !layout.IsIndex(e.MediaType) {
		return fmt.Errorf("%s is no manifest but %q", e.Digest, e.MediaType)
	}
	if l.docker() && (len(e.Annotations) > 0 || e.ArtifactType != "" && e.Platform == nil) {
		return fmt.Errorf("%s: Docker's manifest lists have neither annotations nor artifacts: create an index of OCI's type", e.Digest)
	}
	return nil
}

func (l *List) docker() bool { return l.index.MediaType == layout.MediaTypeDockerIndex }

// samePlatform says whether two entries are images for one platform.
func samePlatform(a, b ocispec.Descriptor) bool {
	if a.Platform == nil || b.Platform == nil || layout.IsAttestation(a) || layout.IsAttestation(b) {
		return false
	}
	p, q := platforms.Normalize(*a.Platform), platforms.Normalize(*b.Platform)
	return p.OS == q.OS && p.Architecture == q.Architecture && p.Variant == q.Variant &&
		p.OSVersion == q.OSVersion && slices.Equal(p.OSFeatures, q.OSFeatures)
}

// dropAbout removes the attestations of an image.
func (l *List) dropAbout(dg digest.Digest) {
	l.index.Manifests = slices.DeleteFunc(l.index.Manifests, func(e ocispec.Descriptor) bool {
		return layout.IsAttestation(e) && e.Annotations[annotationAbout] == dg.String()
	})
}

// ErrSelector is in the error for a text that cannot name an entry of any list.
var ErrSelector = errors.New("neither a digest nor a platform")

// Find returns the digests of the entries that a digest or a platform
// ("linux/arm64") means: one digest, or of a platform all its images.
func (l *List) Find(what string) ([]digest.Digest, error) {
	match, err := matcher(what)
	if err != nil {
		return nil, err
	}
	var found []digest.Digest
	for _, e := range l.index.Manifests {
		if match(e) {
			found = append(found, e.Digest)
		}
	}
	if len(found) == 0 {
		return nil, fmt.Errorf("the list has no entry %s; it has %s", what, l.describeAll())
	}
	return found, nil
}

func matcher(what string) (func(ocispec.Descriptor) bool, error) {
	if dg, err := digest.Parse(what); err == nil {
		return func(e ocispec.Descriptor) bool { return e.Digest == dg }, nil
	}
	p, err := platforms.Parse(what)
	if err != nil || !strings.Contains(what, "/") {
		return nil, fmt.Errorf("%q is %w such as linux/arm64", what, ErrSelector)
	}
	p = platforms.Normalize(p)
	return func(e ocispec.Descriptor) bool {
		if e.Platform == nil || layout.IsAttestation(e) {
			return false
		}
		q := platforms.Normalize(*e.Platform)
		return p.OS == q.OS && p.Architecture == q.Architecture && p.Variant == q.Variant && (p.OSVersion == "" || p.OSVersion == q.OSVersion)
	}, nil
}

// describeAll lists at most ten entries for a message.
func (l *List) describeAll() string {
	var list []string
	for i, e := range l.index.Manifests {
		if i == 10 {
			list = append(list, "...")
			break
		}
		text := e.Digest.String()
		if e.Platform != nil {
			text = platforms.FormatAll(*e.Platform) + " (" + text + ")"
		}
		list = append(list, text)
	}
	if len(list) == 0 {
		return "none"
	}
	return strings.Join(list, ", ")
}

// Remove removes entries, and the attestations of those that are images.
func (l *List) Remove(entries ...digest.Digest) error {
	for _, dg := range entries {
		n := len(l.index.Manifests)
		l.index.Manifests = slices.DeleteFunc(l.index.Manifests, func(e ocispec.Descriptor) bool { return e.Digest == dg })
		if n == len(l.index.Manifests) {
			return fmt.Errorf("the list has no entry %s", dg)
		}
		l.dropAbout(dg)
	}
	return nil
}

// Change is what Annotate sets; an empty field stays as it is.
type Change struct {
	OS, Arch, Variant, OSVersion string
	OSFeatures                   []string
	Annotations                  map[string]string
}

// platform says whether the platform changes.
func (c Change) platform() bool {
	return c.OS != "" || c.Arch != "" || c.Variant != "" || c.OSVersion != "" || len(c.OSFeatures) > 0
}

// Apply returns an entry with the change.
func (c Change) Apply(e ocispec.Descriptor) (ocispec.Descriptor, error) {
	if c.platform() {
		p := ocispec.Platform{}
		if e.Platform != nil {
			p = *e.Platform
		}
		set := func(field *string, value string) {
			if value != "" {
				*field = value
			}
		}
		set(&p.OS, c.OS)
		set(&p.Architecture, c.Arch)
		set(&p.Variant, c.Variant)
		set(&p.OSVersion, c.OSVersion)
		if len(c.OSFeatures) > 0 {
			p.OSFeatures = c.OSFeatures
		}
		if p.OS == "" || p.Architecture == "" {
			return e, errors.New("a platform needs both an os and an architecture")
		}
		e.Platform = &p
	}
	e.Annotations = merged(e.Annotations, c.Annotations)
	return e, nil
}

func merged(m, more map[string]string) map[string]string {
	if len(more) == 0 {
		return m
	}
	all := maps.Clone(more)
	for k, v := range m {
		if _, ok := more[k]; !ok {
			all[k] = v
		}
	}
	return all
}

// Change changes one entry. The platform may not become that of another.
func (l *List) Change(dg digest.Digest, c Change) error {
	i := slices.IndexFunc(l.index.Manifests, func(e ocispec.Descriptor) bool { return e.Digest == dg })
	if i < 0 {
		return fmt.Errorf("the list has no entry %s", dg)
	}
	e, err := c.Apply(l.index.Manifests[i])
	if err == nil {
		err = l.checkEntry(e)
	}
	if err != nil {
		return err
	}
	for j, other := range l.index.Manifests {
		if j != i && samePlatform(other, e) {
			return fmt.Errorf("platform %s: entry %s has it: remove that first", platforms.FormatAll(*e.Platform), other.Digest)
		}
	}
	l.index.Manifests[i] = e
	return nil
}

// Annotate adds annotations to the index.
func (l *List) Annotate(annotations map[string]string) error {
	if l.docker() && len(annotations) > 0 {
		return errors.New("Docker's manifest lists have no annotations: create an index of OCI's type") //nolint:staticcheck // a name
	}
	l.index.Annotations = merged(l.index.Annotations, annotations)
	return nil
}

// A Part is an entry and where its content is.
type Part struct {
	Reader transfer.Reader
	Desc   ocispec.Descriptor
}

// Write brings the parts to dst, as far as they are not there, then the list, and
// makes the names lead to it. It returns the list's descriptor.
func (l *List) Write(ctx context.Context, dst transfer.Writer, parts []Part, names []string, opts transfer.Options) (ocispec.Descriptor, error) {
	b, err := json.MarshalIndent(l.index, "", "  ")
	if err != nil {
		return ocispec.Descriptor{}, err
	}
	if len(b) > layout.MaxManifest {
		return ocispec.Descriptor{}, fmt.Errorf("the list has %d bytes, at most %d are read", len(b), layout.MaxManifest)
	}
	c := transfer.NewCopier(dst, opts)
	for _, p := range parts {
		if err := c.Image(ctx, p.Reader, p.Desc); err != nil {
			return ocispec.Descriptor{}, err
		}
	}
	desc := ocispec.Descriptor{MediaType: l.index.MediaType, Digest: digest.FromBytes(b), Size: int64(len(b))}
	return desc, dst.PutManifest(ctx, desc, b, names...)
}

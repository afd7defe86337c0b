package layout

import (
	"encoding/json"
	"fmt"
	"io/fs"
	"slices"
	"strings"

	"github.com/containerd/platforms"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// Bounds on nested indexes.
const (
	maxNesting = 8   // indexes within indexes
	maxIndexes = 256 // documents read to select one image
)

// AnnotationReferenceType marks an entry of an index that is not an image but
// says something about one: BuildKit's attestation manifests.
const AnnotationReferenceType = "vnd.docker.reference.type"

// Fetch returns the verified bytes of a small blob: at most max.
type Fetch func(desc ocispec.Descriptor, max int64) ([]byte, error)

// PlatformError says that an index has no image for a platform. It satisfies
// errors.Is(err, fs.ErrNotExist).
type PlatformError struct {
	Want ocispec.Platform
	Have []ocispec.Platform
}

func (e *PlatformError) Error() string {
	have := make([]string, len(e.Have))
	for i, p := range e.Have {
		have[i] = platforms.Format(p)
	}
	slices.Sort(have)
	list := strings.Join(slices.Compact(have), ", ")
	if list == "" {
		list = "none"
	}
	return fmt.Sprintf("no image for platform %s; available platforms: %s", platforms.Format(e.Want), list)
}

// Is reports true for fs.ErrNotExist.
func (e *PlatformError) Is(target error) bool { return target == fs.ErrNotExist }

// Platform selects the manifest for platform p from the index desc of the
// layout, or returns desc when it is a manifest; see [Select].
func (d *Dir) Platform(desc ocispec.Descriptor, p ocispec.Platform) (ocispec.Descriptor, error) {
	return Select(desc, p, d.ReadBlob)
}

// Select returns the manifest that fits platform p best in the index desc, also
// in indexes within it, as containerd's matcher sees it: linux/arm/v7 runs v6,
// linux/amd64 runs linux/386 when there is no better one. Attestation manifests
// are skipped. A desc that is a manifest is returned as it is, whatever its
// platform. The returned descriptor has its platform filled in.
func Select(desc ocispec.Descriptor, p ocispec.Platform, fetch Fetch) (ocispec.Descriptor, error) {
	if IsManifest(desc.MediaType) {
		return desc, nil
	}
	w := walker{fetch: fetch}
	if err := w.images(desc, 0); err != nil {
		return ocispec.Descriptor{}, err
	}
	matcher := platforms.Only(p)
	var best *ocispec.Descriptor
	have := make([]ocispec.Platform, 0, len(w.found))
	for _, m := range w.found {
		have = append(have, *m.Platform)
		if !matcher.Match(*m.Platform) {
			continue
		}
		if best == nil || matcher.Less(*m.Platform, *best.Platform) {
			best = &m
		}
	}
	if best == nil {
		return ocispec.Descriptor{}, &PlatformError{Want: p, Have: have}
	}
	return *best, nil
}

// Images returns the image manifests below desc, in the order of the index,
// each with its platform, without attestation manifests. A desc that is a
// manifest is the only one.
func Images(desc ocispec.Descriptor, fetch Fetch) ([]ocispec.Descriptor, error) {
	w := walker{fetch: fetch}
	if IsManifest(desc.MediaType) {
		err := w.image(desc)
		return w.found, err
	}
	err := w.images(desc, 0)
	return w.found, err
}

// walker collects the images of nested indexes.
type walker struct {
	fetch Fetch
	found []ocispec.Descriptor // with Platform
	read  int
}

func (w *walker) images(desc ocispec.Descriptor, depth int) error {
	if !IsIndex(desc.MediaType) {
		return fmt.Errorf("%s: media type %q is neither an image manifest's nor an index's", desc.Digest, desc.MediaType)
	}
	if w.read++; depth > maxNesting || w.read > maxIndexes {
		return fmt.Errorf("index %s: more than %d nested or %d indexes", desc.Digest, maxNesting, maxIndexes)
	}
	b, err := w.fetch(desc, MaxManifest)
	if err != nil {
		return err
	}
	index, err := parseIndex(desc.MediaType, b)
	if err != nil {
		return fmt.Errorf("index %s: %w", desc.Digest, err)
	}
	for _, m := range index.Manifests {
		switch {
		case IsAttestation(m):
		case IsIndex(m.MediaType):
			err = w.images(m, depth+1)
		case IsManifest(m.MediaType):
			err = w.image(m)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// image adds a manifest; the platform of one that says none is in its config.
func (w *walker) image(desc ocispec.Descriptor) error {
	if desc.Platform == nil {
		if w.read++; w.read > maxIndexes {
			return fmt.Errorf("manifest %s: more than %d documents", desc.Digest, maxIndexes)
		}
		p, err := configPlatform(desc, w.fetch)
		if err != nil {
			return err
		}
		desc.Platform = &p
	}
	w.found = append(w.found, desc)
	return nil
}

// configPlatform reads the platform from a manifest's image configuration. An
// artifact that has none gets unknown/unknown.
func configPlatform(desc ocispec.Descriptor, fetch Fetch) (ocispec.Platform, error) {
	none := ocispec.Platform{OS: "unknown", Architecture: "unknown"}
	b, err := fetch(desc, MaxManifest)
	if err != nil {
		return none, err
	}
	m, err := parseManifest(desc.MediaType, b)
	if err != nil {
		return none, fmt.Errorf("manifest %s: %w", desc.Digest, err)
	}
	if m.Config.MediaType != ocispec.MediaTypeImageConfig && m.Config.MediaType != MediaTypeDockerConfig {
		return none, nil
	}
	b, err = fetch(m.Config, MaxConfig)
	if err != nil {
		return none, err
	}
	var p ocispec.Platform
	if err := json.Unmarshal(b, &p); err != nil {
		return none, fmt.Errorf("parse config %s: %w", m.Config.Digest, err)
	}
	if p.OS == "" || p.Architecture == "" {
		return none, nil
	}
	return p, nil
}

// IsAttestation says whether an entry of an index is an attestation manifest
// and not an image.
func IsAttestation(desc ocispec.Descriptor) bool {
	if desc.Annotations[AnnotationReferenceType] != "" {
		return true
	}
	p := desc.Platform
	return p != nil && p.OS == "unknown" && p.Architecture == "unknown"
}

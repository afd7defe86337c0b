package artifact

import (
	"encoding/json"
	"time"

	digest "github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// Flux returns the artifact of a directory of manifests as Flux's OCIRepository
// reads it. source is the address of the repository that it is from, revision
// the commit there ("main@sha1:HEX"); either may be empty.
func Flux(dir, source, revision string, epoch *time.Time) Spec {
	s := Spec{
		ConfigType: TypeFluxConfig, Epoch: epoch,
		Files:       []File{{Path: dir, MediaType: TypeFluxContent, Flat: true}},
		Annotations: map[string]string{},
	}
	if source != "" {
		s.Annotations[ocispec.AnnotationSource] = source
	}
	if revision != "" {
		s.Annotations[ocispec.AnnotationRevision] = revision
	}
	s.config = func(layers []layerFile) ([]byte, error) { return fluxConfig(layers, epoch) }
	return s
}

// fluxConfig is an image's configuration without a platform: Flux's own tools
// read it as one.
func fluxConfig(layers []layerFile, epoch *time.Time) ([]byte, error) {
	var c ocispec.Image
	c.RootFS = ocispec.RootFS{Type: "layers", DiffIDs: []digest.Digest{}}
	if epoch != nil {
		t := epoch.UTC()
		c.Created = &t
	}
	for _, l := range layers {
		c.RootFS.DiffIDs = append(c.RootFS.DiffIDs, l.diffID)
		c.History = append(c.History, ocispec.History{Created: c.Created})
	}
	return json.Marshal(c)
}

package layout

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/containerd/platforms"
	digest "github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// LayerBlob is a layer in packed form.
type LayerBlob struct {
	// Descriptor is of the blob, which need not be in the layout yet.
	// Annotations that only builders use are not written.
	Descriptor ocispec.Descriptor
	// DiffID is the digest of the uncompressed tar.
	DiffID digest.Digest
	// CreatedBy and Created describe the layer in the history when the
	// config's own history has no entry for it, or one without a time. Created
	// is when the step ran; nil: not known.
	CreatedBy string
	Created   *time.Time
}

// ImageSpec is what an image is made of.
type ImageSpec struct {
	// Config is the image configuration (image-spec, config.md) as the
	// frontend made it. Its rootfs and history are completed; fields that
	// nobody knows survive. Empty: a minimal one for Platform.
	Config []byte
	// BaseConfig is the configuration of the image that this one is FROM:
	// the history that both share keeps its times whatever Epoch says.
	BaseConfig []byte
	// Platform is that of the returned descriptor; nil: what the config says.
	Platform *ocispec.Platform
	// Layers from the base upwards.
	Layers []LayerBlob
	// Epoch bounds the times in the configuration (SOURCE_DATE_EPOCH); nil
	// leaves them as they are.
	Epoch *time.Time
	// Annotations are of the manifest, DescriptorAnnotations of the descriptor
	// in an index.
	Annotations           map[string]string
	DescriptorAnnotations map[string]string
	// Docker selects Docker's media types.
	Docker bool
	// InlineCache is written to the config as moby.buildkit.cache.v0.
	InlineCache []byte
}

// WriteImage completes the configuration as BuildKit's exporter does, writes it
// and the manifest, and returns the manifest's descriptor with its platform,
// and the configuration's digest. The result depends on nothing but img.
//
// The time "created" is what the config says; without it, that of the last
// entry of the history that has one. Both are no later than Epoch.
func (d *Dir) WriteImage(img ImageSpec) (ocispec.Descriptor, digest.Digest, error) {
	desc, config, err := d.writeImage(img)
	if err != nil {
		return ocispec.Descriptor{}, "", fmt.Errorf("assemble image: %w", err)
	}
	return desc, config, nil
}

func (d *Dir) writeImage(img ImageSpec) (ocispec.Descriptor, digest.Digest, error) {
	config, platform, err := patchConfig(img)
	if err != nil {
		return ocispec.Descriptor{}, "", err
	}
	manifest := ocispec.Manifest{
		Versioned:   specs.Versioned{SchemaVersion: 2},
		MediaType:   choose(img.Docker, MediaTypeDockerManifest, ocispec.MediaTypeImageManifest),
		Layers:      make([]ocispec.Descriptor, 0, len(img.Layers)),
		Annotations: img.Annotations,
	}
	for _, l := range img.Layers {
		manifest.Layers = append(manifest.Layers, layerDescriptor(l.Descriptor, img.Docker))
	}
	configType := choose(img.Docker, MediaTypeDockerConfig, ocispec.MediaTypeImageConfig)
	if manifest.Config, err = d.PutBytes(configType, config); err != nil {
		return ocispec.Descriptor{}, "", err
	}
	b, err := json.MarshalIndent(manifest, "", "  ")
	if err != nil {
		return ocispec.Descriptor{}, "", err
	}
	desc, err := d.PutBytes(manifest.MediaType, b)
	if err != nil {
		return ocispec.Descriptor{}, "", err
	}
	desc.Annotations = img.DescriptorAnnotations
	desc.Platform = img.Platform
	if desc.Platform == nil {
		desc.Platform = platform
	}
	return desc, manifest.Config.Digest, nil
}

// WriteIndex writes an image index, or a manifest list when docker is true, of
// the given manifests in their order, and returns its descriptor.
func (d *Dir) WriteIndex(manifests []ocispec.Descriptor, annotations map[string]string, docker bool) (ocispec.Descriptor, error) {
	if docker && len(annotations) > 0 {
		return ocispec.Descriptor{}, errors.New("assemble index: Docker's media types have no annotations")
	}
	if err := checkDescriptors(manifests); err != nil {
		return ocispec.Descriptor{}, fmt.Errorf("assemble index: %w", err)
	}
	index := ocispec.Index{
		Versioned:   specs.Versioned{SchemaVersion: 2},
		MediaType:   choose(docker, MediaTypeDockerIndex, ocispec.MediaTypeImageIndex),
		Manifests:   append([]ocispec.Descriptor{}, manifests...),
		Annotations: annotations,
	}
	b, err := json.MarshalIndent(index, "", "  ")
	if err != nil {
		return ocispec.Descriptor{}, fmt.Errorf("assemble index: %w", err)
	}
	return d.PutBytes(index.MediaType, b)
}

// layerDescriptor is a layer's entry in the manifest: the media type in the
// right family, without the annotations of builders. Docker's types have none
// at all.
func layerDescriptor(desc ocispec.Descriptor, docker bool) ocispec.Descriptor {
	desc.MediaType = LayerMediaType(desc.MediaType, docker)
	desc.Platform = nil
	desc.Annotations = maps.Clone(desc.Annotations)
	maps.DeleteFunc(desc.Annotations, func(k, _ string) bool { return docker || internalAnnotation(k) })
	if len(desc.Annotations) == 0 {
		desc.Annotations = nil
	}
	return desc
}

// internalAnnotation says whether a layer's annotation is for builders only.
func internalAnnotation(key string) bool {
	return key == "containerd.io/uncompressed" || key == "buildkit/createdat" ||
		strings.HasPrefix(key, "containerd.io/distribution.source.")
}

// patchConfig returns the complete configuration and the platform in it.
func patchConfig(img ImageSpec) ([]byte, *ocispec.Platform, error) {
	config := img.Config
	if len(config) == 0 {
		var err error
		if config, err = minimalConfig(img.Platform); err != nil {
			return nil, nil, err
		}
	}
	var known ocispec.Image
	if err := json.Unmarshal(config, &known); err != nil {
		return nil, nil, fmt.Errorf("parse config: %w", err)
	}
	fields := map[string]json.RawMessage{}
	if err := json.Unmarshal(config, &fields); err != nil {
		return nil, nil, fmt.Errorf("parse config: %w", err)
	}
	if fields == nil || known.OS == "" || known.Architecture == "" {
		return nil, nil, errors.New("the config names no os or no architecture")
	}
	if err := patchFields(fields, known.History, img); err != nil {
		return nil, nil, err
	}
	b, err := json.Marshal(fields)
	return b, &known.Platform, err
}

// patchFields sets rootfs, history, created and the inline cache.
func patchFields(fields map[string]json.RawMessage, history []ocispec.History, img ImageSpec) error {
	rootfs := ocispec.RootFS{Type: "layers", DiffIDs: []digest.Digest{}}
	for i, l := range img.Layers {
		if err := CheckDescriptor(l.Descriptor); err != nil {
			return fmt.Errorf("layer %d: %w", i, err)
		}
		if err := l.DiffID.Validate(); err != nil {
			return fmt.Errorf("layer %d: diffID %q: %w", i, string(l.DiffID), err)
		}
		rootfs.DiffIDs = append(rootfs.DiffIDs, l.DiffID)
	}
	base, err := parseHistory(img.BaseConfig)
	if err != nil {
		return fmt.Errorf("parse base config: %w", err)
	}
	history = clampHistory(completeHistory(history, img.Layers), base, img.Epoch)
	created, err := createdTime(fields["created"], history, img.Epoch)
	if err != nil {
		return err
	}
	err = errors.Join(setField(fields, "rootfs", rootfs), setField(fields, "history", history), setField(fields, "created", created))
	if img.InlineCache != nil {
		err = errors.Join(err, setField(fields, "moby.buildkit.cache.v0", img.InlineCache))
	}
	return err
}

func setField(fields map[string]json.RawMessage, name string, v any) error {
	b, err := json.Marshal(v)
	fields[name] = b
	return err
}

// createdTime returns the value of the config's field created.
func createdTime(raw json.RawMessage, history []ocispec.History, epoch *time.Time) (any, error) {
	if raw == nil {
		var last *time.Time
		for _, h := range history {
			if h.Created != nil {
				last = h.Created
			}
		}
		return last, nil
	}
	var tm *time.Time
	if err := json.Unmarshal(raw, &tm); err != nil {
		return nil, fmt.Errorf("parse creation time %s: %w", raw, err)
	}
	if epoch != nil && tm != nil && tm.After(*epoch) {
		return epoch.UTC(), nil
	}
	return raw, nil
}

// minimalConfig is the configuration of an image whose frontend gave none.
func minimalConfig(p *ocispec.Platform) ([]byte, error) {
	if p == nil {
		return nil, errors.New("there is neither a config nor a platform")
	}
	img := ocispec.Image{Platform: platforms.Normalize(*p)}
	img.RootFS.Type = "layers"
	img.Config.WorkingDir = "/"
	if img.OS != "windows" {
		img.Config.Env = []string{"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"}
	}
	return json.Marshal(img)
}

func choose(docker bool, a, b string) string {
	if docker {
		return a
	}
	return b
}

// parseHistory returns the history of a configuration; none of an empty one.
func parseHistory(config []byte) ([]ocispec.History, error) {
	if len(config) == 0 {
		return nil, nil
	}
	var c struct {
		History []ocispec.History `json:"history"`
	}
	err := json.Unmarshal(config, &c)
	return slices.Clip(c.History), err
}

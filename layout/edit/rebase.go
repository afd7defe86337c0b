package edit

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"

	"github.com/containerd/platforms"
	digest "github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"bk.build/bk/layout"
	"bk.build/bk/layout/transfer"
	"bk.build/bk/layout/view"
)

// Base is an image that others are FROM.
type Base struct {
	transfer.Reader
	Descriptor ocispec.Descriptor // a manifest, or an index with all platforms that are asked for
	Name       string             // for the annotation of the result; empty: none
}

// BaseOf returns the name and the digest of the image that an image is FROM, as
// its annotations say (image-spec, annotations.md): those of the manifest or the
// index desc, else those of the first image in the index. Either may be empty.
func BaseOf(ctx context.Context, r transfer.Reader, desc ocispec.Descriptor) (name string, dg digest.Digest, err error) {
	images, err := layout.Images(desc, transfer.Fetch(ctx, r))
	if err != nil {
		return "", "", fmt.Errorf("base of %s: %w", desc.Digest, err)
	}
	for _, d := range append([]ocispec.Descriptor{desc}, images...) {
		b, err := transfer.ReadDocument(ctx, r, d, layout.MaxManifest)
		if err != nil {
			return "", "", fmt.Errorf("base of %s: %w", desc.Digest, err)
		}
		var doc struct {
			Annotations map[string]string `json:"annotations"`
		}
		if err := json.Unmarshal(b, &doc); err != nil {
			return "", "", fmt.Errorf("base of %s: parse %s: %w", desc.Digest, d.Digest, err)
		}
		name, dg = doc.Annotations[ocispec.AnnotationBaseImageName], digest.Digest(doc.Annotations[ocispec.AnnotationBaseImageDigest])
		if name != "" || dg != "" {
			return name, dg, nil
		}
	}
	return "", "", nil
}

// ErrOtherBase is in the error for an image that does not begin with the layers
// of the base it is said to have.
var ErrOtherBase = errors.New("the image does not begin with the layers of its old base")

// Rebase puts an image, or each image of an index, on another base: its layers
// from the old base's are replaced by the new base's. The layers themselves stay
// and are not read, so the result is right only when they would have come out the
// same on the new base. The configuration stays the image's; platform and the
// history of the base are those of the new base.
//
// The manifests get the annotations org.opencontainers.image.base.name and
// .digest. Attestations of an index are left out, as they are about other layers.
// Documents are written to out.
func Rebase(ctx context.Context, src transfer.Reader, desc ocispec.Descriptor, out *layout.Dir, from, to Base) (*Result, error) {
	e := newEditor(out, src)
	e.dropAttestations = true
	e.more = []transfer.Reader{to.Reader}
	e.image = func(ctx context.Context, desc ocispec.Descriptor, _ ocispec.Manifest) (ocispec.Descriptor, error) {
		return e.rebase(ctx, desc, from, to)
	}
	return e.run(ctx, "rebase", desc)
}

func (e *editor) rebase(ctx context.Context, desc ocispec.Descriptor, from, to Base) (ocispec.Descriptor, error) {
	img, err := view.Open(ctx, e.src, desc, nil)
	if err != nil {
		return desc, err
	}
	was, err := view.Open(ctx, from, from.Descriptor, &img.Config.Platform)
	if err != nil {
		return desc, fmt.Errorf("old base: %w", err)
	}
	is, err := view.Open(ctx, to, to.Descriptor, &img.Config.Platform)
	if err != nil {
		return desc, fmt.Errorf("new base: %w", err)
	}
	if err := compatible(img, was, is); err != nil {
		return desc, err
	}
	config, err := rebasedConfig(img, was, is)
	if err != nil {
		return desc, err
	}
	docker := desc.MediaType == layout.MediaTypeDockerManifest
	n := len(was.Manifest.Layers)
	spec := layout.ImageSpec{Config: config, Docker: docker, Layers: append(blobsOf(is, 0), blobsOf(img, n)...)}
	if spec.Annotations = e.baseAnnotations(img, docker, to); len(spec.Annotations) == 0 {
		spec.Annotations = nil
	}
	if err := e.noteConfig(ctx, img, was, is); err != nil {
		return desc, err
	}
	made, _, err := e.out.WriteImage(spec)
	return made, err
}

// compatible refuses bases that the image cannot have or get.
func compatible(img, was, is *view.Image) error {
	have, base := img.Config.RootFS.DiffIDs, was.Config.RootFS.DiffIDs
	for i, id := range base {
		switch {
		case i == len(have):
			return fmt.Errorf("%w: it has %d layers, the base %s %d", ErrOtherBase, len(have), was.Descriptor.Digest, len(base))
		case have[i] != id:
			return fmt.Errorf("%w: layer %d has diffID %s, that of the base %s is %s; give the base that it was built on",
				ErrOtherBase, i+1, have[i], was.Descriptor.Digest, id)
		}
	}
	if a, b := img.Config, is.Config; a.OS != b.OS || a.Architecture != b.Architecture {
		return fmt.Errorf("the image is for %s, the new base %s for %s",
			platforms.FormatAll(a.Platform), is.Descriptor.Digest, platforms.FormatAll(b.Platform))
	}
	return nil
}

// blobsOf returns the layers of an image from the n-th on.
func blobsOf(img *view.Image, n int) []layout.LayerBlob {
	var list []layout.LayerBlob
	for i, l := range img.Manifest.Layers[n:] {
		list = append(list, layout.LayerBlob{Descriptor: l, DiffID: img.Config.RootFS.DiffIDs[n+i]})
	}
	return list
}

// rebasedConfig is the image's configuration with the history and the platform
// of the new base.
func rebasedConfig(img, was, is *view.Image) ([]byte, error) {
	var history []ocispec.History
	if len(img.Config.History) > 0 {
		history = append(slices.Clone(baseHistory(is)), img.Config.History[baseLength(img, was):]...)
	}
	config, err := withHistory(img.RawConfig, history)
	if err != nil {
		return nil, err
	}
	fields := map[string]json.RawMessage{}
	if err := json.Unmarshal(config, &fields); err != nil {
		return nil, err
	}
	for name, value := range map[string]any{
		"variant": is.Config.Variant, "os.version": is.Config.OSVersion, "os.features": is.Config.OSFeatures,
	} {
		b, err := json.Marshal(value)
		if err != nil {
			return nil, err
		}
		if fields[name] = b; string(b) == `""` || string(b) == "null" {
			delete(fields, name)
		}
	}
	return json.Marshal(fields)
}

// baseHistory is the history of a base; one that has none, or one that does not
// account for its layers, gets an entry for each.
func baseHistory(is *view.Image) []ocispec.History {
	n := 0
	for _, h := range is.Config.History {
		if !h.EmptyLayer {
			n++
		}
	}
	if n == len(is.Manifest.Layers) {
		return is.Config.History
	}
	list := make([]ocispec.History, len(is.Manifest.Layers))
	for i := range list {
		list[i] = ocispec.History{Created: is.Config.Created, CreatedBy: "layer of " + is.Descriptor.Digest.String()}
	}
	return list
}

// baseLength counts the entries of the image's history that are the old base's:
// those that both have, or as many as account for the base's layers.
func baseLength(img, was *view.Image) int {
	history, base := img.Config.History, was.Config.History
	if len(base) > 0 && len(base) <= len(history) && slices.EqualFunc(history[:len(base)], base, sameStep) {
		return len(base)
	}
	left := len(was.Manifest.Layers)
	for i, h := range history {
		if left == 0 {
			return i
		}
		if !h.EmptyLayer {
			left--
		}
	}
	return len(history)
}

// sameStep compares entries but for their times, which a builder may have
// changed.
func sameStep(a, b ocispec.History) bool {
	return a.CreatedBy == b.CreatedBy && a.EmptyLayer == b.EmptyLayer && a.Comment == b.Comment
}

// baseAnnotations are the image's, with the new base's name and digest.
func (e *editor) baseAnnotations(img *view.Image, docker bool, to Base) map[string]string {
	if docker {
		e.note("Docker's manifests have no annotations: the new base's name is not in the image")
		return nil
	}
	annotations := maps.Clone(img.Manifest.Annotations)
	if annotations == nil {
		annotations = map[string]string{}
	}
	delete(annotations, ocispec.AnnotationBaseImageName)
	if to.Name != "" {
		annotations[ocispec.AnnotationBaseImageName] = to.Name
	}
	annotations[ocispec.AnnotationBaseImageDigest] = to.Descriptor.Digest.String()
	return annotations
}

// noteConfig says how the configurations of the bases differ, as the image keeps
// its own.
func (e *editor) noteConfig(ctx context.Context, img, was, is *view.Image) error {
	diff, err := view.Compare(ctx, was, is, view.DiffOptions{Documents: true})
	if err != nil {
		return err
	}
	for _, c := range diff.Config {
		if c.Name != "created" {
			e.note("%s: the bases differ in their configuration, which stays the image's: %s", img.Platform(), c)
		}
	}
	return nil
}

package transfer

import (
	"context"
	"encoding/json"
	"fmt"

	"github.com/containerd/platforms"
	digest "github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"bk.build/bk/layout"
)

// annotationReference names, in an entry of an index that says something about
// an image, that image's manifest (BuildKit's attestation manifests).
const annotationReference = "vnd.docker.reference.digest"

// Narrow returns the part of desc that is for the given platforms: the manifest
// of one, an index of several with what refers to their manifests. Of none
// given, and of a manifest that fits, it is desc itself. The Reader that is
// returned has the new index, beside what src has.
func Narrow(ctx context.Context, src Reader, desc ocispec.Descriptor, want []ocispec.Platform) (Reader, ocispec.Descriptor, error) {
	if len(want) == 0 {
		return src, desc, nil
	}
	if layout.IsManifest(desc.MediaType) {
		return src, desc, fits(ctx, src, desc, want)
	}
	var chosen []ocispec.Descriptor
	for _, p := range want {
		m, err := layout.Select(desc, p, Fetch(ctx, src))
		if err != nil {
			return nil, desc, err
		}
		if !containsDigest(chosen, m.Digest) {
			chosen = append(chosen, m)
		}
	}
	if len(chosen) == 1 {
		return src, chosen[0], nil
	}
	return narrowIndex(ctx, src, desc, chosen)
}

// fits checks that a single image is for one of the platforms. One that says
// nothing of its platform, such as an artifact, is for all.
func fits(ctx context.Context, src Reader, desc ocispec.Descriptor, want []ocispec.Platform) error {
	images, err := layout.Images(desc, Fetch(ctx, src))
	if err != nil {
		return err
	}
	have := *images[0].Platform
	if have.OS == "unknown" {
		return nil
	}
	for _, p := range want {
		if platforms.Only(p).Match(have) {
			return nil
		}
	}
	return &layout.PlatformError{Want: want[0], Have: []ocispec.Platform{have}}
}

// narrowIndex makes an index of some of an index's manifests.
func narrowIndex(ctx context.Context, src Reader, desc ocispec.Descriptor, chosen []ocispec.Descriptor) (Reader, ocispec.Descriptor, error) {
	b, err := ReadDocument(ctx, src, desc, layout.MaxManifest)
	if err != nil {
		return nil, desc, err
	}
	index, err := layout.ParseIndex(desc.MediaType, b)
	if err != nil {
		return nil, desc, fmt.Errorf("%s: %w", desc.Digest, err)
	}
	old := index.Manifests
	index.Manifests = chosen
	for _, e := range old {
		about := digest.Digest(e.Annotations[annotationReference])
		if layout.IsAttestation(e) && containsDigest(chosen, about) {
			index.Manifests = append(index.Manifests, e)
		}
	}
	if b, err = json.Marshal(index); err != nil {
		return nil, desc, err
	}
	o := NewOverlay(src)
	narrow := o.Add(desc.MediaType, b)
	narrow.Annotations = desc.Annotations
	return o, narrow, nil
}

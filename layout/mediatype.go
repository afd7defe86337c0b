package layout

import (
	"fmt"
	"strings"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"bk.build/bk/layout/layer"
)

// Docker's media types (image manifest version 2, schema 2), which registries
// serve beside those of image-spec.
const (
	MediaTypeDockerManifest     = "application/vnd.docker.distribution.manifest.v2+json"
	MediaTypeDockerIndex        = "application/vnd.docker.distribution.manifest.list.v2+json"
	MediaTypeDockerConfig       = "application/vnd.docker.container.image.v1+json"
	MediaTypeDockerLayer        = "application/vnd.docker.image.rootfs.diff.tar"
	MediaTypeDockerLayerGzip    = "application/vnd.docker.image.rootfs.diff.tar.gzip"
	MediaTypeDockerLayerZstd    = "application/vnd.docker.image.rootfs.diff.tar.zstd"
	MediaTypeDockerForeign      = "application/vnd.docker.image.rootfs.foreign.diff.tar"
	MediaTypeDockerForeignGzip  = "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip"
	mediaTypeSchema1            = "application/vnd.docker.distribution.manifest.v1+json"
	mediaTypeSchema1Signed      = "application/vnd.docker.distribution.manifest.v1+prettyjws"
	mediaTypeNondistributable   = "application/vnd.oci.image.layer.nondistributable.v1.tar"
	mediaTypeNondistributableGz = mediaTypeNondistributable + "+gzip"
)

// layerTypes pairs the spellings of one kind of layer.
var layerTypes = []struct{ oci, docker string }{
	{ocispec.MediaTypeImageLayer, MediaTypeDockerLayer},
	{ocispec.MediaTypeImageLayerGzip, MediaTypeDockerLayerGzip},
	{ocispec.MediaTypeImageLayerZstd, MediaTypeDockerLayerZstd},
	{mediaTypeNondistributable, MediaTypeDockerForeign},
	{mediaTypeNondistributableGz, MediaTypeDockerForeignGzip},
}

// IsIndex says whether mediaType is that of an index or a manifest list.
func IsIndex(mediaType string) bool {
	return mediaType == ocispec.MediaTypeImageIndex || mediaType == MediaTypeDockerIndex
}

// IsManifest says whether mediaType is that of an image manifest.
func IsManifest(mediaType string) bool {
	return mediaType == ocispec.MediaTypeImageManifest || mediaType == MediaTypeDockerManifest
}

// IsForeign says whether mediaType is that of a layer which registries may not
// hold and whose bytes are at a URL ("non-distributable").
func IsForeign(mediaType string) bool {
	return strings.HasPrefix(mediaType, mediaTypeNondistributable) ||
		strings.HasPrefix(mediaType, MediaTypeDockerForeign)
}

// IsLayer says whether mediaType is that of a layer's tar, compressed or not.
func IsLayer(mediaType string) bool {
	if IsForeign(mediaType) {
		return true
	}
	for _, t := range layerTypes {
		if mediaType == t.oci || mediaType == t.docker {
			return true
		}
	}
	return false
}

// CheckSchema refuses Docker's first manifest format with an explanation; any
// other media type passes.
func CheckSchema(mediaType string) error {
	if mediaType != mediaTypeSchema1 && mediaType != mediaTypeSchema1Signed {
		return nil
	}
	return fmt.Errorf("it is in Docker's old format (manifest schema 1), which has no verifiable layers and is not supported: push the image again with a current tool")
}

// LayerMediaType returns the spelling of a layer's media type in OCI's or
// Docker's family. A type that is unknown, such as an artifact's, is returned
// as it is.
func LayerMediaType(mediaType string, docker bool) string {
	for _, t := range layerTypes {
		if mediaType == t.oci || mediaType == t.docker {
			if docker {
				return t.docker
			}
			return t.oci
		}
	}
	return mediaType
}

// LayerCompression is the compression that a layer's media type says, as one of
// [layer.Compression]'s types.
func LayerCompression(mediaType string) string {
	switch LayerMediaType(mediaType, false) {
	case ocispec.MediaTypeImageLayerGzip, mediaTypeNondistributableGz:
		return layer.Gzip
	case ocispec.MediaTypeImageLayerZstd, mediaTypeNondistributable + "+zstd":
		return layer.Zstd
	}
	return layer.Uncompressed
}

// Package images writes images of every kind that registries hold into a
// layout, the same each time, for tests of what moves and reads them. It uses
// nothing of bk to pack layers or to write manifests, only the layout to put
// them in.
package images

import (
	"archive/tar"
	"bytes"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"io"
	"math/rand/v2"

	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"
	digest "github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"bk.build/bk/layout"
)

// ArtifactType is that of the artifact "artifact" and of the signature-like
// artifact "referrer", whose subject is the image "oci".
const ArtifactType = "application/vnd.example.thing"

// Names of the images, in the order in which they are written.
var Names = []string{"oci", "index", "docker", "list", "zstd", "plain", "nested", "foreign", "dockerforeign", "artifact", "referrer"}

// Write writes one image of every kind, gives each its name in index.json, and
// returns what the names lead to:
//
//	oci            a manifest of image-spec with two layers
//	index          an index of two platforms
//	docker         a manifest of Docker's schema 2
//	list           Docker's manifest list of two platforms
//	zstd, plain    layers of that compression, and of none
//	nested         an index within an index
//	foreign        a layer that is not distributed, with a URL where it is; and
//	dockerforeign  the same in Docker's media types. The layer is not there.
//	artifact       no image but two files
//	referrer       an artifact about "oci"
func Write(d *layout.Dir) (map[string]ocispec.Descriptor, error) {
	w := &writer{dir: d, made: map[string]ocispec.Descriptor{}}
	for _, make := range []func(){w.images, w.indexes, w.foreign, w.artifacts} {
		make()
	}
	for _, name := range Names {
		if w.err == nil {
			w.err = d.SetRef(name, w.made[name])
		}
	}
	return w.made, w.err
}

// Large writes an image with a layer of each size in bytes; they don't compress
// and are not compressed. Sizes of a tar are multiples of 512.
func Large(d *layout.Dir, name string, sizes ...int64) (ocispec.Descriptor, error) {
	w := &writer{dir: d}
	image := ocispec.Image{Platform: ocispec.Platform{OS: "linux", Architecture: "amd64"}}
	image.RootFS.Type = "layers"
	var layers []ocispec.Descriptor
	for i, size := range sizes {
		desc := w.largeLayer(uint64(i), size)
		layers = append(layers, desc)
		image.RootFS.DiffIDs = append(image.RootFS.DiffIDs, desc.Digest)
	}
	desc := w.manifest(oci, image, layers)
	if w.err == nil {
		w.err = d.SetRef(name, desc)
	}
	return desc, w.err
}

// family is a spelling of media types.
type family struct{ manifest, index, config, gzip, foreign string }

var (
	oci = family{
		ocispec.MediaTypeImageManifest, ocispec.MediaTypeImageIndex, ocispec.MediaTypeImageConfig, ocispec.MediaTypeImageLayerGzip,
		"application/vnd.oci.image.layer.nondistributable.v1.tar+gzip",
	}
	docker = family{
		"application/vnd.docker.distribution.manifest.v2+json", "application/vnd.docker.distribution.manifest.list.v2+json",
		"application/vnd.docker.container.image.v1+json", "application/vnd.docker.image.rootfs.diff.tar.gzip",
		"application/vnd.docker.image.rootfs.foreign.diff.tar.gzip",
	}
)

// writer writes until something fails.
type writer struct {
	dir  *layout.Dir
	made map[string]ocispec.Descriptor
	err  error
}

func (w *writer) images() {
	w.made["oci"] = w.image(oci, "amd64", "oci", oci.gzip)
	w.made["docker"] = w.image(docker, "amd64", "docker", docker.gzip)
	w.made["zstd"] = w.image(oci, "amd64", "zstd", ocispec.MediaTypeImageLayerZstd)
	w.made["plain"] = w.image(oci, "amd64", "plain", ocispec.MediaTypeImageLayer)
}

func (w *writer) indexes() {
	w.made["index"] = w.index(oci, w.image(oci, "amd64", "index", oci.gzip), w.image(oci, "arm64", "index", oci.gzip))
	w.made["list"] = w.index(docker, w.image(docker, "amd64", "list", docker.gzip), w.image(docker, "arm64", "list", docker.gzip))
	inner := w.index(oci, w.image(oci, "arm64", "inner", oci.gzip), w.image(oci, "s390x", "inner", oci.gzip))
	w.made["nested"] = w.index(oci, w.image(oci, "amd64", "outer", oci.gzip), inner)
}

func (w *writer) foreign() {
	for name, f := range map[string]family{"foreign": oci, "dockerforeign": docker} {
		tarball := layerOf(name, 1)
		packed := w.pack(f.gzip, tarball)
		away := ocispec.Descriptor{
			MediaType: f.foreign, Digest: digest.FromBytes(packed), Size: int64(len(packed)),
			URLs: []string{"https://layers.example/" + name},
		}
		base := layerOf(name, 0)
		w.made[name] = w.manifest(f, config("amd64", tarball, base), []ocispec.Descriptor{away, w.put(f.gzip, w.pack(f.gzip, base))})
	}
}

func (w *writer) artifacts() {
	empty := w.put(ocispec.MediaTypeEmptyJSON, []byte("{}"))
	file := func(name, text string) ocispec.Descriptor {
		desc := w.put("text/plain", []byte(text))
		desc.Annotations = map[string]string{ocispec.AnnotationTitle: name}
		return desc
	}
	m := ocispec.Manifest{
		Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: oci.manifest, ArtifactType: ArtifactType, Config: empty,
		Layers:      []ocispec.Descriptor{file("a.txt", "one\n"), file("b.txt", "two\n")},
		Annotations: map[string]string{ocispec.AnnotationCreated: "2026-01-01T00:00:00Z"},
	}
	w.made["artifact"] = w.document(m.MediaType, m)
	subject := w.made["oci"]
	subject.Platform = nil
	m.Subject, m.Layers = &subject, []ocispec.Descriptor{file("statement", "about oci\n")}
	w.made["referrer"] = w.document(m.MediaType, m)
}

// image writes an image of two layers.
func (w *writer) image(f family, arch, name, layerType string) ocispec.Descriptor {
	tarballs := [][]byte{layerOf(name+arch, 0), layerOf(name+arch, 1)}
	var layers []ocispec.Descriptor
	for _, t := range tarballs {
		layers = append(layers, w.put(layerType, w.pack(layerType, t)))
	}
	return w.manifest(f, config(arch, tarballs...), layers)
}

func config(arch string, tarballs ...[]byte) ocispec.Image {
	img := ocispec.Image{Platform: ocispec.Platform{OS: "linux", Architecture: arch}, Config: ocispec.ImageConfig{Cmd: []string{"/hello"}}}
	img.RootFS.Type = "layers"
	for _, t := range tarballs {
		img.RootFS.DiffIDs = append(img.RootFS.DiffIDs, digest.FromBytes(t))
		img.History = append(img.History, ocispec.History{CreatedBy: "hack/images"})
	}
	return img
}

func (w *writer) manifest(f family, config ocispec.Image, layers []ocispec.Descriptor) ocispec.Descriptor {
	desc := w.document(f.manifest, ocispec.Manifest{
		Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: f.manifest,
		Config: w.document(f.config, config), Layers: layers,
	})
	desc.Platform = &config.Platform
	return desc
}

func (w *writer) index(f family, manifests ...ocispec.Descriptor) ocispec.Descriptor {
	return w.document(f.index, ocispec.Index{
		Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: f.index, Manifests: manifests,
	})
}

func (w *writer) document(mediaType string, v any) ocispec.Descriptor {
	b, err := json.Marshal(v)
	if w.err == nil {
		w.err = err
	}
	return w.put(mediaType, b)
}

func (w *writer) put(mediaType string, b []byte) ocispec.Descriptor {
	if w.err != nil {
		return ocispec.Descriptor{}
	}
	desc, err := w.dir.PutBytes(mediaType, b)
	w.err = err
	return desc
}

// pack compresses a layer as its media type says.
func (w *writer) pack(mediaType string, tarball []byte) []byte {
	var out bytes.Buffer
	var z io.WriteCloser
	var err error
	switch mediaType {
	case ocispec.MediaTypeImageLayer:
		return tarball
	case ocispec.MediaTypeImageLayerZstd:
		z, err = zstd.NewWriter(&out, zstd.WithEncoderConcurrency(1))
	default:
		z = gzip.NewWriter(&out)
	}
	if err == nil {
		_, err = z.Write(tarball)
	}
	if err == nil {
		err = z.Close()
	}
	if w.err == nil {
		w.err = err
	}
	return out.Bytes()
}

// layerOf is the n-th layer of an image: a directory, files, a link; the second
// changes one file and removes another.
func layerOf(name string, n int) []byte {
	var b bytes.Buffer
	t := tar.NewWriter(&b)
	add := func(h tar.Header, text string) {
		h.Size, h.Format = int64(len(text)), tar.FormatPAX
		// A buffer takes everything, and the headers are as fixed as the test of them.
		_ = t.WriteHeader(&h)
		_, _ = t.Write([]byte(text))
	}
	add(tar.Header{Typeflag: tar.TypeDir, Name: "etc/", Mode: 0o755}, "")
	add(tar.Header{Typeflag: tar.TypeReg, Name: "etc/name", Mode: 0o644}, fmt.Sprintf("%s %d\n", name, n))
	if n == 0 {
		add(tar.Header{Typeflag: tar.TypeReg, Name: "etc/old", Mode: 0o600}, "old\n")
		add(tar.Header{Typeflag: tar.TypeSymlink, Name: "etc/link", Linkname: "name", Mode: 0o777}, "")
	} else {
		add(tar.Header{Typeflag: tar.TypeReg, Name: "etc/.wh.old", Mode: 0o644}, "")
	}
	_ = t.Close()
	return b.Bytes()
}

// largeLayer writes a tar with one file.
func (w *writer) largeLayer(seed uint64, size int64) ocispec.Descriptor {
	if w.err != nil {
		return ocispec.Descriptor{}
	}
	desc, err := writeLarge(w.dir, seed, max(2048, size/512*512))
	w.err = err
	return desc
}

func writeLarge(d *layout.Dir, seed uint64, size int64) (ocispec.Descriptor, error) {
	blob, err := d.NewBlob()
	if err != nil {
		return ocispec.Descriptor{}, err
	}
	defer blob.Close()
	t := tar.NewWriter(blob)
	n := size - 3*512 // the header and the end
	if err := t.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: fmt.Sprintf("large%d", seed), Mode: 0o644, Size: n}); err != nil {
		return ocispec.Descriptor{}, err
	}
	var key [32]byte
	binary.LittleEndian.PutUint64(key[:], seed+1)
	if _, err := io.CopyBuffer(t, io.LimitReader(rand.NewChaCha8(key), n), make([]byte, 1<<20)); err != nil {
		return ocispec.Descriptor{}, err
	}
	if err := t.Close(); err != nil {
		return ocispec.Descriptor{}, err
	}
	dg, size, err := blob.Commit("", -1)
	return ocispec.Descriptor{MediaType: ocispec.MediaTypeImageLayer, Digest: dg, Size: size}, err
}

package archive

import (
	"archive/tar"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"path"
	"slices"
	"strings"
	"time"

	digest "github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"bk.build/bk/layout"
	"bk.build/bk/layout/transfer"
)

// WriteOCI writes a tar of an OCI layout that holds the image or index desc of
// src under the given names. Without names the entry of index.json has none.
func WriteOCI(ctx context.Context, w io.Writer, src transfer.Reader, desc ocispec.Descriptor, names []string) error {
	err := writeLayout(ctx, w, src, named(desc, names))
	if err != nil {
		return fmt.Errorf("write OCI archive of %s: %w", desc.Digest, err)
	}
	return nil
}

// writeLayout writes a tar of an OCI layout with the given entries of
// index.json.
func writeLayout(ctx context.Context, w io.Writer, src transfer.Reader, index []ocispec.Descriptor) error {
	c := newCollector(ctx, src)
	files, err := c.layoutFiles(index)
	if err != nil {
		return err
	}
	return writeTar(ctx, w, src, files)
}

// WriteDocker writes a tar that docker load (also before it knew OCI layouts)
// and podman load accept. The format holds one image: of an index, that for the
// platform; nil: the only one, attestations aside. Names are spelt out as Docker
// does; those with a digest are left out of RepoTags. Docker 20.10 does not read
// layers in zstd.
func WriteDocker(ctx context.Context, w io.Writer, src transfer.Reader, desc ocispec.Descriptor, names []string, platform *ocispec.Platform) error {
	err := writeDocker(ctx, w, src, desc, names, platform)
	if err != nil {
		return fmt.Errorf("write Docker archive of %s: %w", desc.Digest, err)
	}
	return nil
}

func writeDocker(ctx context.Context, w io.Writer, src transfer.Reader, desc ocispec.Descriptor, names []string, platform *ocispec.Platform) error {
	c := newCollector(ctx, src)
	names = slices.Clone(names)
	for i, name := range names {
		names[i] = layout.NormalizeName(name)
	}
	image, err := c.oneImage(desc, platform)
	if err != nil {
		return err
	}
	files, err := c.layoutFiles(named(image, names))
	if err != nil {
		return err
	}
	manifest, err := c.dockerManifest(image, names)
	if err != nil {
		return err
	}
	return writeTar(ctx, w, src, append(files, manifest))
}

// collector finds out what an archive consists of.
type collector struct {
	ctx  context.Context // of the function that made it, its only user
	src  transfer.Reader
	docs map[digest.Digest][]byte // manifests that were read, up to keepDocuments bytes
	kept int
}

// keepDocuments bounds the documents that are kept from when they are read for
// what they name until they are written; others are read twice.
const keepDocuments = 32 << 20

func newCollector(ctx context.Context, src transfer.Reader) *collector {
	return &collector{ctx: ctx, src: src, docs: map[digest.Digest][]byte{}}
}

// fetch is a layout.Fetch.
func (c *collector) fetch(desc ocispec.Descriptor, max int64) ([]byte, error) {
	if b, ok := c.docs[desc.Digest]; ok && desc.Size == int64(len(b)) {
		return b, nil
	}
	b, err := transfer.ReadDocument(c.ctx, c.src, desc, max)
	if err == nil && c.kept+len(b) <= keepDocuments {
		c.docs[desc.Digest] = b
		c.kept += len(b)
	}
	return b, err
}

// oneImage selects the image manifest that a Docker archive holds.
func (c *collector) oneImage(desc ocispec.Descriptor, platform *ocispec.Platform) (ocispec.Descriptor, error) {
	if layout.IsManifest(desc.MediaType) {
		return desc, nil
	}
	image := desc
	if platform != nil {
		var err error
		if image, err = layout.Select(desc, *platform, c.fetch); err != nil {
			return image, err
		}
	} else {
		images, err := layout.Images(desc, c.fetch)
		if err != nil {
			return image, err
		}
		if len(images) != 1 {
			return image, fmt.Errorf("the format holds one image and there are %d: name a platform, or write an OCI archive", len(images))
		}
		image = images[0]
	}
	image.Annotations = desc.Annotations
	return image, nil
}

// A file is one entry of the archive: a document, or a blob of the source.
type file struct {
	name string
	data []byte
	blob *ocispec.Descriptor
}

// layoutFiles are the files of an OCI layout with these entries of index.json.
func (c *collector) layoutFiles(entries []ocispec.Descriptor) ([]file, error) {
	header, err := jsonFile(ocispec.ImageLayoutFile, ocispec.ImageLayout{Version: ocispec.ImageLayoutVersion})
	if err != nil {
		return nil, err
	}
	index, err := jsonFile(ocispec.ImageIndexFile, ocispec.Index{
		Versioned: specs.Versioned{SchemaVersion: 2},
		MediaType: ocispec.MediaTypeImageIndex,
		Manifests: entries,
	})
	if err != nil {
		return nil, err
	}
	files, seen := []file{header, index}, map[digest.Digest]bool{}
	for _, desc := range entries {
		blobs, err := layout.Closure(desc, c.fetch)
		if err != nil {
			return nil, err
		}
		for _, blob := range blobs {
			if seen[blob.Digest] {
				continue
			}
			seen[blob.Digest] = true
			f, err := c.file(blob)
			if err != nil {
				return nil, fmt.Errorf("%s is not complete: %w", desc.Digest, err)
			}
			if f.name != "" {
				files = append(files, f)
			}
		}
	}
	return files, nil
}

// file is the entry for a blob; none for a layer that is not distributed. What a
// layout lacks is noticed here, before anything is written.
func (c *collector) file(blob ocispec.Descriptor) (file, error) {
	f := file{name: blobName(blob), blob: &blob}
	if b, ok := c.docs[blob.Digest]; ok {
		f.data, f.blob = b, nil
		return f, nil
	}
	if _, ok := c.src.(*transfer.Dir); !ok && !layout.IsForeign(blob.MediaType) {
		return f, nil
	}
	r, err := c.src.Open(c.ctx, blob)
	switch {
	case err == nil:
		return f, r.Close()
	case errors.Is(err, fs.ErrNotExist) && layout.IsForeign(blob.MediaType) && len(blob.URLs) > 0:
		return file{}, nil
	}
	return f, err
}

// named returns one entry of index.json for each name.
func named(desc ocispec.Descriptor, names []string) []ocispec.Descriptor {
	if len(names) == 0 {
		return []ocispec.Descriptor{layout.NamedDescriptor("", desc)}
	}
	var entries []ocispec.Descriptor
	for _, name := range names {
		entries = append(entries, layout.NamedDescriptor(name, desc))
	}
	return entries
}

// dockerManifest is manifest.json: where the image's parts are in the archive.
func (c *collector) dockerManifest(desc ocispec.Descriptor, names []string) (file, error) {
	children, err := layout.Children(desc, c.fetch)
	if err != nil {
		return file{}, err
	}
	if t := children[0].MediaType; t != ocispec.MediaTypeImageConfig && t != layout.MediaTypeDockerConfig {
		return file{}, fmt.Errorf("it is no image but an artifact (its config is %q), which Docker cannot load: write an OCI archive", t)
	}
	entry := dockerImage{Config: blobName(children[0]), RepoTags: repoTags(names), Layers: []string{}}
	for _, layer := range children[1:] {
		entry.Layers = append(entry.Layers, blobName(layer))
	}
	return jsonFile(dockerManifestFile, []dockerImage{entry})
}

// repoTags spells names as Docker shows them: "app:latest" for
// "docker.io/library/app:latest".
func repoTags(names []string) []string {
	var tags []string
	for _, name := range names {
		if !strings.Contains(name, "@") {
			tags = append(tags, strings.TrimPrefix(strings.TrimPrefix(name, "docker.io/"), "library/"))
		}
	}
	return tags
}

func blobName(desc ocispec.Descriptor) string {
	return path.Join(ocispec.ImageBlobsDir, desc.Digest.Algorithm().String(), desc.Digest.Encoded())
}

func jsonFile(name string, v any) (file, error) {
	b, err := json.Marshal(v)
	return file{name: name, data: b}, err
}

// writeTar writes the files, and the directories that they are in, in the order
// of their names.
func writeTar(ctx context.Context, w io.Writer, src transfer.Reader, files []file) error {
	slices.SortFunc(files, func(a, b file) int { return cmp.Compare(a.name, b.name) })
	tw := tar.NewWriter(w)
	dirs := map[string]bool{}
	for _, f := range files {
		if err := ctx.Err(); err != nil {
			return err
		}
		if err := writeParents(tw, f.name, dirs); err != nil {
			return err
		}
		if err := f.write(ctx, tw, src); err != nil {
			return fmt.Errorf("%s: %w", f.name, err)
		}
	}
	return tw.Close()
}

// writeParents writes entries for the directories above name.
func writeParents(tw *tar.Writer, name string, done map[string]bool) error {
	for i, c := range name {
		if c != '/' || done[name[:i]] {
			continue
		}
		done[name[:i]] = true
		h := &tar.Header{Typeflag: tar.TypeDir, Name: name[:i+1], Mode: 0o755, ModTime: time.Unix(0, 0)}
		if err := tw.WriteHeader(h); err != nil {
			return err
		}
	}
	return nil
}

// write writes one file; a blob is verified on the way.
func (f file) write(ctx context.Context, tw *tar.Writer, src transfer.Reader) error {
	h := &tar.Header{Typeflag: tar.TypeReg, Name: f.name, Mode: 0o644, Size: int64(len(f.data)), ModTime: time.Unix(0, 0)}
	if f.blob == nil {
		if err := tw.WriteHeader(h); err != nil {
			return err
		}
		_, err := tw.Write(f.data)
		return err
	}
	r, err := src.Open(ctx, *f.blob)
	if err != nil {
		return err
	}
	defer r.Close()
	h.Size = f.blob.Size
	if err := tw.WriteHeader(h); err != nil {
		return err
	}
	_, err = io.CopyBuffer(struct{ io.Writer }{tw}, &counter{ctx: ctx, r: r}, make([]byte, 256<<10))
	return err
}

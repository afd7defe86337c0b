package archive

import (
	"archive/tar"
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"path"
	"slices"
	"strings"
	"time"

	"github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"bk.build/bk/layout"
)

// WriteOCI writes a tar of an OCI layout that holds the image or index desc
// under the given names. Without names the entry of index.json has none.
func WriteOCI(ctx context.Context, w io.Writer, store *layout.Dir, desc ocispec.Descriptor, names []string) error {
	files, err := layoutFiles(store, desc, names)
	if err == nil {
		err = writeTar(ctx, w, store, files)
	}
	if err != nil {
		return fmt.Errorf("write OCI archive of %s: %w", desc.Digest, err)
	}
	return nil
}

// WriteDocker writes a tar that docker load (also before it knew OCI layouts)
// and podman load accept. The format holds one image: of an index, that for the
// platform; nil: the only one, attestations aside. Names without a tag, such as
// those with a digest, are left out of RepoTags. Docker 20.10 does not read
// layers in zstd.
func WriteDocker(ctx context.Context, w io.Writer, store *layout.Dir, desc ocispec.Descriptor, names []string, platform *ocispec.Platform) error {
	err := writeDocker(ctx, w, store, desc, names, platform)
	if err != nil {
		return fmt.Errorf("write Docker archive of %s: %w", desc.Digest, err)
	}
	return nil
}

func writeDocker(ctx context.Context, w io.Writer, store *layout.Dir, desc ocispec.Descriptor, names []string, platform *ocispec.Platform) error {
	image, err := oneImage(store, desc, platform)
	if err != nil {
		return err
	}
	files, err := layoutFiles(store, image, names)
	if err != nil {
		return err
	}
	manifest, err := dockerManifest(store, image, names)
	if err != nil {
		return err
	}
	return writeTar(ctx, w, store, append(files, manifest))
}

// oneImage selects the image manifest that a Docker archive holds.
func oneImage(store *layout.Dir, desc ocispec.Descriptor, platform *ocispec.Platform) (ocispec.Descriptor, error) {
	if layout.IsManifest(desc.MediaType) {
		return desc, nil
	}
	image := desc
	if platform != nil {
		var err error
		if image, err = store.Platform(desc, *platform); err != nil {
			return image, err
		}
	} else {
		images, err := layout.Images(desc, store.ReadBlob)
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

// A file is one entry of the archive: a document, or a blob of the store.
type file struct {
	name string
	data []byte
	blob *ocispec.Descriptor
}

// layoutFiles are the files of an OCI layout that holds desc.
func layoutFiles(store *layout.Dir, desc ocispec.Descriptor, names []string) ([]file, error) {
	blobs, err := store.Closure(desc)
	if err != nil {
		return nil, err
	}
	header, err := jsonFile(ocispec.ImageLayoutFile, ocispec.ImageLayout{Version: ocispec.ImageLayoutVersion})
	if err != nil {
		return nil, err
	}
	index, err := jsonFile(ocispec.ImageIndexFile, ocispec.Index{
		Versioned: specs.Versioned{SchemaVersion: 2},
		MediaType: ocispec.MediaTypeImageIndex,
		Manifests: named(desc, names),
	})
	if err != nil {
		return nil, err
	}
	files := []file{header, index}
	for _, blob := range blobs {
		if !store.HasDescriptor(blob) {
			_, err := store.OpenBlob(blob)
			return nil, fmt.Errorf("%s is not complete: %w", desc.Digest, err)
		}
		files = append(files, file{name: blobName(blob), blob: &blob})
	}
	return files, nil
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
func dockerManifest(store *layout.Dir, desc ocispec.Descriptor, names []string) (file, error) {
	children, err := layout.Children(desc, store.ReadBlob)
	if err != nil {
		return file{}, err
	}
	entry := struct {
		Config   string
		RepoTags []string
		Layers   []string
	}{Config: blobName(children[0]), RepoTags: repoTags(names), Layers: []string{}}
	for _, layer := range children[1:] {
		entry.Layers = append(entry.Layers, blobName(layer))
	}
	return jsonFile("manifest.json", []any{entry})
}

// repoTags spells names as Docker shows them: "app:latest" for
// "docker.io/library/app:latest".
func repoTags(names []string) []string {
	var tags []string
	for _, name := range names {
		if strings.Contains(name, "@") {
			continue
		}
		if strings.ContainsAny(name, "/:") {
			name = layout.NormalizeName(name)
			name = strings.TrimPrefix(name, "docker.io/")
			name = strings.TrimPrefix(name, "library/")
			tags = append(tags, name)
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
func writeTar(ctx context.Context, w io.Writer, store *layout.Dir, files []file) error {
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
		if err := f.write(tw, store); err != nil {
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
func (f file) write(tw *tar.Writer, store *layout.Dir) error {
	h := &tar.Header{Typeflag: tar.TypeReg, Name: f.name, Mode: 0o644, Size: int64(len(f.data)), ModTime: time.Unix(0, 0)}
	if f.blob == nil {
		if err := tw.WriteHeader(h); err != nil {
			return err
		}
		_, err := tw.Write(f.data)
		return err
	}
	r, err := store.OpenBlob(*f.blob)
	if err != nil {
		return err
	}
	defer r.Close()
	h.Size = r.Size()
	if err := tw.WriteHeader(h); err != nil {
		return err
	}
	_, err = io.CopyBuffer(struct{ io.Writer }{tw}, struct{ io.Reader }{r}, make([]byte, 256<<10))
	return err
}

package layout

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"

	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"
	digest "github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"bk.build/bk/layout/layer"
)

// maxWindow is the largest zstd window that is decoded, in bytes: what the
// format's own tools accept by default.
const maxWindow = 128 << 20

// Validate checks an image, or all images of an index, completely: digests and
// sizes of all blobs, that layers are tars of the compression that their media
// type says and have the diffIDs of the configuration, that rootfs and history
// account for every layer, and that the platform in the index is the
// configuration's. A layer that is not distributed may be missing. All problems
// are reported, joined.
func Validate(ctx context.Context, d *Dir, desc ocispec.Descriptor) error {
	v := validator{ctx: ctx, dir: d, done: map[digest.Digest]digest.Digest{}}
	blobs, err := d.Closure(desc)
	if err != nil {
		return fmt.Errorf("validate %s: %w", desc.Digest, err)
	}
	for _, blob := range blobs {
		if err := ctx.Err(); err != nil {
			return err
		}
		switch {
		case IsManifest(blob.MediaType):
			err = v.manifest(blob)
		case elsewhere(d, blob):
			continue
		default:
			err = v.blob(blob)
		}
		if err != nil {
			v.errs = append(v.errs, fmt.Errorf("validate %s: %w", blob.Digest, err))
		}
	}
	return errors.Join(v.errs...)
}

type validator struct {
	ctx  context.Context // of Validate, its only user
	dir  *Dir
	done map[digest.Digest]digest.Digest // layer -> diffID
	errs []error
}

// elsewhere says whether a layer is not here because it is not distributed.
func elsewhere(d *Dir, desc ocispec.Descriptor) bool {
	return IsForeign(desc.MediaType) && len(desc.URLs) > 0 && !d.Has(desc.Digest)
}

// blob reads a blob to its end; of a layer it notes the diffID.
func (v *validator) blob(desc ocispec.Descriptor) error {
	r, err := v.dir.OpenBlob(desc)
	if err != nil {
		return err
	}
	defer r.Close()
	in := &ctxReader{v.ctx, r}
	if IsLayer(desc.MediaType) {
		v.done[desc.Digest], err = diffID(in, desc.MediaType)
	}
	if err != nil {
		return err
	}
	_, err = io.Copy(io.Discard, in) // what a decompressor left, and the digest
	return err
}

// diffID decompresses a layer, checks that it is a tar and returns its digest.
func diffID(r io.Reader, mediaType string) (digest.Digest, error) {
	plain, err := decompress(r, mediaType)
	if err != nil {
		return "", err
	}
	defer plain.Close()
	h := digest.SHA256.Hash()
	in := io.TeeReader(plain, h)
	for _, err := range layer.Read(in, layer.Limits{}) {
		if err != nil {
			return "", err
		}
	}
	if _, err := io.Copy(io.Discard, in); err != nil {
		return "", err
	}
	return digest.NewDigest(digest.SHA256, h), nil
}

// decompress undoes the compression that the media type says. The bytes must
// agree: other tools look at them and not at the type.
func decompress(r io.Reader, mediaType string) (io.ReadCloser, error) {
	br := bufio.NewReaderSize(r, 64<<10)
	got, want := compressionOf(br), LayerCompression(mediaType)
	if got != want {
		return nil, fmt.Errorf("the layer is %s, its media type %q says %s", got, mediaType, want)
	}
	switch got {
	case layer.Gzip:
		return gzip.NewReader(br)
	case layer.Zstd:
		dec, err := zstd.NewReader(br, zstd.WithDecoderConcurrency(1), zstd.WithDecoderMaxWindow(maxWindow))
		if err != nil {
			return nil, err
		}
		return dec.IOReadCloser(), nil
	}
	return io.NopCloser(br), nil
}

// compressionOf looks at the first bytes.
func compressionOf(br *bufio.Reader) string {
	magic, _ := br.Peek(4)
	switch {
	case bytes.HasPrefix(magic, []byte{0x1f, 0x8b}):
		return layer.Gzip
	case bytes.Equal(magic, []byte{0x28, 0xb5, 0x2f, 0xfd}),
		len(magic) == 4 && magic[0]&0xf0 == 0x50 && bytes.Equal(magic[1:], []byte{0x2a, 0x4d, 0x18}): // skippable frame
		return layer.Zstd
	}
	return layer.Uncompressed
}

// manifest checks what a manifest's parts say about each other. Its blobs were
// read before it.
func (v *validator) manifest(desc ocispec.Descriptor) error {
	b, err := v.dir.ReadBlob(desc, MaxManifest)
	if err != nil {
		return err
	}
	m, err := ParseManifest(desc.MediaType, b)
	if err != nil {
		return err
	}
	if m.Config.MediaType != ocispec.MediaTypeImageConfig && m.Config.MediaType != MediaTypeDockerConfig {
		return nil // an artifact
	}
	b, err = v.dir.ReadBlob(m.Config, MaxConfig)
	if err != nil {
		return err
	}
	var img ocispec.Image
	if err := json.Unmarshal(b, &img); err != nil {
		return fmt.Errorf("parse config %s: %w", m.Config.Digest, err)
	}
	return errors.Join(v.rootfs(m, img), checkHistory(m, img), checkPlatform(desc, img))
}

// rootfs compares the diffIDs of the configuration with those of the layers.
func (v *validator) rootfs(m ocispec.Manifest, img ocispec.Image) error {
	if len(img.RootFS.DiffIDs) != len(m.Layers) {
		return fmt.Errorf("the config has %d diffIDs, the manifest %d layers", len(img.RootFS.DiffIDs), len(m.Layers))
	}
	var errs []error
	for i, l := range m.Layers {
		got, ok := v.done[l.Digest]
		if ok && got != "" && got != img.RootFS.DiffIDs[i] {
			errs = append(errs, fmt.Errorf("layer %d (%s) has diffID %s, the config says %s", i, l.Digest, got, img.RootFS.DiffIDs[i]))
		}
	}
	return errors.Join(errs...)
}

// checkHistory counts the entries that stand for layers. An image without any
// history is valid.
func checkHistory(m ocispec.Manifest, img ocispec.Image) error {
	n := 0
	for _, h := range img.History {
		if !h.EmptyLayer {
			n++
		}
	}
	if len(img.History) > 0 && n != len(m.Layers) {
		return fmt.Errorf("the history has entries for %d layers, the manifest has %d", n, len(m.Layers))
	}
	return nil
}

// checkPlatform compares the index with the configuration. Attestations have
// the platform unknown/unknown in both.
func checkPlatform(desc ocispec.Descriptor, img ocispec.Image) error {
	p := desc.Platform
	if img.OS == "" || img.Architecture == "" {
		return errors.New("the config names no os or no architecture")
	}
	if p != nil && (p.OS != img.OS || p.Architecture != img.Architecture) {
		return fmt.Errorf("the index says platform %s/%s, the config %s/%s", p.OS, p.Architecture, img.OS, img.Architecture)
	}
	return nil
}

// ctxReader ends when its context does.
type ctxReader struct {
	ctx context.Context
	r   io.Reader
}

func (r *ctxReader) Read(p []byte) (int, error) {
	if err := r.ctx.Err(); err != nil {
		return 0, err
	}
	return r.r.Read(p)
}

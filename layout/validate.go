package layout

import (
	"bufio"
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"sync"

	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"
	digest "github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sync/errgroup"

	"bk.build/bk/layout/layer"
)

// maxWindow is the largest zstd window that is decoded, in bytes: what the
// format's own tools accept by default.
const maxWindow = 128 << 20

// Opener gives the content of descriptors, verified to its end. It is safe for
// concurrent use.
type Opener interface {
	// Open streams the content of a descriptor. What is not there satisfies
	// errors.Is(err, fs.ErrNotExist).
	Open(ctx context.Context, desc ocispec.Descriptor) (io.ReadCloser, error)
}

// CheckOptions configures Check. The zero value checks everything.
type CheckOptions struct {
	// Fast reads documents and configurations only. Of other blobs it asks
	// whether they are there: by a method Has of the Opener, which a
	// transfer.Writer has, or else by opening them.
	Fast bool
	// Jobs is how many blobs are read at once; 0 or less: 4.
	Jobs int
}

// Checked is what Check found.
type Checked struct {
	Documents int   // manifests and indexes
	Blobs     int   // configurations, layers and other blobs
	Bytes     int64 // of both, as far as they were read
	Elsewhere int   // layers that are not here, as they are not distributed
	Problems  []Problem
}

// Err joins the problems.
func (c Checked) Err() error {
	errs := make([]error, len(c.Problems))
	for i, p := range c.Problems {
		errs[i] = fmt.Errorf("validate %s: %w", p.Where, p.Err)
	}
	return errors.Join(errs...)
}

// Validate is Check of everything in a layout. All problems are joined.
func Validate(ctx context.Context, d *Dir, desc ocispec.Descriptor) error {
	c, err := Check(ctx, dirOpener{d}, desc, CheckOptions{})
	return errors.Join(err, c.Err())
}

type dirOpener struct{ *Dir }

func (d dirOpener) Open(_ context.Context, desc ocispec.Descriptor) (io.ReadCloser, error) {
	r, err := d.OpenBlob(desc)
	if err != nil {
		return nil, err
	}
	return r, nil
}

// Check checks an image, or all images of an index, completely: digests and
// sizes of all blobs, that layers are tars of the compression that their media
// type says and have the diffIDs of the configuration, that rootfs and history
// account for every layer, and that the platform in the index is the
// configuration's. A layer that is not distributed may be missing. All problems
// are reported, in the order in which parts come before what they are part of;
// the error is that of ctx.
func Check(ctx context.Context, src Opener, desc ocispec.Descriptor, opts CheckOptions) (Checked, error) {
	v := &validator{
		ctx: ctx, src: src, opts: opts, done: map[digest.Digest]digest.Digest{},
		docs: map[digest.Digest][]byte{}, seen: map[digest.Digest]ocispec.Descriptor{}, problems: map[digest.Digest][]error{},
	}
	v.walk(desc, 0)
	v.blobs()
	for _, d := range v.list {
		if IsManifest(d.MediaType) && len(v.problems[d.Digest]) == 0 {
			v.problem(d, v.manifest(d))
		}
	}
	if ctx.Err() != nil {
		return Checked{}, context.Cause(ctx)
	}
	for _, d := range v.list {
		for _, err := range v.problems[d.Digest] {
			v.result.Problems = append(v.result.Problems, Problem{Where: d.Digest.String(), Err: err})
		}
	}
	return v.result, nil
}

// maxHeld bounds the documents that are held in memory, in bytes.
const maxHeld = 32 << 20

type validator struct {
	ctx  context.Context // of Check, its only user
	src  Opener
	opts CheckOptions
	list []ocispec.Descriptor // parts before what they are part of
	seen map[digest.Digest]ocispec.Descriptor
	docs map[digest.Digest][]byte // documents that are needed again
	held int                      // bytes in docs

	mu       sync.Mutex
	done     map[digest.Digest]digest.Digest // layer -> diffID
	problems map[digest.Digest][]error
	result   Checked
}

// problem notes what is wrong with a part; nil is nothing.
func (v *validator) problem(desc ocispec.Descriptor, err error) {
	if err == nil {
		return
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	v.problems[desc.Digest] = append(v.problems[desc.Digest], err)
}

// walk lists desc after its parts.
func (v *validator) walk(desc ocispec.Descriptor, depth int) {
	if old, ok := v.seen[desc.Digest]; ok {
		v.problem(desc, SameBlob(old, desc))
		return
	}
	v.seen[desc.Digest] = desc
	if depth > maxNesting || len(v.seen) > maxClosure {
		v.problem(desc, fmt.Errorf("more than %d nested or %d documents", maxNesting, maxClosure))
		v.list = append(v.list, desc)
		return
	}
	if IsIndex(desc.MediaType) || IsManifest(desc.MediaType) {
		v.result.Documents++
		v.result.Bytes += desc.Size
		children, err := Children(desc, v.document)
		v.problem(desc, err)
		for _, child := range children {
			v.walk(child, depth+1)
		}
	}
	v.list = append(v.list, desc)
}

// document reads a document or a configuration; some documents once only.
func (v *validator) document(desc ocispec.Descriptor, max int64) ([]byte, error) {
	if b, ok := v.docs[desc.Digest]; ok {
		return b, nil
	}
	if desc.Size < 0 || desc.Size > max {
		return nil, fmt.Errorf("it has %d bytes, at most %d are read", desc.Size, max)
	}
	r, err := v.src.Open(v.ctx, desc)
	if err != nil {
		return nil, err
	}
	defer r.Close()
	b, err := io.ReadAll(io.LimitReader(r, max+1))
	if err != nil {
		return nil, err
	}
	if int64(len(b)) != desc.Size {
		return nil, &CorruptError{Digest: desc.Digest, Reason: fmt.Sprintf("has %d bytes, want %d", len(b), desc.Size)}
	}
	if IsIndex(desc.MediaType) || IsManifest(desc.MediaType) {
		if v.held += len(b); v.held <= maxHeld {
			v.docs[desc.Digest] = b
		}
	}
	return b, nil
}

// blobs checks what is no document, some at once.
func (v *validator) blobs() {
	var g errgroup.Group
	g.SetLimit(cmp.Or(max(v.opts.Jobs, 0), 4))
	for _, desc := range v.list {
		if IsIndex(desc.MediaType) || IsManifest(desc.MediaType) {
			continue
		}
		g.Go(func() error {
			v.problem(desc, v.part(desc))
			return nil
		})
	}
	_ = g.Wait()
}

// part checks a blob.
func (v *validator) part(desc ocispec.Descriptor) error {
	if err := v.ctx.Err(); err != nil {
		return err
	}
	var err error
	if v.opts.Fast && desc.MediaType != ocispec.MediaTypeImageConfig && desc.MediaType != MediaTypeDockerConfig {
		err = v.there(desc)
		desc.Size = 0 // nothing of it is read
	} else {
		err = v.blob(desc)
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	if errors.Is(err, fs.ErrNotExist) && IsForeign(desc.MediaType) && len(desc.URLs) > 0 && !errors.As(err, new(*CorruptError)) {
		v.result.Elsewhere++
		return nil
	}
	v.result.Blobs++
	if err == nil {
		v.result.Bytes += desc.Size
	}
	return err
}

// there asks whether a blob is there.
func (v *validator) there(desc ocispec.Descriptor) error {
	if h, ok := v.src.(interface {
		Has(ctx context.Context, desc ocispec.Descriptor) (bool, error)
	}); ok {
		has, err := h.Has(v.ctx, desc)
		if err == nil && !has {
			err = fs.ErrNotExist
		}
		return err
	}
	r, err := v.src.Open(v.ctx, desc)
	if err != nil {
		return err
	}
	return r.Close()
}

// blob reads a blob to its end; of a layer it notes the diffID.
func (v *validator) blob(desc ocispec.Descriptor) error {
	r, err := v.src.Open(v.ctx, desc)
	if err != nil {
		return err
	}
	defer r.Close()
	in := &ctxReader{v.ctx, r}
	if IsLayer(desc.MediaType) {
		var id digest.Digest
		id, err = diffID(in, desc.MediaType)
		v.mu.Lock()
		v.done[desc.Digest] = id
		v.mu.Unlock()
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
	b, err := v.document(desc, MaxManifest)
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
	if len(v.problems[m.Config.Digest]) > 0 {
		return nil // it is said already
	}
	if b, err = v.document(m.Config, MaxConfig); err != nil {
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

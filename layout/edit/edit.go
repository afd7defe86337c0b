package edit

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"runtime"
	"slices"
	"sync"

	digest "github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sync/errgroup"

	"bk.build/bk/layout"
	"bk.build/bk/layout/transfer"
)

// Result is an edited image. It is a [transfer.Reader] of everything that the
// image consists of: what is new, and what is still where it was.
type Result struct {
	Descriptor ocispec.Descriptor
	// Notes say, for people, what could not be kept or expressed.
	Notes []string

	out  *transfer.Dir
	srcs []transfer.Reader
}

// Resolve is that of [transfer.Reader]; the image's name is its digest.
func (r *Result) Resolve(_ context.Context, ref string) (ocispec.Descriptor, error) {
	if ref == r.Descriptor.Digest.String() {
		return r.Descriptor, nil
	}
	return ocispec.Descriptor{}, fmt.Errorf("resolve %q: %w", ref, fs.ErrNotExist)
}

// Open is that of [transfer.Reader].
func (r *Result) Open(ctx context.Context, desc ocispec.Descriptor) (io.ReadCloser, error) {
	var errs []error
	for _, src := range append([]transfer.Reader{r.out}, r.srcs...) {
		in, err := src.Open(ctx, desc)
		if err == nil {
			return in, nil
		}
		if !errors.Is(err, fs.ErrNotExist) {
			return nil, err
		}
		errs = append(errs, err)
	}
	return nil, errs[len(errs)-1]
}

// Holder returns the layout that has a blob, so that a layout can link it; nil
// when none has it.
func (r *Result) Holder(desc ocispec.Descriptor) transfer.Reader {
	for _, src := range append([]transfer.Reader{r.out}, r.srcs...) {
		d, ok := src.(*transfer.Dir)
		if !ok {
			continue
		}
		if has, err := d.Has(context.Background(), desc); err == nil && has {
			return d
		}
	}
	return nil
}

// Origins is that of [transfer.Located]: what is not new may be mounted.
func (r *Result) Origins(desc ocispec.Descriptor) []string {
	var list []string
	for _, src := range r.srcs {
		if l, ok := src.(transfer.Located); ok {
			list = append(list, l.Origins(desc)...)
		}
	}
	return list
}

const (
	maxNesting   = 8       // indexes within indexes
	maxDocuments = 100_000 // entries of all indexes together
)

// editor rewrites the images of an index one by one.
type editor struct {
	src   transfer.Reader
	more  []transfer.Reader // that the result consists of too
	out   *layout.Dir
	image func(ctx context.Context, desc ocispec.Descriptor, m ocispec.Manifest) (ocispec.Descriptor, error)
	// docker: nil leaves the media types of indexes as they are.
	docker           *bool
	dropAttestations bool
	slots            chan struct{} // bounds the images that are rewritten at once

	mu    sync.Mutex
	notes []string
	read  int
}

func newEditor(out *layout.Dir, src transfer.Reader) *editor {
	return &editor{src: src, out: out, slots: make(chan struct{}, max(2, runtime.GOMAXPROCS(0)/2))}
}

// run rewrites desc.
func (e *editor) run(ctx context.Context, what string, desc ocispec.Descriptor) (*Result, error) {
	made, err := e.document(ctx, desc, 0)
	if err != nil {
		return nil, fmt.Errorf("%s %s: %w", what, desc.Digest, err)
	}
	slices.Sort(e.notes)
	return &Result{
		Descriptor: made, Notes: slices.Compact(e.notes),
		out: transfer.Layout(e.out), srcs: append([]transfer.Reader{e.src}, e.more...),
	}, nil
}

// note adds a note.
func (e *editor) note(format string, args ...any) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.notes = append(e.notes, fmt.Sprintf(format, args...))
}

// document rewrites a manifest or an index. The new descriptor has what the old
// one says beside digest, size and media type.
func (e *editor) document(ctx context.Context, desc ocispec.Descriptor, depth int) (ocispec.Descriptor, error) {
	var made ocispec.Descriptor
	var err error
	switch {
	case layout.IsIndex(desc.MediaType):
		made, err = e.index(ctx, desc, depth)
	case layout.IsManifest(desc.MediaType):
		made, err = e.one(ctx, desc)
	default:
		return desc, fmt.Errorf("media type %q is neither an image manifest's nor an index's", desc.MediaType)
	}
	if err != nil || made.Digest == desc.Digest {
		return desc, err
	}
	desc.MediaType, desc.Digest, desc.Size, desc.Data, desc.URLs = made.MediaType, made.Digest, made.Size, nil, nil
	return desc, nil
}

// one rewrites an image when there is a slot for it.
func (e *editor) one(ctx context.Context, desc ocispec.Descriptor) (ocispec.Descriptor, error) {
	select {
	case e.slots <- struct{}{}:
		defer func() { <-e.slots }()
		m, err := e.manifest(ctx, desc)
		if err != nil {
			return desc, err
		}
		if m.Config.MediaType != ocispec.MediaTypeImageConfig && m.Config.MediaType != layout.MediaTypeDockerConfig {
			e.note("%s is an artifact (%s) and stays as it is", desc.Digest, cmp.Or(m.ArtifactType, m.Config.MediaType))
			return desc, nil
		}
		return e.image(ctx, desc, m)
	case <-ctx.Done():
		return desc, context.Cause(ctx)
	}
}

// manifest reads a manifest.
func (e *editor) manifest(ctx context.Context, desc ocispec.Descriptor) (ocispec.Manifest, error) {
	b, err := transfer.ReadDocument(ctx, e.src, desc, layout.MaxManifest)
	if err != nil {
		return ocispec.Manifest{}, err
	}
	m, err := layout.ParseManifest(desc.MediaType, b)
	if err != nil {
		return m, fmt.Errorf("%s: %w", desc.Digest, err)
	}
	return m, nil
}

// index rewrites what is in an index, side by side.
func (e *editor) index(ctx context.Context, desc ocispec.Descriptor, depth int) (ocispec.Descriptor, error) {
	b, err := transfer.ReadDocument(ctx, e.src, desc, layout.MaxManifest)
	if err != nil {
		return desc, err
	}
	index, err := layout.ParseIndex(desc.MediaType, b)
	if err != nil {
		return desc, fmt.Errorf("index %s: %w", desc.Digest, err)
	}
	if err := e.bound(len(index.Manifests), depth); err != nil {
		return desc, fmt.Errorf("index %s: %w", desc.Digest, err)
	}
	made := slices.Clone(index.Manifests)
	g, gctx := errgroup.WithContext(ctx)
	for i, entry := range index.Manifests {
		if layout.IsAttestation(entry) || !layout.IsManifest(entry.MediaType) && !layout.IsIndex(entry.MediaType) {
			continue
		}
		g.Go(func() (err error) {
			made[i], err = e.document(gctx, entry, depth+1)
			return err
		})
	}
	if err := g.Wait(); err != nil {
		return desc, err
	}
	return e.writeIndex(desc, index, made)
}

func (e *editor) bound(entries, depth int) error {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.read += entries; depth > maxNesting || e.read > maxDocuments {
		return fmt.Errorf("more than %d nested indexes or %d entries", maxNesting, maxDocuments)
	}
	return nil
}

// writeIndex writes an index with new entries, unless nothing has changed.
func (e *editor) writeIndex(desc ocispec.Descriptor, index ocispec.Index, made []ocispec.Descriptor) (ocispec.Descriptor, error) {
	renamed := map[string]digest.Digest{}
	changed := false
	for i, old := range index.Manifests {
		renamed[old.Digest.String()] = made[i].Digest
		changed = changed || made[i].Digest != old.Digest
	}
	mediaType := desc.MediaType
	if e.docker != nil {
		mediaType = ocispec.MediaTypeImageIndex
		if *e.docker {
			mediaType = layout.MediaTypeDockerIndex
		}
	}
	if !changed && mediaType == desc.MediaType {
		return desc, nil
	}
	index.Manifests = e.attestations(made, renamed)
	index.MediaType = mediaType
	if mediaType == layout.MediaTypeDockerIndex && (len(index.Annotations) > 0 || index.ArtifactType != "" || index.Subject != nil) {
		e.note("Docker's manifest list has no annotations, artifact type or subject: those of index %s are left out", desc.Digest)
		index.Annotations, index.ArtifactType, index.Subject = nil, "", nil
	}
	b, err := json.MarshalIndent(index, "", "  ")
	if err != nil {
		return desc, err
	}
	return e.out.PutBytes(mediaType, b)
}

// attestations drops an index's attestations, or makes them point to the
// rewritten images.
func (e *editor) attestations(entries []ocispec.Descriptor, renamed map[string]digest.Digest) []ocispec.Descriptor {
	kept := make([]ocispec.Descriptor, 0, len(entries))
	for _, entry := range entries {
		if !layout.IsAttestation(entry) {
			kept = append(kept, entry)
			continue
		}
		if e.dropAttestations {
			e.note("attestations of the index are about the old image and are left out")
			continue
		}
		about := entry.Annotations[annotationAbout]
		if now, ok := renamed[about]; ok && now.String() != about {
			annotations := map[string]string{}
			for k, v := range entry.Annotations {
				annotations[k] = v
			}
			annotations[annotationAbout] = now.String()
			entry.Annotations = annotations
			e.note("attestations are kept as they are: their statements name the digests of the old images")
		}
		kept = append(kept, entry)
	}
	return kept
}

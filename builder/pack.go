package builder

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"time"

	digest "github.com/opencontainers/go-digest"
	ocispecs "github.com/opencontainers/image-spec/specs-go/v1"

	"bk.build/bk/builder/cache"
	"bk.build/bk/builder/snapshot"
	"bk.build/bk/layout"
	"bk.build/bk/layout/layer"
)

// memo is the content of a packed-<how> file.
type memo struct {
	Descriptor ocispecs.Descriptor
	DiffID     digest.Digest
	Created    time.Time // when the layer was made
}

// how names a way to pack.
func (o PackOptions) how() string {
	s := o.Compression.String()
	if o.Epoch != nil {
		s += "-" + strconv.FormatInt(o.Epoch.Unix(), 10)
	}
	return s
}

// readPacked returns a packed form that is in the store.
func (l *Layer) readPacked(name string) (layout.LayerBlob, bool) {
	b, err := os.ReadFile(l.path(name))
	if err != nil {
		return layout.LayerBlob{}, false
	}
	var m memo
	if json.Unmarshal(b, &m) != nil || m.DiffID.Validate() != nil {
		return layout.LayerBlob{}, false
	}
	if !l.s.store.HasDescriptor(m.Descriptor) {
		return layout.LayerBlob{}, false
	}
	return layout.LayerBlob{Descriptor: m.Descriptor, DiffID: m.DiffID, Created: &m.Created}, true
}

// anyPacked returns any packed form that is in the store. For an image's layer
// that is the form of the image.
func (l *Layer) anyPacked() (layout.LayerBlob, bool) {
	if l.origin != nil {
		return l.origin.blob, l.s.store.HasDescriptor(l.origin.blob.Descriptor)
	}
	names, _ := filepath.Glob(l.path("packed-*"))
	for _, n := range names {
		if b, ok := l.readPacked(filepath.Base(n)); ok {
			return b, true
		}
	}
	return layout.LayerBlob{}, false
}

// Pack returns the layer's packed form, in the store. An image's layer stays as
// it is unless opts.Force says otherwise, and where it is with opts.Remote.
func (l *Layer) Pack(ctx context.Context, opts PackOptions) (layout.LayerBlob, error) {
	if l.origin != nil && (!opts.Force || opts.Compression.MediaType(false) == l.origin.blob.Descriptor.MediaType) {
		if opts.Remote {
			return l.origin.blob, nil
		}
		return l.packs.do("as it is", func() (layout.LayerBlob, error) { return l.origin.blob, l.keepOrigin(ctx) })
	}
	return l.packs.do(opts.how(), func() (layout.LayerBlob, error) {
		name := "packed-" + opts.how()
		if b, ok := l.readPacked(name); ok {
			return b, nil
		}
		entries, err := l.stream(ctx)
		if err != nil {
			return layout.LayerBlob{}, err
		}
		release, err := l.s.slot(ctx)
		if err != nil {
			return layout.LayerBlob{}, err
		}
		defer release()
		b, err := l.pack(ctx, entries, opts)
		if err != nil {
			return b, err
		}
		return b, l.remember(name, b)
	})
}

// keepOrigin makes sure that an image's layer is in the store as it is.
func (l *Layer) keepOrigin(ctx context.Context) error {
	desc := l.origin.blob.Descriptor
	if l.s.store.HasDescriptor(desc) {
		return nil
	}
	if l.origin.link != nil {
		return l.origin.link()
	}
	r, err := l.origin.open(ctx)
	if err != nil {
		return err
	}
	defer r.Close()
	w, err := l.s.store.NewHashedBlob() // r verifies
	if err != nil {
		return err
	}
	defer w.Close()
	if _, err := io.Copy(w, r); err != nil {
		return fmt.Errorf("fetch layer %s: %w", desc.Digest, err)
	}
	_, _, err = w.Commit(desc.Digest, desc.Size)
	return err
}

func (l *Layer) pack(ctx context.Context, entries layer.Entries, opts PackOptions) (layout.LayerBlob, error) {
	var none layout.LayerBlob
	if l.origin != nil {
		opts.Epoch = nil // an image's own times are not ours to change
	}
	w, err := l.s.store.NewHashedBlob()
	if err != nil {
		return none, err
	}
	defer w.Close()
	po := layer.PackOptions{Compression: opts.Compression, Epoch: opts.Epoch}
	var out io.Writer = w
	var kept *chunks
	if l.lineage != "" {
		kept = l.s.openChunks(shortHash(l.lineage, opts.how()), w)
		defer kept.close()
		out, po.Chunks = kept, kept
	}
	p, err := layer.Pack(ctx, out, entries, po)
	if err != nil {
		return none, fmt.Errorf("pack layer: %w", err)
	}
	dgst, size, err := w.Commit(p.Digest, p.Size)
	if err != nil {
		return none, err
	}
	if kept != nil {
		if err := kept.save(ocispecs.Descriptor{Digest: dgst, Size: size}); err != nil {
			return none, err
		}
	}
	now := time.Now().UTC()
	return layout.LayerBlob{
		Descriptor: ocispecs.Descriptor{MediaType: opts.Compression.MediaType(false), Digest: dgst, Size: size},
		DiffID:     p.DiffID,
		Created:    &now,
	}, nil
}

// stream returns the layer's entries from whichever form there is.
func (l *Layer) stream(ctx context.Context) (layer.Entries, error) {
	if l.plan != nil {
		return l.entries()
	}
	dir, err := l.Dir(ctx)
	if err != nil {
		return nil, err
	}
	if l.s.remembers {
		inodes, err := l.inodes()
		return snapshot.Reveal(layer.Walk(dir), inodes), err
	}
	return layer.Walk(dir), nil
}

func (l *Layer) remember(name string, b layout.LayerBlob) error {
	dt, err := json.Marshal(memo{b.Descriptor, b.DiffID, *b.Created})
	if err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Join(l.s.dir, l.id), 0o700); err != nil {
		return err
	}
	return cache.WriteFile(l.path(name), dt)
}

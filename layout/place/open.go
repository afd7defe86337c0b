package place

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"bk.build/bk/layout"
	"bk.build/bk/layout/remote"
	"bk.build/bk/layout/transfer"
)

// Opener opens places. Its fields are what all of a command's places share.
type Opener struct {
	// Remote speaks to registries.
	Remote *remote.Client
	// Store opens bk's own store.
	Store func() (*layout.Dir, error)
	// StoreFirst makes a bare reference mean the store's image of this name, if
	// there is one. Else it is a registry's.
	StoreFirst bool
}

// A Source is one image in a place that is read from.
type Source struct {
	transfer.Reader
	// Ref is the image's reference, as Resolve takes it.
	Ref string
	// Name is the image's full name, for people and as From of transfer.Options.
	Name string

	close func() error
}

// Image resolves the image.
func (s *Source) Image(ctx context.Context) (ocispec.Descriptor, error) {
	return s.Resolve(ctx, s.Ref)
}

// Close releases what the place holds.
func (s *Source) Close() error {
	if s.close == nil {
		return nil
	}
	return s.close()
}

// Source opens the place of an image to read. The caller closes it.
func (o *Opener) Source(ctx context.Context, text string) (*Source, error) {
	p, err := Parse(text)
	if err != nil {
		return nil, err
	}
	switch p.Kind {
	case Layout:
		return openLayout(p.Rest)
	case Store:
		return o.openStore(p.Rest)
	case Bare:
		if o.StoreFirst {
			return o.storeFirst(ctx, p.Rest)
		}
		return o.openRegistry(p.Rest)
	case Registry:
		return o.openRegistry(p.Rest)
	}
	return nil, fmt.Errorf("image %q: reading from %s is not supported", text, p.Kind)
}

// isLayout says whether a directory is an OCI layout.
func isLayout(path string) bool {
	_, err := os.Lstat(filepath.Join(path, ocispec.ImageLayoutFile))
	return err == nil
}

func openLayout(rest string) (*Source, error) {
	path, ref := cutPath(rest, isLayout)
	dir, err := layout.Open(path)
	if err != nil {
		return nil, err
	}
	return &Source{Reader: transfer.Layout(dir), Ref: ref, Name: "oci:" + rest}, nil
}

func (o *Opener) openStore(ref string) (*Source, error) {
	dir, err := o.Store()
	if err != nil {
		return nil, err
	}
	return &Source{Reader: transfer.Layout(dir), Ref: ref, Name: layout.NormalizeName(ref)}, nil
}

// storeFirst opens the store's image of a name, or the registry's.
func (o *Opener) storeFirst(ctx context.Context, ref string) (*Source, error) {
	s, err := o.openStore(ref)
	if err != nil {
		return nil, err
	}
	_, err = s.Image(ctx)
	if err == nil || !errors.Is(err, fs.ErrNotExist) {
		return s, err
	}
	return o.openRegistry(ref)
}

func (o *Opener) openRegistry(ref string) (*Source, error) {
	return &Source{Reader: registry{o.Remote, layout.NormalizeName(ref)}, Ref: ref, Name: layout.NormalizeName(ref)}, nil
}

// A Target is where one image is written to.
type Target struct {
	// Writer writes there; nil in a place that is written as a whole.
	transfer.Writer
	// Ref is the name that the image gets, as PutManifest takes it.
	Ref string
	// Name is the full name, for people.
	Name string

	close func() error
}

// Close releases what the place holds.
func (t *Target) Close() error {
	if t.close == nil {
		return nil
	}
	return t.close()
}

// Target opens a place to write an image to. The caller closes it.
func (o *Opener) Target(_ context.Context, text string) (*Target, error) {
	p, err := Parse(text)
	if err != nil {
		return nil, err
	}
	switch p.Kind {
	case Layout:
		path, ref := cutPath(p.Rest, isLayout)
		dir, err := layout.Create(path)
		if err != nil {
			return nil, err
		}
		if ref == "" {
			ref = "latest"
		}
		return &Target{Writer: transfer.Layout(dir), Ref: ref, Name: "oci:" + path + ":" + ref, close: tidy(dir)}, nil
	case Store:
		dir, err := o.Store()
		if err != nil {
			return nil, err
		}
		name := layout.NormalizeName(p.Rest)
		return &Target{Writer: transfer.Layout(dir), Ref: name, Name: name}, nil
	}
	return nil, fmt.Errorf("image %q: writing to %s is not supported", text, p.Kind)
}

func tidy(dir *layout.Dir) func() error {
	return func() error { dir.Tidy(); return nil }
}

// Put writes an image, index or artifact of src to the place.
func (t *Target) Put(ctx context.Context, src transfer.Reader, desc ocispec.Descriptor, opts transfer.Options) error {
	return transfer.Copy(ctx, t, src, desc, []string{t.Ref}, opts)
}

package place

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	digest "github.com/opencontainers/go-digest"
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
	// Getenv gives environment variables: DOCKER_HOST, CONTAINERD_ADDRESS,
	// CONTAINERD_NAMESPACE.
	Getenv func(string) string
	// Stdout is where an archive called "-" goes.
	Stdout io.Writer
	// StoreFirst makes a bare reference mean the store's image of this name. Only
	// one that names a registry, and is not in the store, is the registry's.
	StoreFirst bool
}

// A Source is one image in a place that is read from.
type Source struct {
	// Reader reads the place; it may be able to do more, see package transfer.
	Reader transfer.Reader
	// Ref is the image's reference, as Resolve takes it.
	Ref string
	// Name is the image's full name, for people and as From of transfer.Options.
	Name string

	at    Place // without the reference
	close func() error
}

// Beside returns the place of another name beside the image: a tag in the same
// repository or layout, or a whole reference where the place has such.
func (s *Source) Beside(name string) (Place, error) {
	switch s.at.Kind {
	case Layout:
		return Place{Layout, s.at.Rest + ":" + name}, nil
	case Store:
		return Place{Store, name}, nil
	case Registry:
		if strings.ContainsAny(name, "/:") {
			return Place{Registry, name}, nil
		}
		return Place{Registry, repositoryOf(s.Name) + ":" + name}, nil
	}
	return Place{}, fmt.Errorf("%s: an image there has no other names", s.Name)
}

// Image resolves the image.
func (s *Source) Image(ctx context.Context) (ocispec.Descriptor, error) {
	return s.Reader.Resolve(ctx, s.Ref)
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
	case OCIArchive, DockerArchive:
		return openArchive(ctx, p)
	case DockerDaemon:
		return o.openDaemon(p)
	case Containerd:
		return o.openContainerd(ctx, p)
	case Dir:
		return openDirectory(p)
	}
	return o.openRegistry(p.Rest)
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
	return &Source{Reader: transfer.Layout(dir), Ref: ref, Name: "oci:" + rest, at: Place{Layout, path}}, nil
}

func (o *Opener) openStore(ref string) (*Source, error) {
	dir, err := o.Store()
	if err != nil {
		return nil, err
	}
	return &Source{Reader: transfer.Layout(dir), Ref: ref, Name: layout.NormalizeName(ref), at: Place{Kind: Store}}, nil
}

// storeFirst opens the store's image of a name, or the registry's.
func (o *Opener) storeFirst(ctx context.Context, ref string) (*Source, error) {
	s, err := o.openStore(ref)
	if err != nil {
		return nil, err
	}
	_, err = s.Image(ctx)
	if err == nil || !errors.Is(err, fs.ErrNotExist) || !NamesRegistry(ref) {
		return s, nil // an error comes again when the image is resolved
	}
	return o.openRegistry(ref)
}

// NamesRegistry says whether a reference begins with a registry.
func NamesRegistry(ref string) bool {
	host, _, ok := strings.Cut(ref, "/")
	return ok && (strings.ContainsAny(host, ".:") || host == "localhost")
}

func (o *Opener) openRegistry(ref string) (*Source, error) {
	repo, id, err := o.Remote.Repository(ref)
	if err != nil {
		return nil, err
	}
	return &Source{Reader: repo, Ref: id, Name: fullName(repo.Name(), id), at: Place{Kind: Registry}}, nil
}

// fullName is the name of a tag or digest in a repository.
func fullName(repository, id string) string {
	if strings.Contains(id, ":") {
		return repository + "@" + id
	}
	return repository + ":" + id
}

// Images opens a place and lists the images in it, by name, each with the
// annotations of an entry of index.json. An empty text is the store, and a kind
// whose images all have names ("containerd:") needs no reference. The caller
// closes the Source.
func (o *Opener) Images(ctx context.Context, text string) (*Source, []ocispec.Descriptor, error) {
	var s *Source
	var err error
	switch text {
	case "", "store:":
		s, err = o.openStore("")
	case "containerd:":
		s, err = o.openContainerd(ctx, Place{Kind: Containerd})
	default:
		var p Place
		if p, err = Parse(text); err == nil && (p.Kind == Bare || p.Kind == Registry || p.Kind == DockerDaemon) {
			err = fmt.Errorf("%s: the images there cannot be listed", text)
		}
		if err == nil {
			s, err = o.Source(ctx, text)
		}
	}
	if err != nil {
		return nil, nil, err
	}
	list, err := s.images(ctx)
	if err != nil {
		s.Close()
		return nil, nil, err
	}
	return s, list, nil
}

// images lists what is in the place.
func (s *Source) images(ctx context.Context) ([]ocispec.Descriptor, error) {
	if d, ok := s.Reader.(*transfer.Dir); ok {
		return d.Entries()
	}
	var tags []string
	if l, ok := s.Reader.(transfer.Lister); ok {
		var err error
		if tags, err = l.Tags(ctx); err != nil {
			return nil, err
		}
	}
	if len(tags) == 0 {
		tags = []string{""}
	}
	var list []ocispec.Descriptor
	for _, tag := range tags {
		desc, err := s.Reader.Resolve(ctx, tag)
		if err != nil {
			return nil, err
		}
		list = append(list, layout.NamedDescriptor(tag, desc))
	}
	return list, nil
}

// Remove removes an image's name; in a registry, of a digest, the manifest. A bare
// reference is the store's, whatever StoreFirst says: nothing far away is removed
// by accident.
func (o *Opener) Remove(ctx context.Context, text string) error {
	p, err := Parse(text)
	if err != nil {
		return err
	}
	switch p.Kind {
	case Bare, Store:
		dir, err := o.Store()
		if err != nil {
			return err
		}
		return dir.RemoveRef(p.Rest)
	case Layout:
		path, ref := cutPath(p.Rest, isLayout)
		dir, err := layout.Open(path)
		if err != nil {
			return err
		}
		return dir.RemoveRef(ref)
	case Registry:
		repo, id, err := o.Remote.Repository(p.Rest)
		if err != nil {
			return err
		}
		return repo.Delete(ctx, id)
	}
	return fmt.Errorf("remove %s: that place has no names that could be removed", text)
}

// A Target is where one image is written to.
type Target struct {
	// Writer writes there; nil in a place that is written as a whole. It may be
	// able to do more, see package transfer.
	Writer transfer.Writer
	// Ref is the name that the image gets, as PutManifest takes it; empty: none,
	// it is found by its digest.
	Ref string
	// Name is the full name, for people.
	Name string
	// Stream says that the place is Opener.Stdout.
	Stream bool

	put        func(context.Context, transfer.Reader, ocispec.Descriptor, transfer.Options) error // instead of Writer
	repository string                                                                             // of places that have such
	want       digest.Digest                                                                      // that the image must have; empty: any
	close      func() error
}

// Close releases what the place holds.
func (t *Target) Close() error {
	if t.close == nil {
		return nil
	}
	return t.close()
}

// Target opens a place to write an image to. The caller closes it.
func (o *Opener) Target(ctx context.Context, text string) (*Target, error) {
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
	case Registry, Bare:
		return o.registryTarget(p.Rest)
	case Store:
		dir, err := o.Store()
		if err != nil {
			return nil, err
		}
		name := layout.NormalizeName(p.Rest)
		return &Target{Writer: transfer.Layout(dir), Ref: name, Name: name, repository: repositoryOf(name)}, nil
	}
	return o.otherTarget(ctx, p)
}

// registryTarget is a tag in a repository, or a digest, which the content must
// have.
func (o *Opener) registryTarget(ref string) (*Target, error) {
	repo, id, err := o.Remote.Repository(ref)
	if err != nil {
		return nil, err
	}
	t := &Target{Writer: repo, Ref: id, Name: fullName(repo.Name(), id), repository: repo.Name()}
	if dg, err := digest.Parse(id); err == nil {
		t.Ref, t.want = "", dg
	}
	return t, nil
}

// repositoryOf returns a full name without its tag and digest.
func repositoryOf(name string) string {
	name, _, _ = strings.Cut(name, "@")
	if i := strings.LastIndex(name, ":"); i > strings.LastIndex(name, "/") {
		name = name[:i]
	}
	return name
}

func tidy(dir *layout.Dir) func() error {
	return func() error { dir.Tidy(); return nil }
}

// Repository returns the image's name without its tag, of places that have such.
func (t *Target) Repository() string { return t.repository }

// At returns what the place now has, for machines: NAME@DIGEST of a registry and
// of the store, else the digest.
func (t *Target) At(dg digest.Digest) string {
	if t.repository == "" {
		return dg.String()
	}
	return t.repository + "@" + dg.String()
}

// Put writes an image, index or artifact of src to the place.
func (t *Target) Put(ctx context.Context, src transfer.Reader, desc ocispec.Descriptor, opts transfer.Options) error {
	if t.want != "" && t.want != desc.Digest {
		return fmt.Errorf("copy to %s: the image has digest %s", t.Name, desc.Digest)
	}
	if t.put != nil {
		return t.put(ctx, src, desc, opts)
	}
	return transfer.Copy(ctx, t.Writer, src, desc, []string{t.Ref}, opts)
}

package artifact

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"hash"
	"io"
	"io/fs"
	"maps"
	"os"
	"runtime"
	"time"

	digest "github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sync/errgroup"

	"bk.build/bk/layout"
	"bk.build/bk/layout/transfer"
)

// DefaultType is the artifact type of what nobody has given one; oras has the
// same.
const DefaultType = "application/vnd.unknown.artifact.v1"

// Media types of files and directories that nobody has given one.
const (
	defaultFileType = "application/octet-stream"
	defaultDirType  = ocispec.MediaTypeImageLayerGzip
)

// Spec is what an artifact is made of.
type Spec struct {
	// ArtifactType; empty: [DefaultType], or none when ConfigType says what the
	// artifact is.
	ArtifactType string
	// Files become layers, in this order. None: one empty layer, as image-spec
	// has it.
	Files []File
	// Config and ConfigType are the configuration and its media type; without a
	// type it is the empty one.
	Config            []byte
	ConfigType        string
	ConfigAnnotations map[string]string
	// Annotations of the manifest.
	Annotations map[string]string
	// Subject is the manifest that the artifact refers to; nil: none.
	Subject *ocispec.Descriptor
	// Epoch is the time of creation, and that of all files in packed directories
	// (SOURCE_DATE_EPOCH); nil: the artifact says none, and files have 1970.
	Epoch *time.Time

	// config makes Config from the layers, for kinds where it depends on them.
	config func([]layerFile) ([]byte, error)
}

// Packed is an artifact whose files were hashed. It is a Reader of it, so that
// transfer.Copy brings it anywhere; "" is its only reference. The files must
// stay as they are: a change is noticed, and fails the copy.
type Packed struct {
	*transfer.Overlay
	// Desc is the manifest's descriptor, with artifactType.
	Desc     ocispec.Descriptor
	Manifest ocispec.Manifest
	files    *files
}

// Pack hashes the files of an artifact, packs directories to temporary files in
// the directory tmp (empty: the system's), and makes the manifest. The caller
// closes the result.
func Pack(ctx context.Context, spec Spec, tmp string) (_ *Packed, err error) {
	if err := spec.check(); err != nil {
		return nil, fmt.Errorf("pack artifact: %w", err)
	}
	f := &files{tmp: tmp, paths: map[digest.Digest]string{}}
	p := &Packed{Overlay: transfer.NewOverlay(f), files: f}
	defer func() {
		if err != nil {
			p.Close()
		}
	}()
	layers, err := f.addAll(ctx, spec)
	if err == nil && spec.config != nil {
		spec.Config, err = spec.config(layers)
	}
	if err != nil {
		return nil, fmt.Errorf("pack artifact: %w", err)
	}
	if err := p.assemble(spec, layers); err != nil {
		return nil, fmt.Errorf("pack artifact: %w", err)
	}
	return p, nil
}

// Close removes temporary files.
func (p *Packed) Close() error { return p.files.close() }

// check refuses what no manifest can say.
func (s Spec) check() error {
	titles := map[string]bool{}
	for _, f := range s.Files {
		if err := checkMediaType("the type of "+f.Path, f.MediaType); err != nil {
			return err
		}
		if f.Title == "" {
			continue
		}
		if err := checkTitle(f.Title); err != nil {
			return fmt.Errorf("title %q: %w", f.Title, err)
		}
		if titles[f.Title] {
			return fmt.Errorf("two files have the title %q", f.Title)
		}
		titles[f.Title] = true
	}
	if len(s.Config) > layout.MaxConfig {
		return fmt.Errorf("the config has %d bytes, at most %d are read", len(s.Config), layout.MaxConfig)
	}
	if s.ConfigType == "" && s.Config != nil {
		return errors.New("the config has no media type")
	}
	return errors.Join(checkMediaType("artifact type", s.ArtifactType), checkMediaType("the config's type", s.ConfigType))
}

// assemble makes the manifest and its config.
func (p *Packed) assemble(spec Spec, layers []layerFile) error {
	empty := p.Add(ocispec.MediaTypeEmptyJSON, []byte("{}"))
	empty.Data = []byte("{}")
	p.Manifest = ocispec.Manifest{
		Versioned:    specs.Versioned{SchemaVersion: 2},
		MediaType:    ocispec.MediaTypeImageManifest,
		ArtifactType: spec.ArtifactType,
		Config:       empty,
		Subject:      subjectOf(spec.Subject),
		Annotations:  spec.annotations(),
	}
	if spec.ConfigType != "" {
		p.Manifest.Config = p.Add(spec.ConfigType, spec.Config)
	} else if spec.ArtifactType == "" {
		p.Manifest.ArtifactType = DefaultType
	}
	p.Manifest.Config.Annotations = spec.ConfigAnnotations
	for _, l := range layers {
		p.Manifest.Layers = append(p.Manifest.Layers, l.desc)
	}
	if len(layers) == 0 {
		p.Manifest.Layers = []ocispec.Descriptor{empty}
	}
	b, err := json.Marshal(p.Manifest)
	if err != nil {
		return err
	}
	if len(b) > layout.MaxManifest {
		return fmt.Errorf("the manifest has %d bytes, at most %d are read", len(b), layout.MaxManifest)
	}
	p.Desc = p.Add(p.Manifest.MediaType, b)
	p.Desc.ArtifactType = cmp.Or(p.Manifest.ArtifactType, p.Manifest.Config.MediaType)
	return nil
}

// subjectOf leaves of a descriptor what identifies the document.
func subjectOf(desc *ocispec.Descriptor) *ocispec.Descriptor {
	if desc == nil {
		return nil
	}
	return &ocispec.Descriptor{MediaType: desc.MediaType, Digest: desc.Digest, Size: desc.Size}
}

func (s Spec) annotations() map[string]string {
	all := maps.Clone(s.Annotations)
	if s.Epoch != nil && all[ocispec.AnnotationCreated] == "" {
		if all == nil {
			all = map[string]string{}
		}
		all[ocispec.AnnotationCreated] = s.Epoch.UTC().Format(time.RFC3339)
	}
	return all
}

// Resolve implements transfer.Reader.
func (p *Packed) Resolve(_ context.Context, ref string) (ocispec.Descriptor, error) {
	if ref != "" {
		return ocispec.Descriptor{}, fmt.Errorf("%q in an artifact that is being pushed: %w", ref, fs.ErrNotExist)
	}
	return p.Desc, nil
}

// files is a Reader of files by their digests.
type files struct {
	tmp   string
	paths map[digest.Digest]string
	made  []string // temporary ones
}

func (f *files) close() error {
	var errs []error
	for _, name := range f.made {
		errs = append(errs, os.Remove(name))
	}
	f.made = nil
	return errors.Join(errs...)
}

// layerFile is a file that is a layer.
type layerFile struct {
	desc   ocispec.Descriptor
	diffID digest.Digest // of a directory: of the tar
	path   string
	temp   bool
}

// addAll hashes or packs all files, several at a time.
func (f *files) addAll(ctx context.Context, spec Spec) ([]layerFile, error) {
	found := make([]layerFile, len(spec.Files))
	g, gctx := errgroup.WithContext(ctx)
	g.SetLimit(runtime.NumCPU())
	for i, file := range spec.Files {
		g.Go(func() (err error) {
			found[i], err = f.layer(gctx, file, spec.Epoch)
			return err
		})
	}
	err := g.Wait()
	for _, l := range found {
		if l.temp {
			f.made = append(f.made, l.path)
		}
		f.paths[l.desc.Digest] = l.path
	}
	return found, err
}

// layer makes the layer of one file. What it has made is in the result after an
// error too.
func (f *files) layer(ctx context.Context, file File, epoch *time.Time) (l layerFile, err error) {
	fi, err := os.Stat(file.Path)
	if err != nil {
		return l, err
	}
	annotations := maps.Clone(file.Annotations)
	if annotations == nil {
		annotations = map[string]string{}
	}
	if file.Title != "" {
		annotations[ocispec.AnnotationTitle] = file.Title
	}
	switch {
	case fi.IsDir():
		l, err = f.directory(ctx, file, epoch, annotations)
	case fi.Mode().IsRegular():
		l.path = file.Path
		l.desc.Digest, l.desc.Size, err = hashFile(ctx, file.Path)
		l.desc.MediaType = cmp.Or(file.MediaType, defaultFileType)
	default:
		err = fmt.Errorf("%s: it is neither a file nor a directory", file.Path)
	}
	if len(annotations) > 0 {
		l.desc.Annotations = annotations
	}
	return l, err
}

// hashFile reads a file for its digest.
func hashFile(ctx context.Context, name string) (digest.Digest, int64, error) {
	in, err := os.Open(name)
	if err != nil {
		return "", 0, err
	}
	defer in.Close()
	h := digest.SHA256.Hash()
	n, err := io.CopyBuffer(struct{ io.Writer }{h}, &contextReader{ctx, in}, make([]byte, 256<<10))
	return digest.NewDigest(digest.SHA256, h), n, err
}

// contextReader ends when its context does.
type contextReader struct {
	ctx context.Context
	r   io.Reader
}

func (r *contextReader) Read(p []byte) (int, error) {
	if r.ctx.Err() != nil {
		return 0, context.Cause(r.ctx)
	}
	return r.r.Read(p)
}

// Resolve implements transfer.Reader.
func (f *files) Resolve(context.Context, string) (ocispec.Descriptor, error) {
	return ocispec.Descriptor{}, fs.ErrNotExist
}

// Open implements transfer.Reader.
func (f *files) Open(_ context.Context, desc ocispec.Descriptor) (io.ReadCloser, error) {
	name, ok := f.paths[desc.Digest]
	if !ok {
		return nil, fmt.Errorf("blob %s of the artifact: %w", desc.Digest, fs.ErrNotExist)
	}
	in, err := os.Open(name)
	if err != nil {
		return nil, err
	}
	return &fileReader{file: in, desc: desc, hash: desc.Digest.Algorithm().Hash()}, nil
}

// fileReader reads a file that was hashed before and verifies that it is still
// the same. After a seek to anywhere but the start it does not.
type fileReader struct {
	file *os.File
	desc ocispec.Descriptor
	hash hash.Hash // nil: not verified
	off  int64
}

func (r *fileReader) Read(p []byte) (int, error) {
	n, err := r.file.Read(p)
	r.off += int64(n)
	if r.hash != nil {
		r.hash.Write(p[:n])
	}
	if err == io.EOF && r.off == r.desc.Size && (r.hash == nil || digest.NewDigest(r.desc.Digest.Algorithm(), r.hash) == r.desc.Digest) {
		return n, io.EOF
	}
	if err == io.EOF || r.off > r.desc.Size {
		err = fmt.Errorf("%s changed while it was read; stop what writes to it and try again", r.file.Name())
	}
	return n, err
}

func (r *fileReader) Seek(off int64, whence int) (int64, error) {
	if whence != io.SeekStart || off < 0 || off > r.desc.Size {
		return 0, fmt.Errorf("seek to %d (from %d) in %d bytes", off, whence, r.desc.Size)
	}
	if _, err := r.file.Seek(off, io.SeekStart); err != nil {
		return 0, err
	}
	r.off, r.hash = off, nil
	if off == 0 {
		r.hash = r.desc.Digest.Algorithm().Hash()
	}
	return off, nil
}

func (r *fileReader) Close() error { return r.file.Close() }

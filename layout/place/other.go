package place

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/containerd/platforms"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"bk.build/bk/layout"
	"bk.build/bk/layout/archive"
	"bk.build/bk/layout/containerd"
	"bk.build/bk/layout/transfer"
)

// stdout is the name of an archive that goes to standard output.
const stdout = "-"

// file writes an archive to a file, or to standard output.
func (o *Opener) file(path string, write func(io.Writer) error) error {
	if path == stdout {
		return write(o.Stdout)
	}
	return archive.File(path, write)
}

// isFile says whether a path exists.
func isFile(path string) bool {
	if path == stdout {
		return true
	}
	_, err := os.Lstat(path)
	return err == nil
}

// openArchive opens an archive of either kind: what it is, its content says.
func openArchive(ctx context.Context, p Place) (*Source, error) {
	path, ref := cutPath(p.Rest, isFile)
	a, err := archive.Open(ctx, path)
	if err != nil {
		return nil, err
	}
	return &Source{Reader: a, Ref: ref, Name: p.String(), close: a.Close}, nil
}

func openDirectory(p Place) (*Source, error) {
	d, err := archive.OpenDirectory(p.Rest)
	if err != nil {
		return nil, err
	}
	return &Source{Reader: d, Name: p.String(), close: d.Close}, nil
}

func (o *Opener) openDaemon(p Place) (*Source, error) {
	d, err := archive.NewDaemon(o.Getenv("DOCKER_HOST"))
	if err != nil {
		return nil, err
	}
	return &Source{Reader: d, Ref: p.Rest, Name: p.String(), close: d.Close}, nil
}

func (o *Opener) openContainerd(ctx context.Context, p Place) (*Source, error) {
	s, err := o.containerd(ctx)
	if err != nil {
		return nil, err
	}
	return &Source{Reader: s, Ref: p.Rest, Name: p.String(), close: s.Close}, nil
}

func (o *Opener) containerd(ctx context.Context) (*containerd.Store, error) {
	return containerd.Open(ctx, o.Getenv("CONTAINERD_ADDRESS"), o.Getenv("CONTAINERD_NAMESPACE"))
}

// otherTarget opens the places that are neither registries nor layouts.
func (o *Opener) otherTarget(ctx context.Context, p Place) (*Target, error) {
	switch p.Kind {
	case OCIArchive:
		path, ref := cutPath(p.Rest, isFile)
		return &Target{Name: p.String(), Stream: path == stdout, put: o.ociArchive(path, names(ref))}, nil
	case DockerArchive:
		path, ref := cutPath(p.Rest, isFile)
		return &Target{Name: p.String(), Stream: path == stdout, put: o.dockerArchive(path, names(ref))}, nil
	case DockerDaemon:
		d, err := archive.NewDaemon(o.Getenv("DOCKER_HOST"))
		if err != nil {
			return nil, err
		}
		return &Target{Name: p.String(), put: dockerDaemon(d, names(layout.NormalizeName(p.Rest))), close: d.Close}, nil
	case Containerd:
		s, err := o.containerd(ctx)
		if err != nil {
			return nil, err
		}
		name := layout.NormalizeName(p.Rest)
		return &Target{Writer: s, Ref: name, Name: p.String(), close: s.Close}, nil
	case Dir:
		d, err := archive.CreateDirectory(p.Rest)
		if err != nil {
			return nil, err
		}
		return &Target{Writer: d, Name: p.String(), close: d.Close}, nil
	}
	return nil, fmt.Errorf("%s: nothing can be written there", p)
}

func names(ref string) []string {
	if ref == "" {
		return nil
	}
	return []string{ref}
}

// putter writes an image to a place that is written as a whole.
type putter = func(context.Context, transfer.Reader, ocispec.Descriptor, transfer.Options) error

// ociArchive streams an image into an archive; one with what refers to it is
// collected first.
func (o *Opener) ociArchive(path string, names []string) putter {
	return func(ctx context.Context, src transfer.Reader, desc ocispec.Descriptor, opts transfer.Options) (err error) {
		if !opts.Referrers {
			return o.file(path, func(w io.Writer) error { return archive.WriteOCI(ctx, w, src, desc, names) })
		}
		if path == stdout {
			return errors.New("copy to oci-archive:-: with referrers an archive is not streamed: name a file")
		}
		w, err := archive.CreateOCI(path)
		if err != nil {
			return err
		}
		defer func() { err = errors.Join(err, w.Close()) }()
		if len(names) == 0 {
			names = []string{""}
		}
		if err := transfer.Copy(ctx, w, src, desc, names, opts); err != nil {
			return err
		}
		return w.Commit(ctx)
	}
}

// errOneImage is what --referrers gets of formats that have no place for them.
var errOneImage = errors.New("the format holds one image and nothing that refers to it: use oci-archive:, or copy without referrers")

func (o *Opener) dockerArchive(path string, names []string) putter {
	return func(ctx context.Context, src transfer.Reader, desc ocispec.Descriptor, opts transfer.Options) error {
		if opts.Referrers {
			return fmt.Errorf("copy to docker-archive:%s: %w", path, errOneImage)
		}
		return o.file(path, func(w io.Writer) error {
			return archive.WriteDocker(ctx, w, src, desc, names, platformOf(ctx, src, desc))
		})
	}
}

func dockerDaemon(d *archive.Daemon, names []string) putter {
	return func(ctx context.Context, src transfer.Reader, desc ocispec.Descriptor, opts transfer.Options) error {
		if opts.Referrers {
			return fmt.Errorf("copy to docker-daemon:%s: %w", names[0], errOneImage)
		}
		return d.Load(ctx, src, desc, names, platformOf(ctx, src, desc))
	}
}

// platformOf is the platform that is taken of several where a format holds one.
// Of a single one it is nil, whatever it is for.
func platformOf(ctx context.Context, src transfer.Reader, desc ocispec.Descriptor) *ocispec.Platform {
	images, err := layout.Images(desc, transfer.Fetch(ctx, src))
	if err != nil || len(images) < 2 {
		return nil
	}
	p := HostPlatform()
	return &p
}

// HostPlatform is this machine's, of containers: Linux on other systems too.
func HostPlatform() ocispec.Platform {
	p := platforms.DefaultSpec()
	if p.OS != "windows" {
		p.OS = "linux"
	}
	return p
}

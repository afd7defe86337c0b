package main

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"strings"

	"github.com/containerd/platforms"
	ocispecs "github.com/opencontainers/image-spec/specs-go/v1"
	"github.com/spf13/pflag"

	"bk.build/bk/builder"
	"bk.build/bk/layout"
	"bk.build/bk/layout/place"
	"bk.build/bk/layout/remote"
	"bk.build/bk/layout/remote/hosts"
	"bk.build/bk/layout/transfer"
)

// placesHelp explains the arguments of commands that take places.
const placesHelp = `An image is named by its place: docker://[HOST/]NAME[:TAG][@DIGEST],
oci:DIR[:REF], oci-archive:FILE[:REF], docker-archive:FILE[:REF], dir:DIR,
docker-daemon:REF, containerd:REF or store:REF.`

// lookHelp is for commands that look at an image.
const lookHelp = `
A name alone is the store's; one that begins with a registry and is not in the
store is the registry's.`

// reach are the flags of commands that speak to registries.
type reach struct {
	insecure []string
}

func (r *reach) register(set *pflag.FlagSet) {
	set.StringArrayVar(&r.insecure, "insecure-registry", nil, "reach `HOST[:PORT]` without TLS checks")
}

// remote returns a client of registries, as the flags and registries.conf want
// it.
func (e *env) remote(r *reach) *remote.Client {
	return &remote.Client{
		Insecure: r.insecure, Hosts: e.hosts(), Keychain: e.keychain(),
		State: e.stateDir(), UserAgent: "bk/" + version,
	}
}

// hosts is what registries.conf says.
func (e *env) hosts() *hosts.Config { return hosts.Lazy(hosts.DefaultPaths(e.getenv)) }

// places opens the places of one command and releases what they hold.
type places struct {
	place.Opener
	release []func() error
}

// places returns the opener of a command. With storeFirst a bare reference means
// the store's image, if there is one.
func (e *env) places(r *reach, storeFirst bool) *places {
	p := &places{}
	p.Opener = place.Opener{
		Remote:     e.remote(r),
		Store:      func() (*layout.Dir, error) { return p.store(e) },
		Getenv:     e.getenv,
		Stdout:     e.stdout,
		StoreFirst: storeFirst,
	}
	return p
}

// store opens the store and keeps it from being collected until close.
func (p *places) store(e *env) (*layout.Dir, error) {
	root, err := e.store()
	if err != nil {
		return nil, err
	}
	release, err := builder.Hold(root)
	if err != nil {
		return nil, err
	}
	p.release = append(p.release, release)
	return layout.Create(root)
}

// close ends connections and locks. It is deferred, and adds to the error that
// the command returns.
func (p *places) close(err *error) {
	p.Remote.Close()
	for _, release := range p.release {
		*err = errors.Join(*err, release())
	}
}

// image is a source and what its reference leads to now.
type image struct {
	*place.Source
	desc ocispecs.Descriptor
}

// image opens and resolves the image that an argument names. The caller closes
// it.
func (p *places) image(ctx context.Context, arg string) (*image, error) {
	src, err := p.Source(ctx, arg)
	if err != nil {
		return nil, err
	}
	desc, err := src.Image(ctx)
	if err != nil {
		src.Close()
		return nil, err
	}
	return &image{src, desc}, nil
}

// narrow is image for one platform, if one is given.
func (p *places) narrow(ctx context.Context, arg, platform string) (*image, error) {
	var values []string
	if platform != "" {
		values = []string{platform}
	}
	return p.narrowAll(ctx, arg, values)
}

// narrowAll opens an image and takes the given platforms of it; all without any.
func (p *places) narrowAll(ctx context.Context, arg string, values []string) (*image, error) {
	want, err := parsePlatforms(values)
	if err != nil {
		return nil, err
	}
	img, err := p.image(ctx, arg)
	if err != nil {
		return nil, err
	}
	if img.Reader, img.desc, err = transfer.Narrow(ctx, img.Reader, img.desc, want); err != nil {
		img.Close()
		return nil, fmt.Errorf("%s: %w", arg, err)
	}
	return img, nil
}

// tag gives an image another name in its place and returns it in full. The name
// is a reference there, or a tag beside the image's.
func (p *places) tag(ctx context.Context, from place.Place, name string) (full string, err error) {
	img, err := p.image(ctx, from.String())
	if err != nil {
		return "", err
	}
	defer func() { err = errors.Join(err, img.Close()) }()
	to, err := img.Beside(name)
	if err != nil {
		return "", err
	}
	target, err := p.Target(ctx, to.String())
	if err != nil {
		return "", err
	}
	defer func() { err = errors.Join(err, target.Close()) }()
	return target.Name, target.Put(ctx, img.Reader, img.desc, transfer.Options{})
}

// parsePlatforms parses values of --platform, each of one or several platforms.
func parsePlatforms(values []string) ([]ocispecs.Platform, error) {
	var list []ocispecs.Platform
	for _, value := range values {
		for part := range strings.SplitSeq(value, ",") {
			p, err := platforms.Parse(part)
			if err != nil {
				return nil, fmt.Errorf("platform %q: %w", part, err)
			}
			list = append(list, platforms.Normalize(p))
		}
	}
	return list, nil
}

// stateDir is where transfers that broke off are remembered.
func (e *env) stateDir() string {
	root, err := e.store()
	if err != nil {
		return ""
	}
	return filepath.Join(root, "transfers")
}

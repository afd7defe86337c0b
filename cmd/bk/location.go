package main

import (
	"fmt"
	"strings"

	ocispecs "github.com/opencontainers/image-spec/specs-go/v1"

	"bk.build/bk/layout"
)

// location is a layout and a reference in it, as the command line names them:
// NAME[:TAG] or a digest in the store, or oci:DIR[:REF].
type location struct {
	dir *layout.Dir
	ref string // empty: the only image
}

// locate opens the layout that arg is about.
func (e *env) locate(arg string) (location, error) {
	if path, ok := strings.CutPrefix(arg, "oci:"); ok {
		return openLayout(path)
	}
	root, err := e.store()
	if err != nil {
		return location{}, err
	}
	dir, err := layout.Create(root)
	return location{dir: dir, ref: arg}, err
}

// openLayout opens DIR[:REF]. A directory may have colons of its own: what
// exists as a whole has no REF.
func openLayout(path string) (location, error) {
	dir, err := layout.Open(path)
	if err == nil {
		return location{dir: dir}, nil
	}
	for i := range len(path) {
		if path[i] != ':' || i == 0 {
			continue
		}
		if dir, err := layout.Open(path[:i]); err == nil {
			return location{dir: dir, ref: path[i+1:]}, nil
		}
	}
	return location{}, err
}

// resolve finds the image. Its configuration's digest is a name too.
func (l location) resolve() (ocispecs.Descriptor, error) {
	desc, err := l.dir.Resolve(l.ref)
	if err == nil {
		return desc, nil
	}
	if found, ok := l.byConfig(); ok {
		return found, nil
	}
	return desc, err
}

// byConfig finds an image by the digest of a configuration.
func (l location) byConfig() (ocispecs.Descriptor, bool) {
	if !strings.Contains(l.ref, ":") {
		return ocispecs.Descriptor{}, false
	}
	index, err := l.dir.Index()
	if err != nil {
		return ocispecs.Descriptor{}, false
	}
	for _, desc := range index.Manifests {
		images, err := layout.Images(desc, l.dir.ReadBlob)
		if err != nil {
			continue
		}
		for _, image := range images {
			manifest, err := l.manifest(image)
			if err == nil && manifest.Config.Digest.String() == l.ref {
				return image, true
			}
		}
	}
	return ocispecs.Descriptor{}, false
}

func (l location) manifest(desc ocispecs.Descriptor) (ocispecs.Manifest, error) {
	text, err := l.dir.ReadBlob(desc, layout.MaxManifest)
	if err != nil {
		return ocispecs.Manifest{}, err
	}
	m, err := layout.ParseManifest(desc.MediaType, text)
	if err != nil {
		return m, fmt.Errorf("%s: %w", desc.Digest, err)
	}
	return m, nil
}

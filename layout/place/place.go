// Package place names where images are, for every command alike:
//
//	docker://REF             a registry; REF is [HOST/]NAME[:TAG][@DIGEST]
//	oci:DIR[:REF]            an OCI layout
//	oci-archive:FILE[:REF]   a tar of an OCI layout
//	docker-archive:FILE[:REF]  what docker save writes and docker load reads
//	docker-daemon:REF        the images of a Docker daemon
//	containerd:REF           the images of containerd
//	dir:DIR                  skopeo's directory of files
//	store:REF                bk's own store
//	REF                      a registry, or the store when a command looks there first
//
// [Parse] takes such a text apart; [Opener] opens it as a [Source] to read one
// image from, or a [Target] to write one to.
package place

import (
	"fmt"
	"strings"
)

// Kind is how a place is reached: the text before the first colon.
type Kind string

// The kinds of places.
const (
	Registry      Kind = "docker"
	Layout        Kind = "oci"
	OCIArchive    Kind = "oci-archive"
	DockerArchive Kind = "docker-archive"
	DockerDaemon  Kind = "docker-daemon"
	Containerd    Kind = "containerd"
	Dir           Kind = "dir"
	Store         Kind = "store"
	// Bare is a reference that says nothing of where it leads.
	Bare Kind = ""
)

var kinds = []Kind{Layout, OCIArchive, DockerArchive, DockerDaemon, Containerd, Dir, Store}

// A Place is a parsed text. Rest is what follows the kind: a reference, or a path
// with perhaps a reference behind it, whose parts [Opener] tells apart by what
// exists.
type Place struct {
	Kind Kind
	Rest string
}

// Single says whether the place holds one image: of an index, Put takes this
// machine's.
func (p Place) Single() bool { return p.Kind == DockerArchive || p.Kind == DockerDaemon }

func (p Place) String() string {
	switch p.Kind {
	case Bare:
		return p.Rest
	case Registry:
		return "docker://" + p.Rest
	}
	return string(p.Kind) + ":" + p.Rest
}

// Parse parses a place. It looks at nothing outside of the text.
func Parse(text string) (Place, error) {
	p := split(text)
	switch {
	case text == "":
		return p, fmt.Errorf("the name of an image is empty")
	case strings.ContainsAny(text, "\x00\n"):
		return p, fmt.Errorf("image %q: it contains a control character", text)
	case p.Rest == "":
		return p, fmt.Errorf("image %q: want %s", text, p.Kind.usage())
	case p.Kind == Bare && strings.Contains(p.Rest, "://"):
		scheme, _, _ := strings.Cut(p.Rest, "://")
		return p, fmt.Errorf("image %q: %s:// is no kind of place; there are docker://REF, %s", text, scheme, listKinds())
	case p.Kind == Bare && strings.ContainsAny(p.Rest[:1], "./~"):
		return p, fmt.Errorf("image %q looks like a path: write oci:%s for an OCI layout, oci-archive:%s or docker-archive:%s for a file", text, text, text, text)
	}
	return p, nil
}

func split(text string) Place {
	for _, scheme := range []string{"docker://", "oci://"} { // Helm and Flux say oci://
		if rest, ok := strings.CutPrefix(text, scheme); ok {
			return Place{Registry, rest}
		}
	}
	for _, k := range kinds {
		if rest, ok := strings.CutPrefix(text, string(k)+":"); ok {
			return Place{k, rest}
		}
	}
	return Place{Bare, text}
}

func listKinds() string {
	var list []string
	for _, k := range kinds {
		list = append(list, k.usage())
	}
	return strings.Join(list, ", ")
}

// usage shows how a place of the kind is written.
func (k Kind) usage() string {
	switch k {
	case Layout:
		return "oci:DIR[:REF]"
	case OCIArchive, DockerArchive:
		return string(k) + ":FILE[:REF]"
	case Dir:
		return "dir:DIR"
	case Registry, Bare:
		return "docker://[HOST/]NAME[:TAG][@DIGEST]"
	}
	return string(k) + ":NAME[:TAG]"
}

// cutPath splits PATH[:REF] at the colon where exists says that the path ends,
// or else at the first.
func cutPath(rest string, exists func(string) bool) (path, ref string) {
	if exists(rest) {
		return rest, ""
	}
	first := -1
	for i := range len(rest) {
		if rest[i] != ':' || i == 0 {
			continue
		}
		if exists(rest[:i]) {
			return rest[:i], rest[i+1:]
		}
		if first < 0 {
			first = i
		}
	}
	if first < 0 {
		return rest, ""
	}
	return rest[:first], rest[first+1:]
}

package artifact

import (
	"errors"
	"fmt"
	"path"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"unicode"
	"unicode/utf8"
)

// Annotations of oras on the layer of a directory.
const (
	annotationUnpack = "io.deis.oras.content.unpack" // "true": the layer is a directory, packed
	annotationDigest = "io.deis.oras.content.digest" // of the tar, not compressed
)

// maxTitle bounds a title, in bytes; longer than any path that Linux takes.
const maxTitle = 4096

// File is a file or a directory that becomes a layer.
type File struct {
	// Path is where it is. A symbolic link is followed.
	Path string
	// MediaType of the layer; empty: application/octet-stream, or
	// application/vnd.oci.image.layer.v1.tar+gzip for a directory.
	MediaType string
	// Title is the name that it is pulled as (org.opencontainers.image.title),
	// slash-separated and relative; empty: the layer has none.
	Title string
	// Annotations of the layer, beside those that say what it is.
	Annotations map[string]string
	// Flat puts a directory's files at the top of the tar and leaves oras's
	// annotations out; else they are below the title, as oras has them.
	Flat bool
}

// ParseFile parses the argument FILE[:MEDIATYPE]. What follows the last colon is
// a media type if it has the form of one (RFC 6838, section 4.2). The title is
// the path, which must be one that can be pulled: relative, without "..".
func ParseFile(arg string) (File, error) {
	p, mediaType := CutMediaType(arg)
	if p == "" {
		return File{}, fmt.Errorf("%q names no file: want FILE[:MEDIATYPE]", arg)
	}
	title := path.Clean(filepath.ToSlash(p))
	if err := checkTitle(title); err != nil {
		return File{}, fmt.Errorf("file %q cannot be pulled under this name: %w; go to its directory and name it from there", p, err)
	}
	return File{Path: p, MediaType: mediaType, Title: title}, nil
}

// CutMediaType cuts FILE[:MEDIATYPE] in two.
func CutMediaType(arg string) (file, mediaType string) {
	i := strings.LastIndexByte(arg, ':')
	if i < 0 || !mediaTypes().MatchString(arg[i+1:]) {
		return arg, ""
	}
	return arg[:i], arg[i+1:]
}

var mediaTypes = sync.OnceValue(func() *regexp.Regexp {
	return regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9!#$&^_.+-]{0,126}/[A-Za-z0-9][A-Za-z0-9!#$&^_.+-]{0,126}$`)
})

// checkMediaType refuses what is no media type; empty is none.
func checkMediaType(what, mediaType string) error {
	if mediaType != "" && !mediaTypes().MatchString(mediaType) {
		return fmt.Errorf("%s %q is no media type: want TYPE/SUBTYPE", what, mediaType)
	}
	return nil
}

// checkTitle refuses a name that does not stay below the directory where it is
// pulled to, or that is not printable. "." is that directory itself.
func checkTitle(title string) error {
	switch {
	case title == "":
		return errors.New("it is empty")
	case len(title) > maxTitle:
		return fmt.Errorf("it has more than %d bytes", maxTitle)
	case !utf8.ValidString(title) || strings.ContainsFunc(title, unicode.IsControl):
		return errors.New("it has control characters or is not UTF-8")
	case path.IsAbs(title) || filepath.IsAbs(title):
		return errors.New("it is absolute")
	case path.Clean(title) != title:
		return errors.New("it is not in its shortest form, or has an element that is empty, \".\" or \"..\"")
	case title == ".." || strings.HasPrefix(title, "../"):
		return errors.New("it leaves the directory")
	case !filepath.IsLocal(filepath.FromSlash(title)) || strings.ContainsRune(title, '\\'):
		return errors.New("it is no name of a file on every system")
	}
	return nil
}

// checkLink refuses the target of a symbolic link, which lies at p in a packed
// directory, that could lead out of it: an absolute one, one that climbs above
// it, and one with ".." after a name, which may be a link itself.
func checkLink(p, target string) error {
	if path.IsAbs(target) || filepath.IsAbs(target) {
		return fmt.Errorf("symbolic link %q leads to the absolute path %q", p, target)
	}
	up, rest := 0, target
	for rest == ".." || strings.HasPrefix(rest, "../") {
		up++
		rest = strings.TrimLeft(strings.TrimPrefix(rest, ".."), "/")
	}
	if up > strings.Count(p, "/") {
		return fmt.Errorf("symbolic link %q leads out of its directory, to %q", p, target)
	}
	for _, e := range strings.Split(rest, "/") {
		if e == ".." {
			return fmt.Errorf("symbolic link %q has \"..\" within its target %q, which may lead anywhere", p, target)
		}
	}
	return nil
}

package main

import (
	"errors"
	"fmt"
	"maps"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/tonistiigi/go-csvvalue"

	"bk.build/bk/builder"
)

// Kinds of outputs.
const (
	outImage = "image" // into the store, under its names
	outOCI   = "oci"   // OCI layout, in a tar or a directory
	outTar   = "tar"   // the file tree, in a tar
	outLocal = "local" // the file tree, in a directory
	outNone  = "cacheonly"

	outDocker   = "docker"   // what "docker load" reads
	outRegistry = "registry" // pushed under its names, and not kept in the store
)

// stdout is the destination of an output that goes to standard output.
const stdout = "-"

// output is one place where a build's result goes: a parsed --output.
type output struct {
	kind string
	// dest is a path, or stdout; empty for the store.
	dest string
	// names are full image names, of attribute name.
	names []string
	// dir makes an oci output a directory instead of a tar.
	dir bool
	// split puts each platform's files into a directory of their own; nil:
	// when there are several.
	split *bool
	// keepTimes leaves files' times as they are.
	keepTimes bool
	// push brings an image to the registries of its names; byDigest writes no
	// tags there.
	push, byDigest bool
	// canonical enters the image in the store under NAME@DIGEST too.
	canonical bool
	// insecure reaches the registries without TLS checks.
	insecure bool
	// away leaves the image out of the store's names.
	away   bool
	commit builder.CommitOptions
}

// isImage reports whether the output is an image and not a file tree.
func (o *output) isImage() bool {
	return o.toNames() || o.kind == outOCI || o.kind == outDocker
}

// toNames reports whether the output goes where its names say and has no dest.
func (o *output) toNames() bool { return o.kind == outImage || o.kind == outRegistry }

// parseOutputs parses every value of --output; none means the store.
func parseOutputs(values []string) ([]*output, error) {
	if len(values) == 0 {
		values = []string{"type=image"}
	}
	var outs []*output
	var places []string
	streams := 0
	for _, value := range values {
		o, err := parseOutput(value)
		if err != nil {
			return nil, fmt.Errorf("output %q: %w", value, err)
		}
		switch place := filepath.Clean(o.dest); {
		case o.dest == "": // the store
		case o.dest == stdout:
			streams++
		case slices.Contains(places, place):
			return nil, fmt.Errorf("output %q: another output goes to %s already: give it a dest of its own", value, place)
		default:
			places = append(places, place)
		}
		outs = append(outs, o)
	}
	if streams > 1 {
		return nil, fmt.Errorf("%d outputs go to standard output: give all but one of them a dest", streams)
	}
	return outs, nil
}

// parseOutput parses "DIR", "-" or "type=KIND,KEY=VALUE,...".
func parseOutput(value string) (*output, error) {
	if value == "" {
		return nil, errors.New("want a directory, - or type=KIND")
	}
	fields, err := csvvalue.Fields(value, nil)
	if err != nil {
		return nil, err
	}
	if len(fields) == 1 && !strings.HasPrefix(value, "type=") {
		return plainOutput(value), nil
	}
	attrs, err := keyValues(fields)
	if err != nil {
		return nil, err
	}
	o := &output{kind: attrs["type"]}
	if err := o.checkKind(); err != nil {
		return nil, err
	}
	o.away, o.push = o.kind == outRegistry, o.kind == outRegistry
	delete(attrs, "type")
	for _, key := range slices.Sorted(maps.Keys(attrs)) {
		if err := o.set(key, attrs[key]); err != nil {
			return nil, err
		}
	}
	return o, o.checkDest()
}

func plainOutput(value string) *output {
	if value == stdout {
		return &output{kind: outTar, dest: stdout}
	}
	return &output{kind: outLocal, dest: value}
}

// keyValues makes a map of KEY=VALUE fields. Keys are case-insensitive but for
// annotations.
func keyValues(fields []string) (map[string]string, error) {
	attrs := map[string]string{}
	for _, field := range fields {
		key, value, ok := strings.Cut(field, "=")
		if !strings.HasPrefix(key, "annotation") {
			key = strings.ToLower(strings.TrimSpace(key))
		}
		if !ok || key == "" {
			return nil, fmt.Errorf("field %q: want KEY=VALUE", field)
		}
		if _, twice := attrs[key]; twice {
			return nil, fmt.Errorf("field %q: given twice", key)
		}
		attrs[key] = value
	}
	return attrs, nil
}

func (o *output) checkKind() error {
	switch o.kind {
	case outImage, outRegistry, outOCI, outDocker, outTar, outLocal, outNone:
		return nil
	case "":
		return fmt.Errorf("type is missing: one of image, registry, oci, docker, tar, local, cacheonly")
	}
	return fmt.Errorf("unknown type %q: want image, registry, oci, docker, tar, local or cacheonly", o.kind)
}

// set applies one attribute that the kind knows.
func (o *output) set(key, value string) error {
	known, err := o.setDest(key, value)
	if !known && o.isImage() {
		known, err = o.setImage(key, value)
	}
	if !known && o.toNames() {
		known, err = o.setNames(key, value)
	}
	if !known {
		return fmt.Errorf("type=%s has no attribute %q", o.kind, key)
	}
	return err
}

// setDest applies the attributes that say where an output goes.
func (o *output) setDest(key, value string) (known bool, err error) {
	files := o.kind == outTar || o.kind == outLocal
	switch {
	case key == "dest" && !o.toNames() && o.kind != outNone:
		o.dest = value
	case key == "tar" && o.kind == outOCI:
		archive, err := parseBool(key, value)
		o.dir = !archive
		return true, err
	case key == "platform-split" && files:
		split, err := parseBool(key, value)
		o.split = &split
		return true, err
	case key == "rewrite-timestamp" && o.kind != outNone:
		rewrite, err := parseBool(key, value)
		o.keepTimes = !rewrite
		return true, err
	default:
		return false, nil
	}
	return true, nil
}

// setImage applies the attributes that say how an image is written.
func (o *output) setImage(key, value string) (known bool, err error) {
	c := &o.commit
	switch {
	case key == "name":
		o.names, err = imageNames(strings.Split(value, ","))
	case key == "compression":
		c.Compression.Type, err = parseCompression(value)
	case key == "compression-level":
		c.Compression.Level, err = parseLevel(value)
	case key == "force-compression":
		c.Force, err = parseBool(key, value)
	case key == "oci-mediatypes":
		var oci bool
		oci, err = parseBool(key, value)
		c.DockerTypes = !oci
	case strings.HasPrefix(key, "annotation"):
		err = o.annotate(key, value)
	default:
		return false, nil
	}
	return true, err
}

// setNames applies the attributes of an image that goes where its names say.
func (o *output) setNames(key, value string) (known bool, err error) {
	on, err := parseBool(key, value)
	switch key {
	case "push":
		o.push = on
	case "push-by-digest":
		o.byDigest = on
	case "name-canonical":
		o.canonical = on
	case "registry.insecure":
		o.insecure = on
	case "store":
		o.away = !on
	default:
		return false, nil
	}
	return true, err
}

// annotate adds an annotation by its BuildKit attribute.
func (o *output) annotate(key, value string) error {
	if err := checkAnnotation(key); err != nil {
		return err
	}
	if o.commit.Annotations == nil {
		o.commit.Annotations = map[string]string{}
	}
	o.commit.Annotations[key] = value
	return nil
}

// checkDest supplies defaults and refuses what cannot be written.
func (o *output) checkDest() error {
	switch o.kind {
	case outRegistry:
		if !o.push {
			return fmt.Errorf("type=registry pushes: use type=image for push=false")
		}
	case outLocal:
		if o.dest == "" || o.dest == stdout {
			return fmt.Errorf("type=local needs dest=DIR")
		}
	case outOCI, outDocker, outTar:
		if o.dest == "" {
			o.dest = stdout
		}
		if o.dir && o.dest == stdout {
			return fmt.Errorf("tar=false needs dest=DIR")
		}
	}
	return o.checkLevel()
}

func (o *output) checkLevel() error {
	c := o.commit.Compression
	if c.Level == nil {
		return nil
	}
	limit := map[string]int{"": 9, "gzip": 9, "zstd": 22}[c.Type]
	if *c.Level < 0 || *c.Level > limit {
		return fmt.Errorf("compression-level %d: %s has levels 0 to %d", *c.Level, orDefault(c.Type, "gzip"), limit)
	}
	return nil
}

func orDefault(s, def string) string {
	if s == "" {
		return def
	}
	return s
}

func parseCompression(value string) (string, error) {
	switch value {
	case "gzip", "zstd", "uncompressed":
		return value, nil
	}
	return "", fmt.Errorf("compression %q: must be gzip, zstd or uncompressed", value)
}

func parseLevel(value string) (*int, error) {
	n, err := strconv.Atoi(value)
	if err != nil {
		return nil, fmt.Errorf("compression-level %q: must be a number", value)
	}
	return &n, nil
}

func parseBool(key, value string) (bool, error) {
	v, err := strconv.ParseBool(value)
	if err != nil {
		return false, fmt.Errorf("%s %q: must be true or false", key, value)
	}
	return v, nil
}

package main

import (
	"fmt"
	"strings"

	"github.com/distribution/reference"
	"github.com/moby/buildkit/exporter/containerimage/exptypes"
)

// imageNames writes tags in full: "app" is "docker.io/library/app:latest".
func imageNames(tags []string) ([]string, error) {
	var names []string
	for _, tag := range tags {
		named, err := reference.ParseNormalizedNamed(tag)
		if err != nil {
			return nil, fmt.Errorf("tag %q: %w", tag, err)
		}
		if _, ok := named.(reference.Digested); ok {
			return nil, fmt.Errorf("tag %q: a name for a new image cannot have a digest", tag)
		}
		names = append(names, reference.TagNameOnly(named).String())
	}
	return names, nil
}

// annotations translates values of --annotation, "[LEVEL[,LEVEL]:]KEY=VALUE", to
// BuildKit's exporter attributes. A LEVEL is manifest (the default), index,
// manifest-descriptor or index-descriptor, with [PLATFORM] after those of a
// manifest.
func annotations(values []string) (map[string]string, error) {
	attrs := map[string]string{}
	for _, v := range values {
		key, value, ok := strings.Cut(v, "=")
		if !ok || key == "" {
			return nil, fmt.Errorf("annotation %q: want [LEVEL:]KEY=VALUE", v)
		}
		levels, name, ok := cutLevels(key)
		if !ok {
			levels, name = "manifest", key
		}
		for level := range strings.SplitSeq(levels, ",") {
			attr := "annotation-" + level + "." + name
			if err := checkAnnotation(attr); err != nil {
				return nil, fmt.Errorf("annotation %q: %w", v, err)
			}
			attrs[attr] = value
		}
	}
	return attrs, nil
}

// cutLevels cuts a key at the colon after its levels; a key may have colons of
// its own.
func cutLevels(key string) (levels, name string, ok bool) {
	levels, name, ok = strings.Cut(key, ":")
	first, _, _ := strings.Cut(levels, ",")
	first, _, _ = strings.Cut(first, "[")
	switch first {
	case exptypes.AnnotationManifest, exptypes.AnnotationManifestDescriptor,
		exptypes.AnnotationIndex, exptypes.AnnotationIndexDescriptor:
		return levels, name, ok
	}
	return "", key, false
}

// checkAnnotation refuses an attribute that names no level or no key.
func checkAnnotation(attr string) error {
	_, ok, err := exptypes.ParseAnnotationKey(attr)
	if err != nil {
		return fmt.Errorf("%q: %w", attr, err)
	}
	if !ok {
		return fmt.Errorf("%q: want annotation[-LEVEL][[PLATFORM]].KEY", attr)
	}
	return nil
}

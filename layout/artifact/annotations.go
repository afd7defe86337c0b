package artifact

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"strings"
	"unicode/utf8"
)

// Keys of an annotation file that are no titles.
const (
	annotateManifest = "$manifest"
	annotateConfig   = "$config"
)

// Annotate adds the annotations of an annotation file, in oras's format: a JSON
// object of objects, whose keys are "$manifest", "$config" and titles of files.
//
//	{"$manifest": {"k": "v"}, "app.json": {"k": "v"}}
//
// A key that names no file is an error, as it is most likely misspelt.
func (s *Spec) Annotate(b []byte) error {
	all, err := parseAnnotations(b)
	if err != nil {
		return fmt.Errorf("parse annotation file: %w", err)
	}
	s.Annotations = merge(s.Annotations, all[annotateManifest])
	s.ConfigAnnotations = merge(s.ConfigAnnotations, all[annotateConfig])
	delete(all, annotateManifest)
	delete(all, annotateConfig)
	for i := range s.Files {
		f := &s.Files[i]
		f.Annotations = merge(f.Annotations, all[f.Title])
		delete(all, f.Title)
	}
	for key := range all {
		return fmt.Errorf("annotation file: %q names no file of the artifact", key)
	}
	return nil
}

func merge(m, more map[string]string) map[string]string {
	if len(more) == 0 {
		return m
	}
	m = maps.Clone(m)
	if m == nil {
		m = map[string]string{}
	}
	maps.Copy(m, more)
	return m
}

func parseAnnotations(b []byte) (map[string]map[string]string, error) {
	if !utf8.Valid(b) {
		return nil, fmt.Errorf("it is not UTF-8")
	}
	dec := json.NewDecoder(bytes.NewReader(b))
	all := map[string]map[string]string{}
	if err := dec.Decode(&all); err != nil {
		return nil, fmt.Errorf("want an object of objects of strings: %w", err)
	}
	if _, err := dec.Token(); err != io.EOF {
		return nil, fmt.Errorf("it has more than one object")
	}
	for _, m := range all {
		for key := range m {
			if strings.TrimSpace(key) == "" {
				return nil, fmt.Errorf("an annotation without a key")
			}
		}
	}
	return all, nil
}

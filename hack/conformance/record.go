//go:build linux

package main

import (
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// A record is what buildkitd made of a case, kept in the corpus as CASE.json.
// What came with the base image is left out and added again from the base on
// the machine that reads the record, so it outlives the base's next release.
type record struct {
	Index  bool                   `json:"index,omitempty"`
	Images map[string]imageRecord `json:"images"`
}

type imageRecord struct {
	Base    string            `json:"base,omitempty"` // "busybox linux/amd64"
	Config  map[string]any    `json:"config"`
	History []ocispec.History `json:"history"` // with the base's
	Layers  int               `json:"layers"`  // without the base's
	Files   map[string]string `json:"files"`   // new and changed
	Gone    []string          `json:"gone,omitempty"`
}

// baseImages are the base images of this machine.
type baseImages struct {
	images  map[string]*image // "busybox linux/amd64"
	content content
}

// loadBases reads the bases that are there.
func loadBases(dir string) (*baseImages, error) {
	b := &baseImages{images: map[string]*image{}, content: content{}}
	for _, name := range baseNames {
		r, err := load(filepath.Join(dir, name), nil)
		if os.IsNotExist(err) {
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("base %s: %w", name, err)
		}
		for platform, img := range r.images {
			id := name + " " + platform
			b.images[id] = img
			for _, p := range slices.Sorted(maps.Keys(img.tree.nodes)) {
				n := img.tree.nodes[p]
				if _, ok := b.content[n.sum]; !ok {
					b.content[n.sum] = id + " /" + p
				}
			}
		}
	}
	for _, img := range b.images {
		img.files = img.tree.lines(b.content)
	}
	return b, nil
}

// of finds the base that an image was built on: the one with the most of the
// image's first layers.
func (b *baseImages) of(img *image) (string, *image) {
	id, best := "", &image{}
	for _, name := range slices.Sorted(maps.Keys(b.images)) {
		base := b.images[name]
		if n := len(base.diffIDs); n > len(best.diffIDs) && startsWith(img.diffIDs, base.diffIDs) {
			id, best = name, base
		}
	}
	return id, best
}

func startsWith(list, prefix []digest.Digest) bool {
	return len(list) >= len(prefix) && slices.Equal(list[:len(prefix)], prefix)
}

func recordName(corpus, name string) string { return filepath.Join(corpus, name+".json") }

// record writes the result of a case, unless it says nothing on another
// machine: it varies, or it is made of the packages of a distribution.
func (c *testCase) record(corpus string, r *result, bases *baseImages) error {
	if c.wantError != "" || c.varies {
		return nil
	}
	rec := record{Index: r.index, Images: map[string]imageRecord{}}
	for platform, img := range r.images {
		id, base := bases.of(img)
		ir := imageRecord{Base: id, Config: img.config, History: img.history, Layers: img.layers - base.layers, Files: map[string]string{}}
		for i := range ir.History {
			ir.History[i].Created = nil
		}
		for p, line := range img.files {
			if base.files[p] != line {
				ir.Files[p] = line
			}
		}
		for p := range base.files {
			if _, ok := img.files[p]; !ok {
				ir.Gone = append(ir.Gone, p)
			}
		}
		slices.Sort(ir.Gone)
		rec.Images[platform] = ir
	}
	data, err := json.MarshalIndent(rec, "", "\t")
	if err != nil {
		return err
	}
	return os.WriteFile(recordName(corpus, c.name), append(data, '\n'), 0o644)
}

// recorded reads a record back, on top of this machine's bases.
func (c *testCase) recorded(corpus string, bases *baseImages) (*result, error) {
	var rec record
	if err := readJSON(recordName(corpus, c.name), &rec); err != nil {
		return nil, err
	}
	r := &result{index: rec.Index, images: map[string]*image{}}
	for platform, ir := range rec.Images {
		base := &image{}
		if ir.Base != "" {
			if base = bases.images[ir.Base]; base == nil {
				return nil, fmt.Errorf("%s: no base %s on this machine", c.name, ir.Base)
			}
		}
		img := &image{config: ir.Config, history: ir.History, layers: ir.Layers + base.layers, files: map[string]string{}}
		maps.Copy(img.files, base.files)
		for _, p := range ir.Gone {
			delete(img.files, p)
		}
		maps.Copy(img.files, ir.Files)
		r.images[platform] = img
	}
	return r, nil
}

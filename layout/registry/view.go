package registry

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// A view is index.json as it was at one time, sorted by repository and tag.
type view struct {
	entries []ocispec.Descriptor
	tags    map[string]map[string]ocispec.Descriptor // repository -> tag -> what it leads to
	listed  []string                                 // repositories that are not aliases, sorted
}

// viewCache keeps the latest view as long as index.json stays the same file.
type viewCache struct {
	mu   sync.Mutex
	file fs.FileInfo
	read time.Time
	view *view
}

// racy is how long after a change another change may leave the file with the
// same number, size and time: clocks of file systems tick slowly.
const racy = 50 * time.Millisecond

// current returns a view that is not older than the call.
func (r *Registry) current() (*view, error) {
	c := &r.view
	c.mu.Lock()
	defer c.mu.Unlock()
	file, err := os.Lstat(filepath.Join(r.dir.Path(), ocispec.ImageIndexFile))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	if c.view != nil && c.fresh(file) {
		return c.view, nil
	}
	now := time.Now()
	index, err := r.dir.Index()
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	c.file, c.read, c.view = file, now, r.names.sort(index.Manifests)
	return c.view, nil
}

// fresh says whether the file is certainly the one that the view was read from.
func (c *viewCache) fresh(file fs.FileInfo) bool {
	return file != nil && c.file != nil && os.SameFile(file, c.file) &&
		file.Size() == c.file.Size() && file.ModTime().Equal(c.file.ModTime()) &&
		c.read.Sub(file.ModTime()).Abs() > racy
}

// sort makes a view. Of several entries that are one tag the last counts.
func (n names) sort(entries []ocispec.Descriptor) *view {
	v := &view{entries: entries, tags: map[string]map[string]ocispec.Descriptor{}}
	for _, e := range entries {
		for _, p := range n.places(e) {
			tags := v.tags[p.repo]
			if tags == nil {
				tags = map[string]ocispec.Descriptor{}
				v.tags[p.repo] = tags
			}
			tags[p.tag] = e
			if !p.alias {
				v.listed = append(v.listed, p.repo)
			}
		}
	}
	slices.Sort(v.listed)
	v.listed = slices.Compact(v.listed)
	return v
}

// Tag is a tag that can be pulled.
type Tag struct {
	Repository, Tag string
	Descriptor      ocispec.Descriptor
}

// Tags returns what can be pulled by a tag now, sorted by repository and tag,
// without aliases.
func (r *Registry) Tags() ([]Tag, error) {
	v, err := r.current()
	if err != nil {
		return nil, err
	}
	var list []Tag
	for _, repo := range v.listed {
		for _, tag := range sortedKeys(v.tags[repo]) {
			list = append(list, Tag{repo, tag, v.tags[repo][tag]})
		}
	}
	return list, nil
}

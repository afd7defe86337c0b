package source

import (
	"io"
	"maps"
	"slices"
	"strings"

	"bk.build/bk/layout/layer"
)

func (l *Local) loadIndex() {
	if l.opts.Index != "" {
		l.index = openIndex(indexPath(l.opts.Index, l.name))
	}
}

// Save writes the digest index if a scan found something that it did not have.
// What other builds of the same directory wrote meanwhile, and what this build
// did not look at, is kept.
func (l *Local) Save() error {
	if l.opts.Index == "" || !l.changed.Swap(false) {
		return nil
	}
	l.scanning.Lock()
	defer l.scanning.Unlock()
	dirs := l.root.all(nil)
	slices.SortFunc(dirs, func(a, b *dir) int { return strings.Compare(a.path, b.path) })
	fresh := func(yield func(dirRecords) bool) {
		var r dirRecords
		for _, d := range dirs {
			if r = d.records(r.files[:0], l.today); len(r.files) > 0 && !yield(r) {
				return
			}
		}
	}
	name := indexPath(l.opts.Index, l.name)
	old := openIndex(name)
	defer old.close()
	return writeIndex(name, func(w io.WriteSeeker) error { return merge(w, old, fresh, l.today) })
}

// known returns the files that the build has seen, sorted. The caller holds
// d.mu.
func (d *dir) known() []*file {
	if d.listed {
		return d.files
	}
	files := slices.Collect(maps.Values(d.single))
	slices.SortFunc(files, func(a, b *file) int { return strings.Compare(a.path, b.path) })
	return files
}

// all appends the directory and those below it.
func (d *dir) all(list []*dir) []*dir {
	d.mu.Lock()
	defer d.mu.Unlock()
	list = append(list, d)
	for _, f := range d.known() {
		if f.dir != nil {
			list = f.dir.all(list)
		}
	}
	return list
}

// records returns what the build knows of the files of a directory, in the
// memory of list.
func (d *dir) records(list []fileRecord, today uint16) dirRecords {
	d.mu.Lock()
	defer d.mu.Unlock()
	r := dirRecords{path: d.path, files: list}
	for _, f := range d.known() {
		if f.dir == nil && f.state.Load() == hashed && f.typ == layer.Regular && !f.unsure {
			r.files = append(r.files, fileRecord{f.name(), record{id: f.id, sum: f.sum, day: today}})
		}
	}
	return r
}

package source

import (
	"slices"
	"strings"

	"bk.build/bk/layout/layer"
)

func (l *Local) loadIndex() {
	if l.opts.Index != "" {
		l.index = readIndex(indexPath(l.opts.Index, l.name))
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
	fresh := l.root.records(nil, l.today)
	slices.SortFunc(fresh, func(a, b dirRecords) int { return strings.Compare(a.path, b.path) })
	name := indexPath(l.opts.Index, l.name)
	return writeIndex(name, merge(readIndex(name), fresh, l.today))
}

// records appends what the build knows of a directory and those below it.
func (d *dir) records(list []dirRecords, today uint16) []dirRecords {
	d.mu.Lock()
	defer d.mu.Unlock()
	files := d.files
	if !d.listed {
		for _, f := range d.single {
			files = append(files, f)
		}
		slices.SortFunc(files, func(a, b *file) int { return strings.Compare(a.entry.Path, b.entry.Path) })
	}
	r := dirRecords{path: d.path}
	for _, f := range files {
		switch {
		case f.dir != nil:
			list = f.dir.records(list, today)
		case f.state.Load() == hashed && f.entry.Type == layer.Regular && !f.unsure:
			r.files = append(r.files, fileRecord{f.name(), record{id: f.id, sum: f.sum, day: today}})
		}
	}
	if len(r.files) > 0 {
		list = append(list, r)
	}
	return list
}

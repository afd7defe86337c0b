package builder

import (
	"path/filepath"
	"slices"

	"bk.build/bk/builder/cache"
	"bk.build/bk/layout/layer"
	"bk.build/bk/runner"
	"bk.build/bk/runner/ids"
)

// inodesFile is the name of the record of what is remembered of a layer's
// symbolic links and FIFOs.
func (s *layers) inodesFile() string { return s.fs + ".ids" }

// inodes reads the record.
func (l *Layer) inodes() (ids.Record, error) { return ids.ReadRecord(l.path(l.s.inodesFile())) }

// applying returns how layers are unpacked, and the record that is filled by
// it; nil where owners are written.
func (s *layers) applying() (layer.ApplyOptions, ids.Record) {
	if !s.remembers {
		return layer.ApplyOptions{}, nil
	}
	record := ids.Record{}
	return layer.ApplyOptions{RememberAttr: ids.Attr, Remember: func(fd int, path string, e *layer.Entry) error {
		i := inodeOf(e)
		if fd < 0 {
			record.Set(path, i)
			return nil
		}
		delete(record, path)
		if i.Plain() && e.Type != layer.Directory {
			return nil // a new file
		}
		return ids.Set(fd, i)
	}}, record
}

// inodeOf returns what is remembered of an entry.
func inodeOf(e *layer.Entry) ids.Inode {
	i := ids.Inode{UID: uint32(e.UID), GID: uint32(e.GID)}
	switch e.Type {
	case layer.Char:
		i.Device, i.Major, i.Minor = 'c', e.DevMajor, e.DevMinor
	case layer.Block:
		i.Device, i.Major, i.Minor = 'b', e.DevMajor, e.DevMinor
	}
	return i
}

// loadLinks tells the runner what is remembered of the symbolic links and FIFOs
// in the layers that the step sees.
func (s *step) loadLinks(trees map[string]runner.Tree) error {
	if !s.n.b.layers.remembers {
		return nil
	}
	dirs := slices.Clone(s.rootTree.Lower)
	for _, t := range trees {
		dirs = append(dirs, t.Lower...)
	}
	for _, dir := range dirs {
		record, err := ids.ReadRecord(dir + ".ids")
		if err != nil {
			return err
		}
		s.links.Load(dir, record)
	}
	return nil
}

// saveLinks keeps what the step's command made of symbolic links and FIFOs beside
// the upper directory in dir.
func (s *step) saveLinks(dir string) error {
	l := s.n.b.layers
	if !l.remembers {
		return nil
	}
	record, err := s.links.Record(filepath.Join(dir, l.fs))
	if err != nil || len(record) == 0 {
		return err
	}
	return cache.WriteFile(filepath.Join(dir, l.inodesFile()), record.Encode())
}

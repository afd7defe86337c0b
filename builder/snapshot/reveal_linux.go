package snapshot

import (
	"os"
	"strconv"

	"bk.build/bk/layout/layer"
	"bk.build/bk/runner/ids"
)

// RememberedLayer is [DirLayer] of a directory in which owners and devices are
// remembered, see package ids: they are shown as if they were real. inodes are
// those of its symbolic links and FIFOs.
func RememberedLayer(dir string, inodes ids.Record) Layer {
	if inodes == nil {
		inodes = ids.Record{}
	}
	return Layer{&dirLayer{root: dir, notes: layer.OverlayPrefix(), inodes: inodes}}
}

// Reveal returns the entries of such a directory, as [layer.Walk] finds them,
// with what is remembered of them.
func Reveal(entries layer.Entries, inodes ids.Record) layer.Entries {
	return func(yield func(*layer.Entry, error) bool) {
		linked := map[string]*layer.Entry{} // those that hard links may name
		for e, err := range entries {
			if err == nil && e.Type == layer.Hardlink {
				if first := linked[e.Link]; first != nil {
					e.UID, e.GID = first.UID, first.GID
				}
			} else if err == nil && reveal(e, inodes) && e.Type != layer.Directory {
				linked[e.Path] = e
			}
			if !yield(e, err) {
				return
			}
		}
	}
}

// reveal makes an entry what is remembered of it, and reports whether that was
// anything.
func reveal(e *layer.Entry, inodes ids.Record) bool {
	// In no namespace of its own, this process's user stands for root.
	if e.UID == os.Geteuid() {
		e.UID = 0
	}
	if e.GID == os.Getegid() {
		e.GID = 0
	}
	if mode, err := strconv.ParseUint(e.Xattrs[ids.ModeAttr], 8, 12); err == nil {
		e.Mode = uint32(mode)
	}
	if delete(e.Xattrs, ids.ModeAttr); len(e.Xattrs) == 0 {
		e.Xattrs = nil
	}
	var i ids.Inode
	switch e.Type {
	case layer.Symlink, layer.Fifo:
		i = inodes[e.Path]
	case layer.Regular, layer.Directory:
		text, ok := e.Xattrs[ids.Attr]
		if !ok {
			return false
		}
		if delete(e.Xattrs, ids.Attr); len(e.Xattrs) == 0 {
			e.Xattrs = nil
		}
		i, _ = ids.Parse(text) // what makes no sense says nothing
	}
	if i.Plain() {
		return false
	}
	e.UID, e.GID = int(i.UID), int(i.GID)
	if i.Device != 0 && e.Type == layer.Regular && e.Size == 0 {
		e.Type, e.DevMajor, e.DevMinor = layer.Char, i.Major, i.Minor
		if i.Device == 'b' {
			e.Type = layer.Block
		}
	}
	return true
}

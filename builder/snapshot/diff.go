package snapshot

import (
	"bytes"
	"errors"
	"io"
	"maps"

	"bk.build/bk/layout/layer"
)

// Diff returns the layer that makes upper of lower: what was added and what
// changed in any attribute, time or byte, with the directories above it as
// they are in upper, and whiteouts for what is gone. It is empty when the
// trees are the same.
func Diff(lower, upper FS) layer.Entries {
	return func(yield func(*layer.Entry, error) bool) {
		d := differ{lower: lower, upper: upper, first: map[any]string{}}
		d.out = emitter{yield: yield}
		if err := d.run(); err != nil && !errors.Is(err, errStopped) {
			yield(nil, err)
		}
	}
}

// errStopped ends a walk when nobody wants more entries.
var errStopped = errors.New("stopped")

type differ struct {
	lower, upper FS
	out          emitter
	first        map[any]string // upper inode -> the first path that was sent
}

func (d *differ) run() error {
	a, err := stat(d.lower, ".")
	if err != nil {
		return err
	}
	b, err := stat(d.upper, ".")
	if err != nil {
		return err
	}
	return d.path(".", &a, &b)
}

// path compares what is at p; a and b are nil where nothing is.
func (d *differ) path(p string, a, b *child) error {
	switch {
	case b == nil:
		return d.send(&layer.Entry{Path: p, Type: layer.Whiteout})
	case b.ent.Type != layer.Directory:
		return d.file(p, a, b)
	}
	if a != nil && a.ent.Type != layer.Directory {
		a = nil
	}
	if a == nil || !sameAttributes(a.ent, b.ent) {
		if err := d.send(b.ent); err != nil {
			return err
		}
	} else {
		depth := len(d.out.parent)
		d.out.parent = append(d.out.parent, b.ent)
		defer func() { d.out.parent = d.out.parent[:min(depth, len(d.out.parent))] }()
	}
	return d.dir(p, a != nil)
}

// dir compares the names of a directory of upper with lower's, if it has one.
func (d *differ) dir(p string, both bool) error {
	var as []child
	var err error
	if both {
		if as, err = children(d.lower, p); err != nil {
			return err
		}
	}
	bs, err := children(d.upper, p)
	if err != nil {
		return err
	}
	for len(as) > 0 || len(bs) > 0 {
		var a, b *child
		if len(bs) == 0 || len(as) > 0 && as[0].name <= bs[0].name {
			a = &as[0]
		}
		if len(as) == 0 || len(bs) > 0 && bs[0].name <= as[0].name {
			b = &bs[0]
		}
		name := ""
		if a != nil {
			name, as = a.name, as[1:]
		}
		if b != nil {
			name, bs = b.name, bs[1:]
		}
		if err := d.path(join(p, name), a, b); err != nil {
			return err
		}
	}
	return nil
}

// file compares something that is no directory in upper.
func (d *differ) file(p string, a, b *child) error {
	if a != nil && sameAttributes(a.ent, b.ent) {
		same, err := sameContent(a.ent, b.ent)
		if err != nil || same {
			return err
		}
	}
	ent := b.ent
	if b.ino != nil {
		if target, ok := d.first[b.ino]; ok {
			ent = hardlink(ent, target)
		} else {
			d.first[b.ino] = p
		}
	}
	return d.send(ent)
}

func (d *differ) send(ent *layer.Entry) error {
	if !d.out.send(ent) {
		return errStopped
	}
	return nil
}

// sameAttributes compares all but the bytes.
func sameAttributes(a, b *layer.Entry) bool {
	return a.Type == b.Type && a.Mode == b.Mode && a.UID == b.UID && a.GID == b.GID &&
		a.Size == b.Size && a.Link == b.Link && a.DevMajor == b.DevMajor && a.DevMinor == b.DevMinor &&
		a.ModTime.Equal(b.ModTime) && maps.Equal(a.Xattrs, b.Xattrs)
}

// sameContent compares the bytes of files of equal attributes.
func sameContent(a, b *layer.Entry) (bool, error) {
	if a.Type != layer.Regular || a.Size == 0 || a == b {
		return true, nil
	}
	if c, ok := a.Content.(placed); ok && c.samePlace(b.Content) {
		return true, nil
	}
	sumA, okA := a.Content.Digest()
	sumB, okB := b.Content.Digest()
	if okA && okB {
		return sumA == sumB, nil
	}
	ra, err := a.Content.Open()
	if err != nil {
		return false, err
	}
	defer ra.Close()
	rb, err := b.Content.Open()
	if err != nil {
		return false, err
	}
	defer rb.Close()
	return sameBytes(ra, rb)
}

// placed is a Content that may know that another is the same file.
type placed interface{ samePlace(layer.Content) bool }

func sameBytes(a, b io.Reader) (bool, error) {
	bufA, bufB := make([]byte, 64<<10), make([]byte, 64<<10)
	for {
		na, errA := io.ReadFull(a, bufA)
		nb, errB := io.ReadFull(b, bufB)
		if !bytes.Equal(bufA[:na], bufB[:nb]) {
			return false, nil
		}
		for _, err := range [...]error{errA, errB} {
			if err != nil && err != io.EOF && err != io.ErrUnexpectedEOF {
				return false, err
			}
		}
		if errA != nil || errB != nil {
			return errA != nil && errB != nil, nil
		}
	}
}

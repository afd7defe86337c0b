package artifact

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"strings"

	digest "github.com/opencontainers/go-digest"

	"bk.build/bk/layout/layer"
)

// unpack writes the directory of a packed layer at name, which is not there, and
// verifies the layer and the tar.
func unpack(in io.Reader, root *os.Root, name string, p planned) error {
	want, err := tarDigest(p.Desc)
	if err != nil {
		return err
	}
	if err := root.Mkdir(name, 0o777); err != nil {
		return err
	}
	dir, err := root.OpenRoot(name)
	if err != nil {
		return err
	}
	defer dir.Close()
	plain, err := layer.Decompress(in)
	if err != nil {
		return err
	}
	defer plain.Close()
	verify := digest.Canonical.Hash()
	if want != "" {
		verify = want.Algorithm().Hash()
	}
	u := &unpacker{root: dir, prefix: p.prefix, kinds: map[string]layer.Type{".": layer.Directory}}
	for e, err := range layer.Read(io.TeeReader(plain, verify), layer.Limits{}) {
		if err != nil {
			return err
		}
		if err := u.entry(e); err != nil {
			return fmt.Errorf("entry %q: %w", e.Path, err)
		}
	}
	if _, err := io.Copy(io.Discard, in); err != nil { // to its end, where it verifies
		return err
	}
	if want != "" && digest.NewDigest(want.Algorithm(), verify) != want {
		return fmt.Errorf("the tar's digest is not %s, which the layer promises", want)
	}
	return nil
}

// unpacker writes the entries of a tar into a directory of its own. It remembers
// what it has made, so that nothing is written through a link.
type unpacker struct {
	root   *os.Root
	prefix string
	kinds  map[string]layer.Type
}

func (u *unpacker) entry(e *layer.Entry) error {
	name, err := u.rel(e.Path)
	if err != nil {
		return err
	}
	if name == "." {
		if e.Type != layer.Directory {
			return errors.New("the packed directory is no directory")
		}
		return nil
	}
	if err := u.parents(path.Dir(name)); err != nil {
		return err
	}
	perm := fs.FileMode(e.Mode & 0o777)
	switch e.Type {
	case layer.Directory:
		err = u.mkdir(name, perm|0o700)
	case layer.Regular:
		err = u.regular(name, perm, e)
	case layer.Symlink:
		if err = checkLink(name, e.Link); err == nil {
			err = u.replace(name, e.Type, func() error { return u.root.Symlink(e.Link, name) })
		}
	case layer.Hardlink:
		err = u.hardlink(name, e)
	default:
		err = errors.New("it is neither a file, a directory nor a link")
	}
	return err
}

// rel is the name of an entry below the packed directory.
func (u *unpacker) rel(p string) (string, error) {
	if u.prefix == "." || p == u.prefix {
		if p == u.prefix {
			return ".", nil
		}
		return p, nil
	}
	name, ok := strings.CutPrefix(p, u.prefix+"/")
	if !ok {
		return "", fmt.Errorf("it is outside of %q", u.prefix)
	}
	return name, nil
}

// parents makes directories that the tar does not name.
func (u *unpacker) parents(dir string) error {
	switch kind, ok := u.kinds[dir]; {
	case kind == layer.Directory:
		return nil
	case ok:
		return fmt.Errorf("it is below %q, which is no directory", dir)
	}
	if err := u.parents(path.Dir(dir)); err != nil {
		return err
	}
	return u.mkdir(dir, 0o777)
}

func (u *unpacker) mkdir(name string, perm fs.FileMode) error {
	if u.kinds[name] == layer.Directory {
		return nil
	}
	return u.replace(name, layer.Directory, func() error { return u.root.Mkdir(name, perm) })
}

func (u *unpacker) regular(name string, perm fs.FileMode, e *layer.Entry) error {
	return u.replace(name, layer.Regular, func() error {
		out, err := u.root.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_EXCL, perm)
		if err != nil {
			return err
		}
		if e.Content != nil {
			err = copyContent(out, e.Content)
		}
		return errors.Join(err, out.Close())
	})
}

func copyContent(w io.Writer, c layer.Content) error {
	in, err := c.Open()
	if err != nil {
		return err
	}
	defer in.Close()
	_, err = io.Copy(struct{ io.Writer }{w}, in)
	return err
}

func (u *unpacker) hardlink(name string, e *layer.Entry) error {
	target, err := u.rel(e.Link)
	if err != nil {
		return fmt.Errorf("hard link to %q: %w", e.Link, err)
	}
	if u.kinds[target] != layer.Regular || target == name {
		return fmt.Errorf("hard link to %q, which is no file before it", e.Link)
	}
	return u.replace(name, layer.Regular, func() error { return u.root.Link(target, name) })
}

// replace makes a file by f, in place of one that an earlier entry has made. A
// directory is not replaced.
func (u *unpacker) replace(name string, kind layer.Type, f func() error) error {
	switch old, ok := u.kinds[name]; {
	case old == layer.Directory:
		return errors.New("it replaces a directory")
	case ok:
		if err := u.root.Remove(name); err != nil {
			return err
		}
	}
	u.kinds[name] = kind
	return f()
}

package view

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"path"
	"slices"
	"strings"

	"bk.build/bk/layout/layer"
)

// grabMax is how many bytes of a file Cat holds, so that it need not read the
// layer again.
const grabMax = 8 << 20

// Cat writes the regular file at a path to w, as the image has it. Symbolic links
// are followed, with the image's root as theirs. Layers are read from the top
// down, and none below the one that decides; each is verified to its end before
// bytes of it are written, a large file is then read once more.
//
// What is not there is an error that satisfies errors.Is(err, fs.ErrNotExist) and
// names similar paths.
func (m *Image) Cat(ctx context.Context, name string, w io.Writer) error {
	c := &catter{m: m, ctx: ctx, stack: make([]*sheet, len(m.Manifest.Layers))}
	if err := c.cat(cleanPath(name), w); err != nil {
		return fmt.Errorf("cat %s of %s: %w", name, m.Descriptor.Digest, err)
	}
	return nil
}

// cleanPath makes a path relative to the root; it cannot climb above it.
func cleanPath(name string) string {
	if p := strings.TrimPrefix(path.Clean("/"+name), "/"); p != "" {
		return p
	}
	return "."
}

// catter looks for one file.
type catter struct {
	m      *Image
	ctx    context.Context // of Cat
	budget budget
	stack  []*sheet // layers; nil: not read
	want   string   // path whose content is held when a layer has it
}

// sheet is what a single layer says, without those below.
type sheet struct {
	list    *list
	tree    *tree
	gone    map[string]bool // whiteouts
	opaque  map[string]bool // directories whose lower content is hidden
	grabbed int             // entry whose content is held; -1: none
	content []byte
}

// found is where a path leads: a file of a layer.
type found struct {
	layer  int
	record int
	rec    *record
	path   string
}

func (c *catter) cat(p string, w io.Writer) error {
	f, err := c.resolve(p)
	if err != nil {
		return err
	}
	switch f.rec.typ {
	case layer.Regular:
	case layer.Directory:
		return errors.New("it is a directory; \"bk image export\" writes whole trees")
	default:
		return fmt.Errorf("it is no regular file but a %s", typeName(f.rec.typ))
	}
	s := c.stack[f.layer]
	switch {
	case f.rec.size == 0:
		return nil
	case s.grabbed == f.record:
		_, err = w.Write(s.content)
		return err
	}
	_, err = c.m.stream(c.ctx, f.layer, func(n int, e *layer.Entry) error {
		if n != f.record {
			return nil
		}
		if e.Content == nil || e.Size != f.rec.size {
			return layer.ErrChanged
		}
		return copyContent(w, e.Content)
	})
	return err
}

func copyContent(w io.Writer, content layer.Content) error {
	r, err := content.Open()
	if err != nil {
		return err
	}
	defer r.Close()
	_, err = io.Copy(w, r)
	return err
}

// resolve follows links until it comes to a file that is none.
func (c *catter) resolve(p string) (found, error) {
	top, links := len(c.stack)-1, 0
	for links <= maxLinks {
		// What ".." means is only known when the path before it is.
		before, after, up := cutUp(p)
		f, rest, err := c.lookup(before, top)
		if err != nil {
			return f, err
		}
		l := c.stack[f.layer].list
		switch f.rec.typ {
		case layer.Symlink:
			target := l.link(f.rec)
			if !strings.HasPrefix(target, "/") {
				target = path.Dir(f.path) + "/" + target
			}
			if up {
				rest += "/.."
			}
			p, top = target+"/"+rest+"/"+after, len(c.stack)-1
			links++
		case layer.Hardlink: // to a file of a layer below
			p, top = l.link(f.rec), f.layer
			links++
		default:
			if !up {
				return f, nil
			}
			if f.rec.typ != layer.Directory {
				return f, c.missing(before)
			}
			p = path.Dir(before) + "/" + after
		}
	}
	return found{}, fmt.Errorf("more than %d symbolic links", maxLinks)
}

// cutUp cuts a path around its first "..", and cleans what is before that. The
// root's parent is the root.
func cutUp(p string) (before, after string, up bool) {
	before = "."
	for p != "" {
		var part string
		part, p, _ = strings.Cut(p, "/")
		switch {
		case part == "" || part == ".":
		case part != "..":
			before = join(before, part)
		case before != ".":
			return before, p, true
		}
	}
	return before, "", false
}

// lookup finds a path in the layers from top downwards. When a part of it is a
// symbolic link, that is what it returns, with the rest of the path.
func (c *catter) lookup(p string, top int) (found, string, error) {
	c.want = p
	var parts []string
	if p != "." {
		parts = strings.Split(p, "/")
	}
	known := 0 // parts that layers above have as directories
	for i := top; i >= 0; i-- {
		s, err := c.sheet(i)
		if err != nil {
			return found{}, "", err
		}
		n, depth := s.deepest(parts)
		if typ := s.tree.rec(n).typ; depth < len(parts) && typ == layer.Directory {
			known = max(known, depth)
		} else if typ != layer.Directory && depth <= known || depth < len(parts) && typ != layer.Symlink {
			break // a directory above has replaced it, or it has nothing below
		} else {
			return s.found(i, n), strings.Join(parts[depth:], "/"), nil
		}
		if s.hides(parts) {
			break
		}
	}
	return found{}, "", c.missing(p)
}

// deepest follows parts as far as the layer has them, and returns how many.
func (s *sheet) deepest(parts []string) (node uint32, depth int) {
	for i, name := range parts {
		next := s.tree.child(node, name)
		if next == 0 || s.tree.nodes[next].inode == 0 {
			return node, i
		}
		node = next
		if s.tree.rec(node).typ != layer.Directory {
			return node, i + 1
		}
	}
	return node, len(parts)
}

// hides says whether the layer hides what those below have at a path.
func (s *sheet) hides(parts []string) bool {
	if s.opaque["."] {
		return true
	}
	for i := range parts {
		p := strings.Join(parts[:i+1], "/")
		if s.gone[p] || i+1 < len(parts) && s.opaque[p] {
			return true
		}
	}
	return false
}

func (s *sheet) found(i int, n uint32) found {
	in := s.tree.inodes[s.tree.nodes[n].inode]
	return found{layer: i, record: int(in.record), rec: s.tree.rec(n), path: s.tree.path(n)}
}

// sheet reads layer i, once.
func (c *catter) sheet(i int) (*sheet, error) {
	if c.stack[i] != nil {
		return c.stack[i], nil
	}
	s := &sheet{grabbed: -1, gone: map[string]bool{}, opaque: map[string]bool{}}
	var err error
	s.list, err = c.m.scanWith(c.ctx, i, &c.budget, false, func(n int, e *layer.Entry) error {
		if e.Path != c.want || e.Content == nil || e.Size > grabMax {
			return nil
		}
		var b bytes.Buffer
		if err := copyContent(&b, e.Content); err != nil {
			return err
		}
		s.grabbed, s.content = n, b.Bytes()
		return nil
	})
	if err != nil {
		return nil, err
	}
	if s.tree, err = single(s.list); err != nil {
		return nil, fmt.Errorf("layer %d: %w", i+1, err)
	}
	for n := range s.list.records {
		switch r := &s.list.records[n]; {
		case r.opaque:
			s.opaque[s.list.path(r)] = true
		case r.typ == layer.Whiteout:
			s.gone[s.list.path(r)] = true
		}
	}
	c.stack[i] = s
	return s, nil
}

// maxSimilar is how many similar paths an error names.
const maxSimilar = 3

// missing is the error for a path that is not there. Files of the same name are
// probably what was meant.
func (c *catter) missing(p string) error {
	var similar []string
	for _, s := range c.stack {
		if s == nil {
			continue
		}
		for n := range s.list.records {
			r := &s.list.records[n]
			if r.typ == layer.Whiteout || len(similar) == 100*maxSimilar {
				continue
			}
			if have := s.list.path(r); path.Base(have) == path.Base(p) && have != p {
				similar = append(similar, "/"+have)
			}
		}
	}
	slices.Sort(similar)
	similar = slices.Compact(similar)
	if len(similar) == 0 {
		return fs.ErrNotExist
	}
	return fmt.Errorf("%w; there is %s", fs.ErrNotExist, quoteList(similar[:min(len(similar), maxSimilar)]))
}

func quoteList(list []string) string {
	quoted := make([]string, len(list))
	for i, s := range list {
		quoted[i] = fmt.Sprintf("%q", s)
	}
	return strings.Join(quoted, ", ")
}

// typeName is what people call a type.
func typeName(t layer.Type) string {
	switch t {
	case layer.Regular:
		return "file"
	case layer.Hardlink:
		return "hard link"
	case layer.Symlink:
		return "symbolic link"
	case layer.Char:
		return "character device"
	case layer.Block:
		return "block device"
	case layer.Directory:
		return "directory"
	case layer.Fifo:
		return "fifo"
	}
	return "whiteout"
}

//go:build linux

package main

import (
	"archive/tar"
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"maps"
	"path"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"
)

// A tree is a flattened image: what a container would see. It is written from
// the image specification alone, and shares no code with bk.
type tree struct{ nodes map[string]*node }

// A node is a file; several paths have the same one when they are hard links.
type node struct {
	kind         byte // of archive/tar
	mode         int64
	uid, gid     int
	size         int64
	sum          [32]byte
	text         string // of a small text file, to show in differences
	link         string
	major, minor int64
	xattrs       map[string]string
	implied      bool // a parent that no layer names
}

// maxText is the size up to which files are kept to be shown.
const maxText = 4096

func newTree() *tree {
	return &tree{map[string]*node{".": {kind: tar.TypeDir, mode: 0o755, implied: true}}}
}

// apply puts a layer on top. Whiteouts hide what lower layers have, wherever
// they stand in the tar, so they are collected first and the layer's own
// entries are held back.
func (t *tree) apply(r io.Reader) error {
	upper := map[string]*node{}
	var order, removed, opaque []string
	for tr := tar.NewReader(r); ; {
		h, err := tr.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return err
		}
		name := path.Clean(strings.TrimPrefix(h.Name, "/"))
		dir, base := path.Split(name)
		if base == ".wh..wh..opq" {
			opaque = append(opaque, path.Clean(dir))
			continue
		}
		if gone, ok := strings.CutPrefix(base, ".wh."); ok {
			removed = append(removed, path.Join(dir, gone))
			continue
		}
		n, err := t.node(tr, h, upper)
		if err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
		if _, twice := upper[name]; !twice {
			order = append(order, name)
		}
		upper[name] = n
	}
	for _, p := range opaque {
		t.removeBelow(p)
	}
	for _, p := range removed {
		t.remove(p)
	}
	for _, p := range order {
		t.put(p, upper[p])
	}
	return nil
}

// node reads one entry.
func (t *tree) node(tr *tar.Reader, h *tar.Header, upper map[string]*node) (*node, error) {
	if h.Typeflag == tar.TypeLink {
		target := path.Clean(strings.TrimPrefix(h.Linkname, "/"))
		if n := upper[target]; n != nil {
			return n, nil
		}
		if n := t.nodes[target]; n != nil {
			return n, nil
		}
		return nil, fmt.Errorf("hard link to %s, which is not there", target)
	}
	n := &node{kind: h.Typeflag, mode: h.Mode & 0o7777, uid: h.Uid, gid: h.Gid, size: h.Size, xattrs: map[string]string{}}
	switch h.Typeflag {
	case tar.TypeSymlink:
		n.link, n.mode = h.Linkname, 0o777
	case tar.TypeChar, tar.TypeBlock:
		n.major, n.minor = h.Devmajor, h.Devminor
	case tar.TypeReg:
		sum, head := sha256.New(), &bytes.Buffer{}
		if _, err := io.CopyN(head, tr, min(h.Size, maxText)); err != nil {
			return nil, err
		}
		if h.Size < maxText && utf8.Valid(head.Bytes()) {
			n.text = head.String()
		}
		if _, err := io.Copy(sum, io.MultiReader(head, tr)); err != nil {
			return nil, err
		}
		sum.Sum(n.sum[:0])
	}
	for k, v := range h.PAXRecords {
		if name, ok := strings.CutPrefix(k, "SCHILY.xattr."); ok {
			n.xattrs[name] = v
		}
	}
	return n, nil
}

func (t *tree) put(p string, n *node) {
	if p == "." {
		t.nodes["."] = n
		return
	}
	t.parents(path.Dir(p))
	if n.kind != tar.TypeDir {
		t.remove(p)
	} else if old := t.nodes[p]; old != nil && old.kind != tar.TypeDir {
		delete(t.nodes, p)
	}
	t.nodes[p] = n
}

func (t *tree) parents(p string) {
	if p == "." {
		return
	}
	if old := t.nodes[p]; old == nil || old.kind != tar.TypeDir {
		t.parents(path.Dir(p))
		t.nodes[p] = &node{kind: tar.TypeDir, mode: 0o755, implied: true}
	}
}

func (t *tree) remove(p string) {
	delete(t.nodes, p)
	t.removeBelow(p)
}

func (t *tree) removeBelow(p string) {
	for q := range t.nodes {
		if q != "." && (p == "." || strings.HasPrefix(q, p+"/")) {
			delete(t.nodes, q)
		}
	}
}

// A content names files by their content: the digest of a file of a base image
// becomes its path there, so that descriptions outlive the base's next release.
type content map[[32]byte]string

// lines describes every path in one line.
func (t *tree) lines(known content) map[string]string {
	links := map[*node][]string{}
	for _, p := range slices.Sorted(maps.Keys(t.nodes)) {
		links[t.nodes[p]] = append(links[t.nodes[p]], p)
	}
	lines := map[string]string{}
	for p, n := range t.nodes {
		s := fmt.Sprintf("%c %04o %d:%d", kind(n.kind), n.mode, n.uid, n.gid)
		switch n.kind {
		case tar.TypeReg:
			if from, ok := known[n.sum]; ok && n.size > maxText {
				s += " as " + from
			} else {
				s += fmt.Sprintf(" %d bytes %x", n.size, n.sum[:6])
			}
		case tar.TypeSymlink:
			s += fmt.Sprintf(" -> %q", n.link)
		case tar.TypeChar, tar.TypeBlock:
			s += fmt.Sprintf(" %d,%d", n.major, n.minor)
		}
		for _, k := range slices.Sorted(maps.Keys(n.xattrs)) {
			s += fmt.Sprintf(" %s=%q", k, n.xattrs[k])
		}
		if same := links[n]; len(same) > 1 {
			s += fmt.Sprintf(" linked with %q", same[0])
		}
		lines[printable(p)] = s
	}
	return lines
}

// printable returns a path as it is when JSON can hold it, else quoted.
func printable(p string) string {
	if utf8.ValidString(p) {
		return p
	}
	return strconv.Quote(p)
}

// kind is the letter of ls -l.
func kind(t byte) byte {
	switch t {
	case tar.TypeDir:
		return 'd'
	case tar.TypeReg:
		return '-'
	case tar.TypeSymlink:
		return 'l'
	case tar.TypeChar:
		return 'c'
	case tar.TypeBlock:
		return 'b'
	case tar.TypeFifo:
		return 'p'
	}
	return '?'
}

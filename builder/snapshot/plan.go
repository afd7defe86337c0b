package snapshot

import (
	"fmt"
	"slices"
	"strings"

	"bk.build/bk/layout/layer"
)

// PlanLayer returns the layer of planned entries, which exist in memory only;
// their contents are opened when somebody reads them. Directories on the way
// to an entry that are no entries themselves are as in the layers below. The
// entries must be of one layer, a hard link after its target.
func PlanLayer(entries layer.Entries) (Layer, error) {
	p := &plan{root: &planNode{found: implied(".")}}
	for ent, err := range entries {
		if err != nil {
			return Layer{}, err
		}
		if err := p.add(ent); err != nil {
			return Layer{}, err
		}
	}
	return Layer{p}, nil
}

// plan is the source of planned entries.
type plan struct{ root *planNode }

type planNode struct {
	found
	kids map[string]*planNode
}

// implied is a directory on the way to an entry. Its attributes count when no
// lower layer has it.
func implied(p string) found {
	ent := emptyRoot()
	ent.Path = p
	return found{ent: ent, implied: true}
}

func (p *plan) add(ent *layer.Entry) error {
	n, err := p.make(ent.Path)
	if err != nil {
		return err
	}
	if ent.Type != layer.Hardlink {
		n.found = found{ent: ent}
		return nil
	}
	target := p.find(ent.Link)
	if target == nil || target.implied || target.ent.Type == layer.Directory || target.ent.Type == layer.Whiteout {
		return fmt.Errorf("hard link %s: %s is no earlier file of the layer", display(ent.Path), display(ent.Link))
	}
	if target.ino == nil && target.ent.Type == layer.Regular {
		target.ino = target.ent
	}
	e := *target.ent
	e.Path = ent.Path
	n.found = found{ent: &e, ino: target.ino}
	return nil
}

// make returns the node at a path, made with its parents when missing.
func (p *plan) make(at string) (*planNode, error) {
	if at == "." {
		return p.root, nil
	}
	if at != clean(at) {
		return nil, fmt.Errorf("entry %q: the path is not clean", at)
	}
	n := p.root
	for end := 0; end < len(at); end++ {
		name, _, _ := strings.Cut(at[end:], "/")
		end += len(name)
		k := n.kids[name]
		if k == nil {
			k = &planNode{found: implied(at[:end])}
			if n.kids == nil {
				n.kids = map[string]*planNode{}
			}
			n.kids[name] = k
		}
		n = k
	}
	return n, nil
}

func (p *plan) find(at string) *planNode {
	n := p.root
	for name := range strings.SplitSeq(at, "/") {
		if name == "." || n == nil {
			continue
		}
		n = n.kids[name]
	}
	return n
}

// open implements source.
func (p *plan) open(dir string) (dirReader, error) {
	n := p.find(dir)
	if n == nil {
		return nil, notExist("open", dir)
	}
	return n, nil
}

func (n *planNode) names() ([]string, error) {
	names := make([]string, 0, len(n.kids))
	for name := range n.kids {
		names = append(names, name)
	}
	slices.Sort(names)
	return names, nil
}

func (n *planNode) stat(name string) (found, error) {
	if name == "." {
		return n.found, nil
	}
	k := n.kids[name]
	if k == nil {
		return found{}, notExist("lstat", name)
	}
	return k.found, nil
}

func (n *planNode) close() {}

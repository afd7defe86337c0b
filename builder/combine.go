package builder

import (
	"sync"

	"github.com/moby/buildkit/solver/pb"

	"bk.build/bk/builder/cache"
	"bk.build/bk/builder/snapshot"
	"bk.build/bk/layout/layer"
)

// mergeOp stacks the layers of its inputs; nothing is copied.
type mergeOp struct{ op *pb.MergeOp }

func (o mergeOp) key(n *node, h cache.Hasher) error {
	if err := n.inputKeys(); err != nil {
		return err
	}
	for _, in := range o.op.Inputs {
		if err := n.inputKey(h, "merged tree", in.Input); err != nil {
			return err
		}
	}
	return nil
}

func (o mergeOp) run(n *node) ([]*Tree, bool, error) {
	trees, err := n.trees()
	if err != nil {
		return nil, false, err
	}
	var all []*Layer
	for _, in := range o.op.Inputs {
		if in.Input < 0 {
			continue
		}
		list, err := trees[in.Input].stack(n.b.ctx)
		if err != nil {
			return nil, false, err
		}
		all = append(all, list...)
	}
	return []*Tree{layersTree(all)}, true, nil
}

// trees returns all inputs' trees, computed side by side.
func (n *node) trees() ([]*Tree, error) {
	trees := make([]*Tree, len(n.v.Inputs))
	errs := make([]error, len(n.v.Inputs))
	var wg sync.WaitGroup
	for i := range n.v.Inputs {
		wg.Go(func() { trees[i], errs[i] = n.tree(int64(i)) })
	}
	wg.Wait()
	return trees, firstError(errs)
}

// diffOp is what the upper tree has beyond the lower one.
type diffOp struct{ op *pb.DiffOp }

func (o diffOp) key(n *node, h cache.Hasher) error {
	if err := n.inputKeys(); err != nil {
		return err
	}
	if err := n.inputKey(h, "lower tree", o.op.Lower.Input); err != nil {
		return err
	}
	return n.inputKey(h, "upper tree", o.op.Upper.Input)
}

func (o diffOp) run(n *node) ([]*Tree, bool, error) {
	if _, err := n.trees(); err != nil {
		return nil, false, err
	}
	lower, err := n.tree(o.op.Lower.Input)
	if err != nil {
		return nil, false, err
	}
	upper, err := n.tree(o.op.Upper.Input)
	if err != nil {
		return nil, false, err
	}
	low, err := lower.stack(n.b.ctx)
	if err != nil {
		return nil, false, err
	}
	up, err := upper.stack(n.b.ctx)
	if err != nil {
		return nil, false, err
	}
	if rest, ok := beyond(low, up); ok {
		return []*Tree{layersTree(rest)}, true, nil
	}
	h := cache.NewHasher("diff.v1")
	for _, list := range [][]*Layer{low, up} {
		h.Int(len(list))
		for _, l := range list {
			h.String(l.id)
		}
	}
	made := n.b.layers.made(h.Sum().String(), func() (layer.Entries, error) {
		lowFS, err := lower.FS(n.b.ctx)
		if err != nil {
			return nil, err
		}
		upFS, err := upper.FS(n.b.ctx)
		if err != nil {
			return nil, err
		}
		list, err := collect(snapshot.Diff(lowFS, upFS))
		return stream(list), err
	})
	return n.made(made, nil)
}

// beyond returns what up has above low, when low is where up starts.
func beyond(low, up []*Layer) ([]*Layer, bool) {
	if len(low) > len(up) {
		return nil, false
	}
	for i := range low {
		if low[i] != up[i] {
			return nil, false
		}
	}
	return up[len(low):], true
}

// made returns the tree of a layer that the node plans on top of others. The
// plan is made now, unless the store has the layer.
func (n *node) made(l *Layer, below []*Layer) ([]*Tree, bool, error) {
	t := layersTree(append(below[:len(below):len(below)], l))
	if !n.v.IgnoreCache && l.known() {
		return []*Tree{t}, true, nil
	}
	err := n.run(func() error {
		_, err := l.entries()
		l.ran = err == nil
		return err
	})
	return []*Tree{t}, false, err
}

// passthroughOp hands inputs on.
type passthroughOp struct{ op *pb.PassthroughOp }

func (o passthroughOp) key(n *node, h cache.Hasher) error {
	if err := n.inputKeys(); err != nil {
		return err
	}
	for _, i := range o.op.Outputs {
		if err := n.inputKey(h, "tree", i); err != nil {
			return err
		}
	}
	return nil
}

func (o passthroughOp) run(n *node) ([]*Tree, bool, error) {
	trees, err := n.trees()
	if err != nil {
		return nil, false, err
	}
	outs := make([]*Tree, len(o.op.Outputs))
	for i, in := range o.op.Outputs {
		outs[i] = trees[in]
	}
	return outs, true, nil
}

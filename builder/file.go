package builder

import (
	"context"
	"path"
	"slices"
	"strings"
	"sync"

	"github.com/containerd/platforms"
	"github.com/moby/buildkit/solver/pb"

	"bk.build/bk/builder/cache"
	"bk.build/bk/builder/graph"
	"bk.build/bk/builder/snapshot"
	"bk.build/bk/layout/layer"
)

// fileOp changes trees: COPY, ADD, WORKDIR and their kind. Nothing is run: the
// result is planned from what the inputs hold, and no byte is copied until
// somebody needs one of the new layer's forms.
type fileOp struct{ op *pb.FileOp }

func (o fileOp) key(n *node, h cache.Hasher) error {
	// All inputs are needed in any case: what is changed and what is read are
	// made side by side, so that the stages that a chain of copies reads from
	// don't wait for each other.
	n.b.ahead(n.v.Inputs)
	parts := make([]func(cache.Hasher) error, 0, len(o.op.Actions))
	for _, a := range o.op.Actions {
		parts = append(parts, o.actionKey(n, a))
	}
	errs := make([]error, len(parts))
	keys := make([]cache.Key, len(parts))
	var wg sync.WaitGroup
	for i, part := range parts {
		wg.Go(func() {
			ph := cache.NewHasher("action")
			errs[i] = part(ph)
			keys[i] = ph.Sum()
		})
	}
	wg.Wait()
	for _, k := range keys {
		h.Key(k)
	}
	return firstError(errs)
}

// ahead starts to compute results that will be needed; errors come to those
// who ask for them.
func (b *build) ahead(edges []graph.Edge) {
	for _, e := range edges {
		if e.Vertex != nil {
			b.packing.Go(func() { _, _ = b.node(e.Vertex).result() })
		}
	}
}

// actionKey returns the digest of one action: of its parameters, and of its
// inputs, by content as far as it only reads them.
func (o fileOp) actionKey(n *node, a *pb.FileAction) func(cache.Hasher) error {
	inputs := int64(len(n.v.Inputs))
	return func(h cache.Hasher) error {
		for _, i := range []int64{a.Input, a.SecondaryInput, a.Output} {
			h.Int(int(i))
		}
		if a.Input >= 0 && a.Input < inputs {
			if err := n.inputKey(h, "base", a.Input); err != nil {
				return err
			}
		}
		if err := o.ownerKey(n, h, graph.Owner(a)); err != nil {
			return err
		}
		c, ok := a.Action.(*pb.FileAction_Copy)
		if !ok {
			dt, err := a.MarshalVT()
			h.Bytes(dt)
			return err
		}
		// Where the files come from doesn't matter, only which they are.
		params := a.CloneVT()
		cp := params.Action.(*pb.FileAction_Copy).Copy
		cp.Src = path.Base(cp.Src)
		dt, err := params.MarshalVT()
		if err != nil {
			return err
		}
		h.Bytes(dt)
		if a.SecondaryInput < 0 || a.SecondaryInput >= inputs {
			return nil
		}
		return o.copyKey(n, h, a, c.Copy)
	}
}

// copyKey adds the content that a copy reads from an input.
func (o fileOp) copyKey(n *node, h cache.Hasher, a *pb.FileAction, c *pb.FileActionCopy) error {
	sel := c.CloneVT()
	sel.Dest, sel.Owner, sel.Mode, sel.ModeStr, sel.Timestamp = "", nil, -1, "", -1
	dt, err := sel.MarshalVT()
	if err != nil {
		return err
	}
	dgst, err := n.contentKey(a.SecondaryInput, "copy", dt, literal(c.Src), func(ctx context.Context, fs snapshot.FS) (string, error) {
		return digested(snapshot.CopyDigest(ctx, fs, c))
	})
	if err != nil {
		return err
	}
	h.String(dgst)
	n.note("files "+c.Src, dgst)
	return nil
}

// literal returns the part of a source path in front of its first wildcard.
func literal(src string) string {
	i := strings.IndexAny(src, `*?[\`)
	if i < 0 {
		return src
	}
	return src[:strings.LastIndex(src[:i], "/")+1]
}

// digested returns a part of a tree as its digest.
func digested(d *snapshot.Digested, err error) (string, error) {
	if err != nil {
		return "", err
	}
	return d.Digest.String(), nil
}

// ownerKey adds the files that names of owners are looked up in.
func (o fileOp) ownerKey(n *node, h cache.Hasher, own *pb.ChownOpt) error {
	for _, u := range []struct {
		opt  *pb.UserOpt
		file string
	}{{own.GetUser(), "etc/passwd"}, {own.GetGroup(), "etc/group"}} {
		by, ok := u.opt.GetUser().(*pb.UserOpt_ByName)
		if !ok || by.ByName.Input >= int64(len(n.v.Inputs)) {
			continue
		}
		if err := n.inputKey(h, "owner", by.ByName.Input); err != nil {
			return err
		}
	}
	return nil
}

// contentKey returns the digest of a part of an input's content. For trees of
// layers it is computed once and then remembered: a chain of hits reads no
// files.
//
// It lies below a path, which is what is read of a local directory.
func (n *node) contentKey(input int64, kind string, selector []byte, at string, compute func(context.Context, snapshot.FS) (string, error)) (string, error) {
	t, err := n.tree(input)
	if err != nil {
		return "", err
	}
	sub := cache.NewHasher("content." + kind + ".v1")
	sub.Bytes(selector)
	remember := t != nil && t.local == nil
	if remember {
		ids, err := t.ids(n.b.ctx)
		if err != nil {
			return "", err
		}
		for _, id := range ids {
			sub.String(id)
		}
		if v, ok := n.b.cache.Value(sub.Sum()); ok {
			return v, nil
		}
	}
	fs, err := t.FS(n.b.ctx)
	if err != nil {
		return "", err
	}
	if t != nil && t.local != nil {
		if err := t.scan(n.b.ctx, at); err != nil {
			return "", err
		}
	}
	v, err := compute(n.b.ctx, fs)
	if err != nil || !remember {
		return v, err
	}
	return v, n.b.cache.PutValue(sub.Sum(), v)
}

// chain is a tree that actions change one after the other.
type chain struct {
	base   *Tree
	editor *snapshot.Editor
}

func (o fileOp) run(n *node) ([]*Tree, bool, error) {
	k, err := n.key()
	if err != nil {
		return nil, false, err
	}
	trees, err := n.trees()
	if err != nil {
		return nil, false, err
	}
	if i, ok := o.linear(n); ok {
		var base *Tree
		if i >= 0 {
			base = trees[i]
		}
		return o.runLinear(n, k, base)
	}
	return o.runBranches(n, k, trees)
}

// linear reports whether all actions change one tree in turn and only the last
// is an output: then the layer's identity is known before anything is read.
func (o fileOp) linear(n *node) (base int64, ok bool) {
	inputs := int64(len(n.v.Inputs))
	for i, a := range o.op.Actions {
		last := i == len(o.op.Actions)-1
		if (a.Output >= 0) != last || (last && a.Output != 0) || a.SecondaryInput >= inputs {
			return 0, false
		}
		switch {
		case i == 0 && a.Input < inputs:
			base = a.Input
		case i > 0 && a.Input == inputs+int64(i)-1:
		default:
			return 0, false
		}
	}
	return base, true
}

func (o fileOp) runLinear(n *node, k cache.Key, base *Tree) ([]*Tree, bool, error) {
	below, err := base.stack(n.b.ctx)
	if err != nil {
		return nil, false, err
	}
	made := n.b.layers.made(n.layerID(k, 0, below), func() (layer.Entries, error) {
		outs, err := o.edit(n)
		if err != nil {
			return nil, err
		}
		return outs[0].editor.Layer()
	})
	made.lineage = n.v.Name + "\x00" + platforms.FormatAll(wanted(platformOf(n.v.Op)))
	return n.made(made, below)
}

// layerID names the layer that a deterministic operation puts on others.
func (n *node) layerID(k cache.Key, output int, below []*Layer) string {
	h := cache.NewHasher("made.v1")
	h.Key(k)
	h.Int(output)
	for _, l := range below {
		h.String(l.id)
	}
	if n.v.IgnoreCache {
		h.String(randomID())
	}
	return h.Sum().String()
}

// runBranches runs actions that have several outputs, or that read each other.
func (o fileOp) runBranches(n *node, k cache.Key, trees []*Tree) ([]*Tree, bool, error) {
	var outs []*Tree
	err := n.run(func() error {
		edited, err := o.edit(n)
		if err != nil {
			return err
		}
		for i, c := range edited {
			if c == nil {
				outs = append(outs, nil)
				continue
			}
			below, err := c.base.stack(n.b.ctx)
			if err != nil {
				return err
			}
			l := n.b.layers.made(n.layerID(k, i, below), c.editor.Layer)
			outs = append(outs, layersTree(append(below[:len(below):len(below)], l)))
		}
		return nil
	})
	return outs, false, err
}

// edit runs the actions and returns the chains that are outputs, by index.
func (o fileOp) edit(n *node) ([]*chain, error) {
	ed := edition{n: n, inputs: int64(len(n.v.Inputs))}
	var outs []*chain
	for i, a := range o.op.Actions {
		c, err := ed.step(i, a)
		if err != nil {
			return nil, err
		}
		ed.done = append(ed.done, c)
		if a.Output >= 0 {
			for int64(len(outs)) <= a.Output {
				outs = append(outs, nil)
			}
			outs[a.Output] = c
		}
	}
	return outs, nil
}

// edition is a run of a file operation's actions.
type edition struct {
	n      *node
	inputs int64
	done   []*chain // by action
}

// fs returns what an index of an action refers to: an input, or the state
// after an earlier action.
func (ed *edition) fs(i int64) (snapshot.FS, error) {
	if i >= ed.inputs {
		return ed.done[i-ed.inputs].editor, nil
	}
	t, err := ed.n.tree(i)
	if err != nil {
		return nil, err
	}
	return t.FS(ed.n.b.ctx)
}

// target returns the chain that an action goes on with. An earlier action's
// chain is continued in place when nothing else needs its state.
func (ed *edition) target(i int, a *pb.FileAction) (*chain, error) {
	if a.Input < ed.inputs {
		t, err := ed.n.tree(a.Input)
		if err != nil {
			return nil, err
		}
		base, err := t.FS(ed.n.b.ctx)
		if err != nil {
			return nil, err
		}
		e := snapshot.NewEditor(base)
		if ed.unpacks() {
			e.Temp, err = ed.n.b.tmp.mkdir("archive")
		}
		return &chain{base: t, editor: e}, err
	}
	prev := ed.done[a.Input-ed.inputs]
	if !ed.shared(i, a.Input) {
		return prev, nil
	}
	return &chain{base: prev.base, editor: prev.editor.Clone()}, nil
}

// unpacks reports whether an action may unpack archives.
func (ed *edition) unpacks() bool {
	return slices.ContainsFunc(ed.n.v.Op.GetFile().Actions, func(a *pb.FileAction) bool {
		return a.GetCopy().GetAttemptUnpackDockerCompatibility()
	})
}

// shared reports whether anything but action i uses the state of an action.
func (ed *edition) shared(i int, state int64) bool {
	f := ed.n.v.Op.GetFile()
	if f.Actions[state-ed.inputs].Output >= 0 {
		return true
	}
	for j, a := range f.Actions {
		if j != i && (a.Input == state || a.SecondaryInput == state) {
			return true
		}
	}
	return f.Actions[i].SecondaryInput == state
}

func (ed *edition) step(i int, a *pb.FileAction) (*chain, error) {
	c, err := ed.target(i, a)
	if err != nil {
		return nil, err
	}
	owner, err := ed.owner(graph.Owner(a))
	if err != nil {
		return nil, err
	}
	switch act := a.Action.(type) {
	case *pb.FileAction_Mkdir:
		err = c.editor.Mkdir(act.Mkdir, owner)
	case *pb.FileAction_Mkfile:
		err = c.editor.Mkfile(act.Mkfile, owner)
	case *pb.FileAction_Symlink:
		err = c.editor.Symlink(act.Symlink, owner)
	case *pb.FileAction_Rm:
		err = c.editor.Rm(act.Rm)
	case *pb.FileAction_Copy:
		var src snapshot.FS
		if src, err = ed.fs(a.SecondaryInput); err == nil {
			err = c.editor.Copy(ed.n.b.ctx, src, act.Copy, owner)
		}
	}
	return c, err
}

// owner resolves names in the trees that the option names.
func (ed *edition) owner(opt *pb.ChownOpt) (*snapshot.Owner, error) {
	if opt == nil {
		return nil, nil
	}
	passwd, err := ed.ownerFS(opt.User)
	if err != nil {
		return nil, err
	}
	group, err := ed.ownerFS(opt.Group)
	if err != nil {
		return nil, err
	}
	return snapshot.LookupOwner(opt, passwd, group)
}

// ownerFS returns the tree that a name is looked up in; nil for a number.
func (ed *edition) ownerFS(opt *pb.UserOpt) (snapshot.FS, error) {
	if by, ok := opt.GetUser().(*pb.UserOpt_ByName); ok {
		return ed.fs(by.ByName.Input)
	}
	return nil, nil
}
